import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from training_core.data.sources import open_array, open_table
from training_core.errors import DataError


def save(path, values: np.ndarray, **settings) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **settings)


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape).astype(np.uint8)


def test_grey_images_have_one_channel_and_come_in_the_order_of_their_numbers(tmp_path):
    images = {name: drawn(4, 6, i + 1)[:, :, i] for i, name in enumerate(["2.png", "10.png", "1.bmp"])}
    for name, values in images.items():
        save(tmp_path / "f" / name, values)
    (tmp_path / "f" / "labels.csv").write_text("x")
    (tmp_path / "f" / "._2.png").write_text("what a Mac leaves behind")
    source = open_array(tmp_path / "f", None, tmp_path)
    assert (source.shape, source.dtype) == ((3, 1, 4, 6), np.uint8)
    expected = np.stack([images["1.bmp"], images["2.png"], images["10.png"]])[:, None]
    assert (source.take(slice(None)) == expected).all()
    taken = source.take(np.asarray([2, -1, 0, 2]))
    assert (taken[[0, 2, 3]] == expected[[2, 0, 2]]).all()
    assert not taken[1].any()


def test_one_image_in_colour_makes_all_of_them_so(tmp_path):
    save(tmp_path / "f" / "a.png", drawn(4, 6))
    save(tmp_path / "f" / "b.png", drawn(4, 6, 3))
    save(tmp_path / "f" / "c.png", drawn(4, 6, 4))
    source = open_array(tmp_path / "f", None, tmp_path)
    assert source.shape == (3, 3, 4, 6)
    whole = source.take(slice(None))
    assert (whole[0] == drawn(4, 6)).all()
    assert (whole[1] == drawn(4, 6, 3).transpose(2, 0, 1)).all()
    assert (whole[2] == drawn(4, 6, 4)[..., :3].transpose(2, 0, 1)).all()


def test_sizes_have_to_be_the_same_or_are_made_so(tmp_path):
    save(tmp_path / "f" / "a.png", drawn(4, 6))
    save(tmp_path / "f" / "b.png", drawn(6, 4))
    with pytest.raises(DataError, match=r"f/b.png is 6 × 4 pixels .*, a.png is 4 × 6; .* `size: \[height, width\]`"):
        open_array(tmp_path / "f", None, tmp_path)
    assert open_array(tmp_path / "f", None, tmp_path, size=(3, 5)).take(slice(None)).shape == (2, 1, 3, 5)


def test_a_photo_stands_upright(tmp_path):
    values = np.zeros((8, 16), np.uint8)
    values[:, 8:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera turned
    save(tmp_path / "f" / "a.jpg", values, exif=exif, quality=95)
    source = open_array(tmp_path / "f", None, tmp_path)
    assert source.shape == (1, 1, 16, 8)
    upright = source.take(slice(None))[0, 0]
    assert upright[:6].max() < 50
    assert upright[10:].min() > 200


def test_a_folder_is_a_table_of_its_images_too(tmp_path):
    for name in ("cat/1.png", "dog/x/2.png", "3.jpeg"):
        save(tmp_path / "f" / name, drawn(2, 2))
    table = open_table(tmp_path / "f", tmp_path, ["id"])
    assert table.take(["file", "id", "folder"], slice(None)).to_pylist() == [
        {"file": "3.jpeg", "id": "3", "folder": ""},
        {"file": "cat/1.png", "id": "cat/1", "folder": "cat"},
        {"file": "dog/x/2.png", "id": "dog/x/2", "folder": "dog"},
    ]
    with pytest.raises(DataError, match=r"no column 'label'; it has file, id, folder"):
        open_table(tmp_path / "f", tmp_path, ["label"])


def bomb(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(10_000, 10_000), (30_000, 30_000), (60_000, 60_000)])
def test_an_image_with_too_many_pixels_is_never_decoded(tmp_path, size):
    save(tmp_path / "f" / "a.png", drawn(2, 2))
    (tmp_path / "f" / "b.png").write_bytes(bomb(*size))
    with pytest.raises(DataError, match=r"f/b\.png has .* pixels"):
        open_array(tmp_path / "f", None, tmp_path)


def test_a_damaged_image_is_named(tmp_path):
    for i in range(3):
        save(tmp_path / "f" / f"{i}.png", drawn(40, 40))
    whole = (tmp_path / "f" / "1.png").read_bytes()
    (tmp_path / "f" / "1.png").write_bytes(whole[: len(whole) // 2])
    source = open_array(tmp_path / "f", None, tmp_path)
    with pytest.raises(DataError, match=r"f/1\.png cannot be read as an image"):
        source.take(slice(None))
    (tmp_path / "f" / "1.png").write_text("%!PS-Adobe a program")
    with pytest.raises(DataError, match=r"f/1\.png cannot be read as an image"):
        open_array(tmp_path / "f", None, tmp_path)


def test_images_of_16_bits_are_refused_not_cut(tmp_path):
    save(tmp_path / "f" / "a.png", drawn(4, 4).astype(np.uint16) * 200)
    with pytest.raises(DataError, match=r"a\.png has more than 8 bits per channel"):
        open_array(tmp_path / "f", None, tmp_path)


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "f").mkdir()
    for read in (lambda: open_array(tmp_path / "f", None, tmp_path), lambda: open_table(tmp_path / "f", tmp_path)):
        with pytest.raises(DataError, match="a folder without images"):
            read()
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"is no folder; a file has to end in one of \.npy"):
        open_array(tmp_path / "file", None, tmp_path)
