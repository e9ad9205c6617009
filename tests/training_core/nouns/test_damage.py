"""What is damaged is unpublished and made again; what is intact, or cannot be read just now, is left alone."""

import errno
from pathlib import Path

import pytest
from scarcity import no_more_files

from training_core.artifacts import (
    is_published,
    missing_files,
    open_published,
    publish_directory,
    remove_directory,
    require_undamaged,
    unpublished_if_damaged,
    verify_published,
)
from training_core.errors import StorageError


def published(final: Path, text: str = "hello") -> Path:
    with publish_directory(final) as folder:
        (folder / "file.txt").write_text(text)
    return final


@pytest.mark.parametrize("damage", ["changed", "missing", "unexpected", "list", "no list"])
def test_a_damaged_directory_is_unpublished_and_can_be_published_again(tmp_path: Path, damage: str) -> None:
    final = published(tmp_path / "version")
    {
        "changed": lambda: (final / "file.txt").write_text("hellO"),
        "missing": (final / "file.txt").unlink,
        "unexpected": lambda: (final / "more.txt").write_text("x"),
        "list": lambda: (final / "checksums.json").write_text('["file.txt"]'),
        "no list": lambda: (final / "checksums.json").write_text('{"file.t'),
    }[damage]()
    with pytest.raises(StorageError):
        require_undamaged(open_published(final))
    assert not is_published(final)
    verify_published(open_published(published(final)))


def test_one_that_took_the_place_of_what_is_asked_for_stays(tmp_path: Path) -> None:
    final = published(tmp_path / "version")
    before = open_published(final)
    remove_directory(final)
    published(final, "other")
    with pytest.raises(StorageError, match="not the directory that was published"):
        require_undamaged(before)
    require_undamaged(open_published(final))


def test_one_that_takes_the_place_of_a_damaged_one_meanwhile_stays(tmp_path: Path) -> None:
    final = published(tmp_path / "version")
    with pytest.raises(ValueError, match="damaged"), unpublished_if_damaged(final):
        remove_directory(final)
        published(final, "other")
        raise ValueError("damaged")
    require_undamaged(open_published(final))


def test_what_cannot_be_read_now_is_not_damaged(tmp_path: Path) -> None:
    final = published(tmp_path / "version")
    ref = open_published(final)
    with no_more_files():
        with pytest.raises(OSError, match="Too many open files"):
            missing_files(final)
        with pytest.raises(OSError, match="Too many open files"):
            require_undamaged(ref)
    require_undamaged(ref)
    with pytest.raises(OSError, match="Stale"), unpublished_if_damaged(final):
        raise OSError(errno.ESTALE, "Stale file handle")
    require_undamaged(ref)
