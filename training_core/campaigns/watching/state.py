"""What is remembered of the windows a model met, so that the next one is judged with them.

    store/watch/<model>/
      watch.json      what is confirmed, how many windows count, and the retrainings: written last, in one step
      windows.jsonl   a line per window: its tally, so that later references can be pooled; no rows
      rows/<n>.npz    digests of the ids of its rows, so that no row counts twice
      reports/<n>.json, <n>.html

A window counts from the moment `watch.json` names it. Whoever is killed before that leaves files of a window that does
not count; the next one takes their place.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pydantic

from training_core.artifacts import exclusive, storage_errors, write_text_atomically
from training_core.campaigns.watching.trigger import RetrainRecord
from training_core.config import Config
from training_core.data.source import is_dataset_name
from training_core.errors import ConfigError, StorageError
from training_core.monitoring import DriftWatch, Window
from training_core.quantities import NonNegativeInt

FORMAT_VERSION = 1


class WatchState(Config):
    """Everything about a watched model but its windows."""

    format: int = FORMAT_VERSION
    profile: str = ""
    """SHA-256 of the scales of the reference that `watch` is about: a new champion is watched from the beginning."""
    watch: DriftWatch = DriftWatch()
    labels: tuple[str, ...] = ()
    """Of the windows that count, oldest first, those of earlier champions included."""
    num_rows: tuple[NonNegativeInt, ...] = ()
    """Rows of each."""
    serious: tuple[bool, ...] = ()
    """Whether each of them warned or drifted."""
    retrains: tuple[RetrainRecord, ...] = ()
    """Oldest first."""

    def about(self, profile: str) -> "WatchState":
        """The state as the reference `profile` sees it."""
        if profile == self.profile:
            return self
        return self.model_copy(update={"profile": profile, "watch": DriftWatch()})

    def rows_of_streak(self, window: str) -> int:
        """Rows of the successive windows that warned or drifted, up to `window`; 0 when it is not known."""
        if window not in self.labels:
            return 0
        rows = 0
        for place in range(self.labels.index(window), -1, -1):
            if not self.serious[place]:
                break
            rows += self.num_rows[place]
        return rows


class SeenRows:
    """Digests of ids: which rows were in an earlier window, and whether their answers were known then."""

    def __init__(self, digests: np.ndarray, labelled: np.ndarray) -> None:
        """`digests`: uint64 [N]. `labelled`: bool [N]."""
        self._all = np.unique(digests)
        self._labelled = np.unique(digests[labelled])

    def known(self, digests: np.ndarray) -> np.ndarray:
        """Which of `digests` were seen, bool [N]."""
        return np.isin(digests, self._all)

    def without_label(self, digests: np.ndarray) -> np.ndarray:
        """Which of `digests` were seen, and never with their answers, bool [N]."""
        return np.isin(digests, self._all) & ~np.isin(digests, self._labelled)


def digests_of(ids: Sequence[str] | np.ndarray) -> np.ndarray:
    """A number for each id, uint64 [N]: ids may name people, and 8 bytes are enough to know a row again."""
    hashed = b"".join(hashlib.blake2b(str(one).encode(), digest_size=8).digest() for one in ids)
    return np.frombuffer(hashed, "<u8")


class WatchFolder:
    """The folder of one watched model. Whoever changes it does so within `locked`."""

    def __init__(self, store: Path, model: str) -> None:
        """`model` is the registered name.

        Raises:
            ConfigError: it cannot be the name of a folder.
        """
        if not is_dataset_name(model):
            raise ConfigError(f"'{model}' cannot name a watched model; use letters, digits, '.', '_' and '-'")
        self.path = store / "watch" / model

    @contextmanager
    def locked(self) -> Iterator[WatchState]:
        """Hold the folder; yields the state. Another process that wants it waits.

        Raises:
            StorageError: the folder cannot be written, or the state does not read back.
        """
        with exclusive(self.path / ".lock"):
            yield self.state()

    def state(self) -> WatchState:
        """The state as it is.

        Raises:
            StorageError: it does not read back.
        """
        path = self.path / "watch.json"
        try:
            state = WatchState.model_validate_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return WatchState()
        except (OSError, ValueError) as error:
            raise StorageError(
                f"{path} is unreadable ({str(error).splitlines()[0]}); restore it, or delete {self.path} to begin anew"
            ) from error
        if state.format != FORMAT_VERSION:
            raise StorageError(f"{path} has format {state.format}, this release reads {FORMAT_VERSION}")
        return state

    def write(self, state: WatchState) -> None:
        """Make `state` the truth, in one step."""
        with storage_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        write_text_atomically(self.path / "watch.json", state.model_dump_json(indent=1))

    def windows(self, state: WatchState) -> list[Window]:
        """The windows that count, oldest first.

        Raises:
            StorageError: a line of them is missing or does not read back.
        """
        lines = self._lines()[: len(state.labels)]
        if len(lines) < len(state.labels):
            raise StorageError(
                f"{self.path / 'windows.jsonl'} has {len(lines)} windows of {len(state.labels)}; restore it, or delete "
                f"{self.path} to begin anew"
            )
        try:
            return [Window.model_validate_json(line) for line in lines]
        except pydantic.ValidationError as error:
            raise StorageError(
                f"{self.path / 'windows.jsonl'} is unreadable; restore it, or delete {self.path} to begin anew"
            ) from error

    def seen(self, state: WatchState) -> SeenRows:
        """The rows of all windows that count."""
        parts: list[tuple[np.ndarray, np.ndarray]] = [(np.empty(0, np.uint64), np.empty(0, bool))]
        for number in range(len(state.labels)):
            path = self.path / "rows" / f"{number}.npz"
            try:
                with np.load(path, allow_pickle=False) as file:
                    parts.append((file["digests"], file["labelled"]))
            except (OSError, ValueError, KeyError) as error:
                raise StorageError(f"{path} is unreadable; delete {self.path} to begin anew") from error
        return SeenRows(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def put_window(self, state: WatchState, window: Window, digests: np.ndarray, labelled: np.ndarray) -> int:
        """Write the files of the window after those that count, which is its number; `write` makes it count.

        Raises:
            StorageError: the disk is full or cannot be written.
        """
        number = len(state.labels)
        with storage_errors(self.path):
            for folder in ("rows", "reports"):
                (self.path / folder).mkdir(parents=True, exist_ok=True)
            with (self.path / "rows" / f"{number}.npz").open("wb") as file:
                np.savez_compressed(file, digests=digests, labelled=labelled)
                file.flush()
                os.fsync(file.fileno())
            lines = self._lines()
            if len(lines) == number:
                with (self.path / "windows.jsonl").open("a", encoding="utf-8") as file:
                    file.write(f"{canonical_line(window)}\n")
                    file.flush()
                    os.fsync(file.fileno())
                return number
        kept = [*lines[:number], canonical_line(window)]  # somebody was killed on the way
        write_text_atomically(self.path / "windows.jsonl", "".join(f"{line}\n" for line in kept))
        return number

    def report_paths(self, number: int) -> tuple[Path, Path]:
        """Where the report of a window is: as JSON, and as a page."""
        return self.path / "reports" / f"{number}.json", self.path / "reports" / f"{number}.html"

    def _lines(self) -> list[str]:
        """All lines of `windows.jsonl`; the last may be half of one."""
        try:
            return (self.path / "windows.jsonl").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []


def canonical_line(window: Window) -> str:
    """A window as one line of JSON."""
    return json.dumps(json.loads(window.model_dump_json()), separators=(",", ":"))
