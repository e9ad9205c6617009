"""Files and folders behind URLs, of any kind that fsspec knows: copied once, piece by piece, before they are read."""

import hashlib
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from training_core.addresses import bare, without_secrets
from training_core.data.source import is_url, suffix_of
from training_core.data.sources.protocols import Place
from training_core.errors import DataError, StorageError, TransientError

_PIECE_BYTES = 4 << 20
_EXTRAS = {"s3": "polychoir[s3]", "s3a": "polychoir[s3]", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}
_TRY_AGAIN = {408, 425, 429}  # HTTP: timeout, too early, too many requests


def locate(location: str | Path, staging: Path) -> Place:
    """A file or folder on this machine; what a URL names is copied into `staging` first, unless it is there already.

    Raises:
        DataError: the URL names nothing, or nothing that may be read, or needs a driver that is not installed.
        TransientError: the other side did not answer, or broke off.
        StorageError: the disk is full or cannot be written.
    """
    text = str(location)
    if not is_url(text):
        return Place(Path(location), text)
    name = bare(text)
    with _asking(name):
        files, path = _file_system(text, name)
    if "file" in _protocols(files):
        return Place(Path(path), name)
    folder = staging / "remote" / hashlib.sha256(text.encode()).hexdigest()[:16]
    target = folder / (_last_part(name) or "data")
    if not target.exists():
        _copy(files, path, name, suffix_of(text), target)
    return Place(target, name)


def _copy(files: Any, path: str, name: str, suffix: str, target: Path) -> None:
    """Copy a file, or a folder with all there is in it; nothing stands at `target` before all of it does."""
    unfinished = target.with_name(f"{target.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.unlink(missing_ok=True)
    with _asking(name):
        files.invalidate_cache()
        # asking a web server whether a file is a folder fetches it
        may_be_both = suffix == ".parquet" and not {"http", "https"} & {*_protocols(files)}
        is_folder = suffix in {"", ".zarr"} or (may_be_both and files.isdir(path))
        inside = sorted(files.find(path)) if is_folder else []
    if not inside:
        _copy_file(files, path, name, unfinished)
    for key in inside:
        relative = _relative(key, path, name)
        if relative is not None:
            _copy_file(files, key, f"{name}/{relative}", unfinished / relative)
    _on_disk(unfinished, lambda: unfinished.rename(target))


def _copy_file(files: Any, path: str, name: str, target: Path) -> None:
    _on_disk(target, lambda: target.parent.mkdir(parents=True, exist_ok=True))
    copied = 0
    with _asking(name):
        expected = files.info(path).get("size")
        with (
            files.open(path, "rb", block_size=_PIECE_BYTES) as source,
            _on_disk(target, lambda: target.open("wb")) as out,
        ):
            while piece := source.read(_PIECE_BYTES):
                _on_disk(target, lambda piece=piece: out.write(piece))
                copied += len(piece)
            _on_disk(target, out.flush)
    if expected is not None and copied != expected:
        raise TransientError(f"{name} broke off after {copied} of {expected} bytes")


def _relative(key: str, root: str, name: str) -> PurePosixPath | None:
    """Where below the folder a listed file belongs; None for the mark of an empty folder.

    Raises:
        DataError: its name leads out of the folder.
    """
    inside = key.removeprefix(root.rstrip("/"))
    if inside.endswith("/"):
        return None
    parts = inside.removeprefix("/").split("/")
    odd = any(part in {"", ".", ".."} or "\\" in part or "\0" in part for part in parts)
    if inside == key or not inside.startswith("/") or odd:
        raise DataError(f"{name} holds a file called {key!r}, whose name leads out of the folder; rename it")
    return PurePosixPath(*parts)


def _file_system(url: str, name: str) -> tuple[Any, str]:
    import fsspec

    protocol = url.partition("://")[0].rpartition("::")[2]
    try:
        fsspec.get_filesystem_class(protocol)
        return fsspec.url_to_fs(url)
    except ValueError:
        raise DataError(
            f"{name}: '{protocol}' is no protocol that can be read; use s3://, https://, gs:// or file://"
        ) from None
    except ImportError:
        extra = _EXTRAS.get(protocol, f"the package of fsspec for '{protocol}'")
        quoted = f"pip install '{extra}'" if protocol in _EXTRAS else f"install {extra}"
        raise DataError(f"{name}: reading {protocol}:// needs a driver that is not installed; {quoted}") from None


def _protocols(files: Any) -> tuple[str, ...]:
    return (files.protocol,) if isinstance(files.protocol, str) else tuple(files.protocol)


def _last_part(url: str) -> str:
    """The last part of a URL's path, for the name of the copy; its ending says what the file is."""
    path = re.split(r"[?#]", next(link for link in url.split("::") if "://" in link), maxsplit=1)[0]
    name = path.partition("://")[2].rstrip("/").rpartition("/")[2]
    return re.sub(r"[^\w.-]", "_", name).lstrip(".")[-100:]


@contextmanager
def _asking(name: str) -> Iterator[None]:
    """What can go wrong on the other side, told apart: the user's to mend, or worth another try."""
    try:
        yield
    except (DataError, StorageError, TransientError):
        raise
    except Exception as error:
        raise _judged(error, name) from None


def _judged(error: BaseException, name: str) -> DataError | TransientError:
    status, cause = getattr(error, "status", None), error.__cause__
    if isinstance(status, int) and status != 404 and (status >= 500 or status in _TRY_AGAIN):
        return TransientError(f"{name} cannot be read now (HTTP {status})")
    if isinstance(status, int) and status != 404:
        return DataError(f"{name} may not be read (HTTP {status}); check the address and the credentials")
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError) or status == 404:
        # what fsspec says of a web server that it cannot reach, too
        asked = getattr(cause, "status", None)
        if (
            cause
            and not isinstance(cause, FileNotFoundError)
            and (isinstance(cause, OSError) or asked not in {None, 404})
        ):
            return _judged(cause, name)
        return DataError(f"{name} is not there ({_reason(error)})")
    if isinstance(error, PermissionError):
        return DataError(f"{name} may not be read ({_reason(error)}); check the credentials")
    if isinstance(error, ValueError | NotImplementedError) or "Credentials" in type(error).__name__:
        return DataError(f"{name} cannot be read: {_reason(error)}")
    return TransientError(f"{name} cannot be read now: {_reason(error)}")


def _on_disk(path: Path, work: Any) -> Any:
    try:
        return work()
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}; is the disk full?") from None


def _reason(error: BaseException) -> str:
    return " ".join(without_secrets(str(error)).split())[:200] or type(error).__name__
