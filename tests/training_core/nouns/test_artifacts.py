"""Published directories are whole or absent, whatever happens to the writer."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from training_core.artifacts import (
    directories,
    exclusive,
    find_unfinished,
    finish_directory,
    hold_shared,
    is_published,
    missing_files,
    open_published,
    publish_directory,
    remove_directory,
    sweep_unfinished,
    unfinished_directory,
    unshared,
    verify_published,
    write_text_atomically,
)
from training_core.errors import StorageError, TransientError


def published(parent: Path, text: str = "hello") -> Path:
    final = parent / "version"
    with publish_directory(final) as folder:
        (folder / "nested").mkdir()
        (folder / "nested" / "file.txt").write_text(text)
    return final


def test_a_published_directory_holds_its_files_and_their_checksums(tmp_path: Path) -> None:
    final = published(tmp_path)
    assert (final / "nested" / "file.txt").read_text() == "hello"
    verify_published(open_published(final))
    assert [path.name for path in tmp_path.iterdir()] == ["version"]


def test_who_publishes_last_leaves_what_is_there_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one was faster while the checksums were written: whoever reads its copy must not lose it."""
    written = directories._write_checksums

    def meanwhile(folder: Path, known: Mapping[str, str]) -> None:
        written(folder, known)
        monkeypatch.setattr(directories, "_write_checksums", written)
        published(tmp_path)

    with unfinished_directory(tmp_path, "version") as folder:
        (folder / "nested").mkdir()
        (folder / "nested" / "file.txt").write_text("hello")
        monkeypatch.setattr(directories, "_write_checksums", meanwhile)
        assert not finish_directory(folder, tmp_path / "version")
        assert folder.is_dir(), "it is this one that goes"
    verify_published(open_published(tmp_path / "version"))


@pytest.mark.parametrize("damage", ["empty", "lacking", "a file"])
def test_what_stands_in_the_way_is_replaced(tmp_path: Path, damage: str) -> None:
    final = tmp_path / "version"
    if damage == "a file":
        final.write_text("what is this")
    else:
        final.mkdir()
    if damage == "lacking":
        (final / "other.txt").write_text("what is this")
    published(tmp_path)
    verify_published(open_published(final))
    assert {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")} == {"version"}


def test_an_exception_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), publish_directory(tmp_path / "version") as folder:
        (folder / "file.txt").write_text("half")
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []


def test_the_second_of_two_writers_keeps_the_first_version(tmp_path: Path) -> None:
    first = published(tmp_path, "same")
    before = open_published(first)
    assert open_published(published(tmp_path, "same")) == before


@pytest.mark.parametrize("damage", ["changed", "missing", "unexpected"])
def test_damage_is_named(tmp_path: Path, damage: str) -> None:
    final = published(tmp_path)
    ref = open_published(final)
    file = final / "nested" / "file.txt"
    {
        "changed": lambda: file.write_text("hellO"),
        "missing": file.unlink,
        "unexpected": lambda: (final / "more.txt").write_text("x"),
    }[damage]()
    with pytest.raises(StorageError, match=rf"(file|more)\.txt' is {damage}"):
        verify_published(ref)


def test_replaced_checksums_do_not_pass_for_the_published_ones(tmp_path: Path) -> None:
    final = published(tmp_path)
    ref = open_published(final)
    (final / "checksums.json").write_text("{}")
    with pytest.raises(StorageError, match="not the directory that was published"):
        verify_published(ref)


def test_an_unpublished_directory_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "version").mkdir()
    assert not is_published(tmp_path / "version")
    with pytest.raises(StorageError, match="not there or incomplete"):
        open_published(tmp_path / "version")


def run_child(code: str, *arguments: str, limit_bytes: int | None = None) -> subprocess.Popen[str]:
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit_bytes},) * 2)" if limit_bytes else ""
    source = limit + "\n" + textwrap.dedent(code)
    return subprocess.Popen([sys.executable, "-c", source, *arguments], stdout=subprocess.PIPE, text=True)


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(tmp_path: Path) -> None:
    child = run_child(
        """
        import sys; from pathlib import Path
        from training_core.artifacts import publish_directory
        from training_core.errors import StorageError
        try:
            with publish_directory(Path(sys.argv[1]) / "version") as folder:
                (folder / "big").write_bytes(b"x" * 100_000)
        except StorageError as error:
            print(error)
        """,
        str(tmp_path),
        limit_bytes=20_000,
    )
    assert "no space left to write" in child.communicate()[0]
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_is_never_visible_and_is_swept_later(tmp_path: Path) -> None:
    child = run_child(
        """
        import sys, time; from pathlib import Path
        from training_core.artifacts import publish_directory
        with publish_directory(Path(sys.argv[1]) / "version") as folder:
            (folder / "file").write_text("half"); print("ready", flush=True); time.sleep(60)
        """,
        str(tmp_path),
    )
    assert child.stdout and child.stdout.readline() == "ready\n"
    assert sweep_unfinished(tmp_path) == 0, "its writer still runs"
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not is_published(tmp_path / "version")
    assert sweep_unfinished(tmp_path) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((StorageError, OSError)), publish_directory(tmp_path / "file" / "version"):
        pass
    if os.getuid() != 0:
        tmp_path.chmod(0o500)
        with pytest.raises(StorageError, match="choose another --store"), publish_directory(tmp_path / "version"):
            pass


def test_what_is_forbidden_elsewhere_is_not_the_places_fault(tmp_path: Path) -> None:
    photos, link = tmp_path / "photos.npy", tmp_path / "link"
    inside = errno.EACCES, "Permission denied"
    with pytest.raises(PermissionError, match=r"photos\.npy"), publish_directory(tmp_path / "store" / "version"):
        raise PermissionError(*inside, str(photos))
    link.symlink_to(tmp_path / "store")
    with (
        pytest.raises(StorageError, match=r"cannot write .*version: Permission denied; choose another --store"),
        publish_directory(link / "version") as folder,
    ):
        raise PermissionError(*inside, str(folder.resolve() / "file"))
    with pytest.raises(StorageError, match="no space left"), publish_directory(tmp_path / "store" / "version"):
        raise OSError(errno.ENOSPC, "No space left on device")
    with (
        pytest.raises(StorageError, match="no space left"),
        unfinished_directory(tmp_path / "store", "version") as folder,
    ):  # as what copies a file says it
        raise OSError(errno.ENOSPC, "No space left on device", str(photos), None, str(folder / "photos.npy"))
    assert list((tmp_path / "store").iterdir()) == []


def test_an_atomic_text_replaces_the_old_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "latest"
    write_text_atomically(path, "old")
    write_text_atomically(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_lock_keeps_the_second_process_out_and_falls_with_its_holder(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    child = run_child(
        """
        import sys, time; from pathlib import Path
        from training_core.artifacts import exclusive
        with exclusive(Path(sys.argv[1])):
            print("held", flush=True); time.sleep(60)
        """,
        str(lock),
    )
    assert child.stdout and child.stdout.readline() == "held\n"
    with pytest.raises(TransientError, match="held by another process"), exclusive(lock, wait=False):
        pass
    waited: list[float] = []

    def wait() -> None:
        start = time.monotonic()
        with exclusive(lock):
            waited.append(time.monotonic() - start)

    waiter = threading.Thread(target=wait)
    waiter.start()
    child.kill()
    child.wait()
    waiter.join(timeout=10)
    assert waited, "the lock outlived the process that held it"


def test_a_leftover_is_not_taken_for_that_of_a_new_process_with_the_same_id(tmp_path: Path) -> None:
    (tmp_path / f".unfinished-version-{os.getpid()}.1-0a1b2c3d").mkdir()
    (tmp_path / f".unfinished-latest-{os.getpid()}.1-0a1b2c3d").write_text("half")
    (tmp_path / ".unfinished-odd").write_text("")
    with unfinished_directory(tmp_path, "mine") as mine:
        assert sweep_unfinished(tmp_path) == 3
        assert list(tmp_path.iterdir()) == [mine]
    assert list(tmp_path.iterdir()) == []


def test_a_writer_whose_process_id_means_nothing_here_is_known_by_its_lock(tmp_path: Path) -> None:
    with unfinished_directory(tmp_path, "mine") as mine:
        elsewhere = mine.rename(tmp_path / ".unfinished-mine-4000000.1-0a1b2c3d")  # as from another container
        assert find_unfinished(tmp_path) == []
    assert find_unfinished(tmp_path) == [elsewhere]


def test_a_published_directory_that_lacks_a_file_is_replaced(tmp_path: Path) -> None:
    final = published(tmp_path)
    (final / "nested" / "file.txt").unlink()
    assert missing_files(final) == ["nested/file.txt"]
    verify_published(open_published(published(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == ["version"]


def test_known_checksums_are_not_computed_again(tmp_path: Path) -> None:
    with unfinished_directory(tmp_path, "version") as folder:
        (folder / "file").write_text("hello")
        assert finish_directory(folder, tmp_path / "version", {"file": "known"})
    assert '"file":"known"' in (tmp_path / "version" / "checksums.json").read_text()


def test_a_file_that_is_held_is_known_to_be_in_use(tmp_path: Path) -> None:
    final = published(tmp_path)
    file = final / "nested" / "file.txt"
    handles = [hold_shared(file), hold_shared(file)]
    for handle in handles:
        with unshared(file) as is_free:
            assert not is_free
        assert handle is not None
        os.close(handle)
    with unshared(file) as is_free:
        assert is_free
        remove_directory(final)
    assert hold_shared(file) is None
    with unshared(file) as is_free:
        assert not is_free
    assert list(tmp_path.iterdir()) == []


def test_a_lock_survives_in_a_forked_process(tmp_path: Path) -> None:
    file = published(tmp_path) / "nested" / "file.txt"
    handle = hold_shared(file)
    assert handle is not None
    child = subprocess.Popen(["sleep", "60"], pass_fds=[handle])
    os.close(handle)
    with unshared(file) as is_free:
        assert not is_free
    child.kill()
    child.wait()
    with unshared(file) as is_free:
        assert is_free
