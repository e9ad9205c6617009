"""The file of a checkpoint's state: written with its checksum, flushed to the disk, read back without running code.

The checksum is a CRC-32: it finds every flipped byte, and all but one in four billion other accidents, in half the
time of a SHA-256, which takes longer than the writing. It is no seal, but neither is a SHA-256 beside its file.
"""

import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from training_core.artifacts import crc32_text, storage_errors
from training_core.errors import StorageError

_PIECE = 1 << 20  # bytes written at a time: they are still in the processor's cache when they are summed up
_FLUSH_EVERY = 8 << 20  # bytes written before the disk is asked to take them


class Written(NamedTuple):
    """A state on the disk."""

    checksum: str
    """As `artifacts.CHECKSUMS` lists it."""
    num_bytes: int


def write_state(file: Path, state: Mapping[str, Any]) -> Written:
    """Write a plain state to a new `file` and flush it to the disk.

    The disk begins with its work while the rest is still being written.

    Raises:
        StorageError: the disk is full or the place cannot be written; `file` may be there in part.
    """
    with storage_errors(file):
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        target = _ChecksummedFile(handle)
        try:
            with _no_second_checksum():
                torch.save(state, target)  # pyright: ignore[reportArgumentType]
            os.fsync(handle)
            return Written(crc32_text(target.crc), target.num_bytes)
        except RuntimeError:
            if target.error is not None:  # torch hides it behind an error of its own
                raise target.error from None
            raise
        finally:
            os.close(handle)


def read_state(file: Path) -> dict[str, Any]:
    """The state in `file`, its tensors in memory of the CPU.

    They are not left in the file, to be read when they are used, although that would start sooner: its bytes were all
    read for their checksum just before, and a training goes on using some of the tensors until its end.

    Raises:
        StorageError: it is not a checkpoint, is damaged, holds something that would run code, or would need more
            memory than it has bytes.
    """
    try:
        check_archive(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (StorageError, OSError):
        raise
    except Exception as error:  # whatever a hostile or broken file makes torch stumble over
        # What torch says is left out: it goes on to advise loading the file with its code.
        raise StorageError(
            f"{file} cannot be read as tensors and plain values ({type(error).__name__}); nothing in it was run; "
            "delete it unless you know where it is from"
        ) from None
    if type(state) is not dict:
        raise StorageError(f"{file} holds a {type(state).__name__}; expected the dictionary of a checkpoint's parts")
    return state


def check_archive(file: Path) -> None:
    """Refuse an archive that is not as `torch.save` makes it, before anything of it is unpacked.

    Raises:
        StorageError: it is no archive, or a part of it is packed, so that a small file could fill the memory.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
        raise StorageError(f"{file} is not a checkpoint's state or is cut off ({error}); delete it") from None
    size = sum(part.file_size for part in parts)
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts) or size > file.stat().st_size:
        raise StorageError(
            f"{file} unpacks to {size:,} bytes from {file.stat().st_size:,}: no checkpoint is packed like this; "
            "delete it unless you know where it is from"
        )


class _ChecksummedFile:
    """What `torch.save` writes to: a file, with the CRC-32 of what was written so far."""

    def __init__(self, handle: int) -> None:
        self.num_bytes = 0
        self.crc = 0
        self.error: OSError | None = None
        self._handle = handle
        self._flushed = 0

    def write(self, data: Any) -> int:
        """Append `data`; the first error is kept in `error`."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while len(rest):
                written = os.write(self._handle, rest[:_PIECE])
                self.crc = zlib.crc32(rest[:written], self.crc)
                rest = rest[written:]
                self.num_bytes += written
                if self.num_bytes - self._flushed >= _FLUSH_EVERY:
                    self._begin_to_flush()
        except OSError as error:
            self.error = error
            raise
        return size

    def flush(self) -> None:
        """Nothing is held back."""

    def _begin_to_flush(self) -> None:
        """Let the disk begin with what `fsync` would have to wait for in the end, and leave the memory to others."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._handle, self._flushed, self.num_bytes - self._flushed, os.POSIX_FADV_DONTNEED)
        self._flushed = self.num_bytes


@contextmanager
def _no_second_checksum() -> Iterator[None]:
    """Without torch's own checksums of every tensor, which that of the whole file makes superfluous."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)
