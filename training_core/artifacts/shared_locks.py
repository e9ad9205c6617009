"""Locks on published files: many hold one while they read, and who removes the file finds out that they do."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_SHARED_TRIES = 2000  # who removes a directory holds its lock for a rename only; then it is gone
_SHARED_PAUSE_SECONDS = 0.001


def hold_shared(file: Path) -> int | None:
    """Open `file` and hold a shared lock on it for as long as the returned descriptor is open.

    Returns:
        The descriptor; None when `file` is gone or on its way out.

    Raises:
        OSError: it is there and cannot be opened.
    """
    for _ in range(_SHARED_TRIES):
        try:
            handle = os.open(file, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:  # about to be removed, or only asked whether anybody reads it
            os.close(handle)
            time.sleep(_SHARED_PAUSE_SECONDS)
            continue
        except OSError:
            pass  # a file system without locks
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), file.stat()):
                return handle
        os.close(handle)
    return None


@contextmanager
def unshared(file: Path) -> Iterator[bool]:
    """Yield whether nobody holds `file` by `hold_shared`; when so, nobody can until the block is left.

    False as well when it is gone, or on a file system that cannot tell.
    """
    try:
        handle = os.open(file, os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except OSError:
            free = False
        yield free
    finally:
        os.close(handle)
