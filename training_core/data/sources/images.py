"""Folders of image files: as an array of pixels, or as a table of their names."""

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from training_core.data.sources.parquet import natural_order
from training_core.data.sources.protocols import Place, unreadable
from training_core.data.sources.tables import BatchedTable
from training_core.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
MAX_PIXELS = 1 << 27
"""More in one image is taken for an attack: 134 million, 400 MB once decoded."""

_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")  # others may start programs, as EPS does
_GREY = {"1", "L", "LA"}
_ORIENTED = {"JPEG", "MPO", "TIFF", "WEBP"}  # of what cameras write; a PNG would have to be decoded to find out
_ROTATED = {5, 6, 7, 8}  # EXIF orientations that swap height and width


class ImageFolder:
    """The images below a folder, in the order of their names (`2.png` before `10.png`), decoded when asked for.

    Pixels are uint8 [N, C, H, W], C being 1 when all images are grey and 3 otherwise; transparency is dropped, a
    camera's orientation is applied, and of an animation the first frame counts. Hidden files and files that are no
    images by name are passed over.

    Args:
        place: the folder.
        size: height and width to resize to; by default all images have to be of one size.

    Raises:
        DataError: there are no images, one cannot be read or has too many pixels or more than 8 bits per channel, or
            sizes differ.
    """

    keys = ()
    dtype = np.dtype(np.uint8)
    present = None

    def __init__(self, place: Place, size: tuple[int, int] | None = None) -> None:
        self._place, self._size = place, size
        self.files = image_files(place)
        grey, first = True, None
        for file in self.files:
            with _opened(place, file) as image:
                grey = grey and is_grey(image)
                found = image_size(image)
            first = first or found
            if size is None and found != first:
                raise DataError(
                    f"{place}/{file} is {found[0]} × {found[1]} pixels (height × width), {self.files[0]} is "
                    f"{first[0]} × {first[1]}; give all one size with `size: [height, width]`"
                )
        height, width = size or first or (0, 0)
        self._mode = "L" if grey else "RGB"
        self.shape = (len(self.files), 1 if grey else 3, height, width)

    def take(self, rows: slice | np.ndarray) -> np.ndarray:
        """Any images; see `ArraySource.take`."""
        wanted = np.arange(len(self.files))[rows] if isinstance(rows, slice) else np.asarray(rows, np.int64)
        if len(wanted) and (wanted.max() >= len(self.files) or wanted.min() < -1):
            raise IndexError(f"{self._place} has {len(self.files)} images, {wanted.max()} is wanted")
        taken = np.zeros((len(wanted), *self.shape[1:]), np.uint8)
        for i, row in enumerate(wanted.tolist()):
            if row >= 0:
                with _opened(self._place, self.files[row]) as image:
                    taken[i] = pixels(image, self._mode, self._size)
        return taken

    def array(self, key: str) -> "ImageFolder":
        """Itself: the folder holds one array without a name."""
        return self

    def labels(self, key: str) -> np.ndarray:
        """The folder holds no array of names; see `names` instead."""
        raise DataError(f"{self._place} is a folder of images and holds no array '{key}'")


class ImageTable(BatchedTable):
    """The images of a folder as a table: `file` (path in the folder), `id` (that without ending), `folder`.

    `folder` is the first part of the path, "" for a file in the folder itself.

    Raises:
        DataError: the folder holds no images.
    """

    def __init__(self, place: Place) -> None:
        import pyarrow as pa

        self.files = image_files(place)
        columns = {
            "file": self.files,
            "id": [file[: -len(Path(file).suffix)] for file in self.files],
            "folder": [file.partition("/")[0] if "/" in file else "" for file in self.files],
        }
        batch = pa.record_batch({name: pa.array(cells, pa.string()) for name, cells in columns.items()})
        super().__init__(str(place), batch.schema, [batch.num_rows], lambda _: batch)


def image_files(place: Place) -> list[str]:
    """Paths of the images below a folder, relative to it, in the order of their names.

    Raises:
        DataError: there are none.
    """
    found = [path.relative_to(place.path) for path in place.path.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES]
    visible = [path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts)]
    files = [file for file in visible if (place.path / file).is_file()]
    if not files:
        raise DataError(f"{place} is a folder without images; expected files ending in {', '.join(IMAGE_SUFFIXES)}")
    return sorted(files, key=natural_order)


def pixels(image: "Image.Image", mode: str, size: tuple[int, int] | None) -> np.ndarray:
    """A decoded image as uint8 [C, H, W], C being 1 for mode "L" and 3 for "RGB"; resized (bilinear) to `size`."""
    from PIL import Image, ImageOps

    upright = (ImageOps.exif_transpose(image) if image.format in _ORIENTED else image).convert(mode)
    if size and upright.size != (size[1], size[0]):
        upright = upright.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    values = np.asarray(upright, np.uint8)
    return values[None] if values.ndim == 2 else values.transpose(2, 0, 1)


@contextmanager
def opened_image(name: str, data: Any) -> "Iterator[Image.Image]":
    """An image in a file (or in a stream of bytes), checked but not decoded yet.

    Raises:
        DataError: it cannot be read or decoded, has too many pixels, or more than 8 bits per channel.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(data, formats=_FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise DataError(
                        f"{name} has {image.width} × {image.height} pixels, too many to be one of the images"
                    )
                if image.mode.startswith(("I", "F")):
                    raise DataError(f"{name} has more than 8 bits per channel; save it with 8, or give an array file")
                yield image
    except DataError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise DataError(f"{name} has far more pixels than an image of this kind should; it is not decoded") from None
    except Exception as error:  # whatever a damaged file makes a decoder raise
        raise unreadable(name, "an image", error) from None


def image_size(image: "Image.Image") -> tuple[int, int]:
    """Height and width once the camera's orientation is applied."""
    swapped = image.format in _ORIENTED and image.getexif().get(0x0112) in _ROTATED
    return (image.width, image.height) if swapped else (image.height, image.width)


def is_grey(image: "Image.Image") -> bool:
    """Whether an image has no colours by its kind."""
    return image.mode in _GREY


def _opened(place: Place, file: str) -> "AbstractContextManager[Image.Image]":
    return opened_image(f"{place}/{file}", place.path / file)
