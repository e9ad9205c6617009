"""What is found damaged is unpublished: whoever looks for it finds nothing any more, and makes it again.

Damaged is what lacks a file, or does not read back as it was written. That something cannot be read at this moment (too
many files are open, a file server does not answer) says nothing about it, and nothing is touched then.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from training_core.artifacts.directories import CHECKSUMS, ArtifactRef, open_published, verify_published
from training_core.errors import StorageError


@contextmanager
def unpublished_if_damaged(directory: Path) -> Iterator[None]:
    """Unpublish `directory` when the block finds it damaged, by a ValueError or a file that is not there.

    It is this very directory that is unpublished: another one that took its place meanwhile is left alone. The error
    that was raised goes on.

    Raises:
        FileNotFoundError: there is none.
    """
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield
    except (FileNotFoundError, ValueError):
        with suppress(FileNotFoundError):
            os.unlink(CHECKSUMS, dir_fd=handle)
        raise
    finally:
        os.close(handle)


def require_undamaged(ref: ArtifactRef) -> None:
    """As `verify_published`, and unpublish the directory when it is damaged.

    Raises:
        StorageError: it is damaged, or no longer the one that `ref` was made of.
        OSError: it cannot be read at this moment.
    """
    try:
        with _as_damage():
            verify_published(ref)
        return
    except (FileNotFoundError, ValueError) as error:
        found = StorageError(str(error))
    with suppress(FileNotFoundError, ValueError), unpublished_if_damaged(ref.path), _as_damage():
        verify_published(open_published(ref.path))  # one that took its place may be as it should be
    raise found


@contextmanager
def _as_damage() -> Iterator[None]:
    """What `verify_published` finds becomes a ValueError; a file that goes meanwhile, and what may pass, stay."""
    try:
        yield
    except (StorageError, TypeError, AttributeError) as error:
        raise ValueError(str(error)) from error
