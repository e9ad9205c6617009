"""A second copy of every checkpoint somewhere else: a folder, a bucket, anything fsspec has a protocol for."""

import json
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from training_core.artifacts import CHECKSUMS
from training_core.engine.checkpoints.metadata import (
    METADATA,
    CheckpointMetadata,
    checkpoint_names,
    read_metadata,
)

_log = logging.getLogger(__name__)

Choose = Callable[[Sequence[CheckpointMetadata]], set[str]]
"""Which of the checkpoints there are to be kept, by name."""


class Mirror:
    """Copies of checkpoints at a URL, made by a thread of their own.

    A mirror never stops or delays training: when it fails it warns once, and tries again with the next checkpoint.
    The list of a copy's checksums is written last, so that a copy has one only when all of it is there.
    """

    def __init__(self, url: str, choose: Choose) -> None:
        """Copy to below `url`, and remove there what `choose` does not keep."""
        self.url = url
        self._choose = choose
        self._files: tuple[Any, str] | None = None
        self._waiting: deque[Path] = deque()
        self._changed = threading.Condition()
        self._warned = False
        self._known: dict[str, CheckpointMetadata] = {}

    def send(self, folder: Path) -> None:
        """Have the checkpoint directory `folder` copied, in a while."""
        with self._changed:
            self._waiting.append(folder)
            if len(self._waiting) == 1:
                threading.Thread(target=self._copy_all, name="polychoir-mirror", daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """Wait until all copies are made, or given up, for at most `seconds`; returns whether they are."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting, seconds)

    def names(self) -> list[str]:
        """The whole copies there are, the oldest first; none when the place cannot be read, which is warned of."""
        try:
            files, root = self._opened()
            if not files.isdir(root):
                return []
            found = checkpoint_names(path.rstrip("/").rpartition("/")[2] for path in files.ls(root, detail=False))
            return [name for name in found if files.exists(f"{root}/{name}/{CHECKSUMS}")]
        except Exception as error:  # whatever a protocol's library raises
            self._warn("be read", error)
            return []

    def fetch(self, name: str, folder: Path) -> bool:
        """Copy the checkpoint `name` into the empty `folder`, unchecked; False when it cannot be read."""
        try:
            files, root = self._opened()
            listed = json.loads(files.cat_file(f"{root}/{name}/{CHECKSUMS}"))
            for file in [*listed, CHECKSUMS]:
                if "/" in file or file.startswith("."):
                    raise ValueError(f"the copy of {name} lists a file '{file}', which no checkpoint has")
                files.get_file(f"{root}/{name}/{file}", str(folder / file))
        except Exception as error:  # whatever a protocol's library raises
            self._warn("be read", error)
            return False
        return True

    def _copy_all(self) -> None:
        """Copy the directories that wait, each of which leaves the line when it is done with."""
        while True:
            folder = self._waiting[0]
            try:
                self._copy(folder)
            except Exception as error:  # whatever a protocol's library raises
                if folder.exists():  # else it was not worth keeping any more when its turn came
                    self._warn("take a checkpoint", error)
            with self._changed:
                self._waiting.popleft()
                self._changed.notify_all()
                if not self._waiting:
                    return

    def _copy(self, folder: Path) -> None:
        files, root = self._opened()
        place = f"{root}/{folder.name}"
        inside = sorted(file for file in folder.iterdir() if file.name != CHECKSUMS)
        files.makedirs(place, exist_ok=True)
        try:
            for file in [*inside, folder / CHECKSUMS]:
                files.put_file(str(file), f"{place}/{file.name}")
                size, expected = files.size(f"{place}/{file.name}"), file.stat().st_size
                if size != expected:
                    raise OSError(f"{place}/{file.name} has {size} bytes there, {expected} here")
        except Exception:
            if not folder.exists():  # it was removed while it was copied: nobody would ever remove the part
                files.rm(place, recursive=True)
            raise
        self._remove_superfluous(files, root)

    def _remove_superfluous(self, files: Any, root: str) -> None:
        names = self.names()
        for name in names:
            if name not in self._known:
                text = files.cat_file(f"{root}/{name}/{METADATA}").decode()
                self._known[name] = read_metadata(text, f"{self.url}/{name}")
        keep = self._choose([self._known[name] for name in names])
        for name in names:
            if name not in keep:
                files.rm_file(f"{root}/{name}/{CHECKSUMS}")  # from here on it is no copy any more
                files.rm(f"{root}/{name}", recursive=True)
                del self._known[name]

    def _opened(self) -> tuple[Any, str]:
        """The file system and the path in it."""
        if self._files is None:
            import fsspec

            files, root = fsspec.core.url_to_fs(self.url)
            self._files = files, root.rstrip("/")
        return self._files

    def _warn(self, what: str, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            _log.warning("the mirror %s of the checkpoints cannot %s (%s); training goes on", self.url, what, reason)
