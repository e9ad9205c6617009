"""The file of a checkpoint's state: written with its SHA-256, flushed to the disk, read back without running code."""

import hashlib
import os
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from training_core.artifacts import storage_errors
from training_core.errors import StorageError

_PIECE = 1 << 20  # bytes hashed at a time: they stay in the processor's cache between being read and being hashed
_TELL_EVERY = 4 << 20  # bytes written between two calls to the hashing thread
_FLUSH_EVERY = 8 << 20  # bytes hashed before the disk is asked to take them


class Written(NamedTuple):
    """A state on the disk."""

    sha256: str
    num_bytes: int


def write_state(file: Path, state: Mapping[str, Any]) -> Written:
    """Write a plain state to a new `file` and flush it to the disk.

    Hashing and the disk's own work go on beside the writing, so that with a second core free it takes about as long as
    `torch.save` alone. What is hashed is read back from the file.

    Raises:
        StorageError: the disk is full or the place cannot be written; `file` may be there in part.
    """
    with storage_errors(file):
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        target = _HashedFile(handle)
        try:
            with _no_second_checksum():
                torch.save(state, target)  # pyright: ignore[reportArgumentType]
            target.end_of_file()
            os.fsync(handle)
            return Written(target.sha256(), target.num_bytes)
        except RuntimeError:
            if target.error is not None:  # torch hides it behind an error of its own
                raise target.error from None
            raise
        finally:
            target.close()
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


class _HashedFile:
    """What `torch.save` writes to: a file, and a thread that follows the writing and hashes what reads back."""

    def __init__(self, handle: int) -> None:
        self.num_bytes = 0
        self.error: OSError | None = None
        self._handle = handle
        self._hashed = 0
        self._told = 0
        self._ended = False
        self._more = threading.Condition()
        self._digest = hashlib.sha256()
        self._trouble: BaseException | None = None
        self._thread = threading.Thread(target=self._follow, name="polychoir-checksum", daemon=True)
        self._thread.start()

    def write(self, data: Any) -> int:
        """Append `data`; the first error is kept in `error`."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while len(rest):
                rest = rest[os.write(self._handle, rest) :]
        except OSError as error:
            self.error = error
            raise
        self.num_bytes += size
        if self.num_bytes - self._told >= _TELL_EVERY:
            self._told = self.num_bytes
            with self._more:
                self._more.notify()
        return size

    def flush(self) -> None:
        """Nothing is held back."""

    def end_of_file(self) -> None:
        """Let the thread hash the rest."""
        with self._more:
            self._ended = True
            self._more.notify()

    def sha256(self) -> str:
        """The digest of the whole file, in hexadecimal.

        Raises:
            OSError: the file cannot be read back.
            StorageError: there is less of it than was written.
        """
        self._thread.join()
        if self._trouble is not None:
            raise self._trouble
        return self._digest.hexdigest()

    def close(self) -> None:
        """Wait for the thread to end. Call this whatever happened, before the file is closed."""
        self.end_of_file()
        self._thread.join()

    def _follow(self) -> None:
        buffer = memoryview(bytearray(_PIECE))
        flushed = 0
        try:
            while self._wait_for_more():
                size = os.preadv(self._handle, [buffer], self._hashed)
                if not size:
                    raise StorageError(
                        f"of {self.num_bytes:,} bytes written to a checkpoint {self._hashed:,} read back; save again"
                    )
                self._digest.update(buffer[:size])
                self._hashed += size
                if self._hashed - flushed >= _FLUSH_EVERY and hasattr(os, "posix_fadvise"):
                    # Starts writing to the disk, for which `fsync` would have to wait in the end, and leaves the
                    # memory to data that will be read again.
                    os.posix_fadvise(self._handle, flushed, self._hashed - flushed, os.POSIX_FADV_DONTNEED)
                    flushed = self._hashed
        except BaseException as error:
            self._trouble = error

    def _wait_for_more(self) -> bool:
        """Wait until there is a piece to hash; False when there will be none, or no use for it."""
        with self._more:
            self._more.wait_for(lambda: self._ended or self.num_bytes - self._hashed >= _PIECE)
            return self.num_bytes > self._hashed and self.error is None


@contextmanager
def _no_second_checksum() -> Iterator[None]:
    """Without torch's own checksums of every tensor, which a SHA-256 of the whole file makes superfluous."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)
