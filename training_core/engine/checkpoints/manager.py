"""Checkpoints of a training: whole or not there at all, checked before they are read, and never too many.

A checkpoint is a published directory: `state.pt`, `metadata.json`, and the checksums of both, made visible by one
rename. So there is no moment at which a state is there and its checksum is not, whatever is killed when. A damaged one
is put aside with a warning, and the one before it is used.
"""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training_core.artifacts import (
    exclusive,
    finish_directory,
    is_whole,
    open_published,
    remove_directory,
    storage_errors,
    sweep_unfinished,
    unfinished_directory,
    verify_published,
)
from training_core.config import canonical_json
from training_core.engine.checkpoints.environment import Environment
from training_core.engine.checkpoints.files import check_archive, read_state, write_state
from training_core.engine.checkpoints.history import history_frame, remember
from training_core.engine.checkpoints.metadata import (
    METADATA,
    STATE,
    CheckpointMetadata,
    Mode,
    checkpoint_name,
    checkpoint_names,
    next_number,
    ranked,
    read_local_metadata,
    worth_keeping,
)
from training_core.engine.checkpoints.mirror import Mirror
from training_core.engine.checkpoints.state import PlainState, tensors_of
from training_core.engine.loop import Snapshot, take_state
from training_core.errors import ConfigError, StorageError

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)

_LOCK = ".lock"
_DAMAGED = ".damaged-"
_OPTIMIZER_PARTS = ("update", "optimizer")  # as the loop calls it, and as hand-written loops do


class CheckpointManager:
    """Saves checkpoints to a directory, keeps the best and the newest, and finds the one to go on from.

    Several processes may use one directory: each one's checkpoints are whole, and they are kept or removed together.
    """

    def __init__(
        self,
        checkpoint_dir: str | Path,
        keep_best_k: int = 3,
        keep_last_n: int = 5,
        monitor: str = "validation/loss",
        mode: Mode = "min",
        save_interval_epochs: int = 1,
        mirror: str | None = None,
        *,
        environment: Environment | None = None,
    ) -> None:
        """Touch nothing yet: the directory is made by the first save.

        Args:
            checkpoint_dir: where checkpoints are.
            keep_best_k: how many of the best to keep; among equals the earlier.
            keep_last_n: how many of the newest to keep, at least 1: what training goes on from.
            monitor: the metric that says which is best; checkpoints without it are never among the best.
            mode: whether a lower (`min`) or a higher (`max`) value of it is better.
            save_interval_epochs: epochs from one checkpoint to the next, for those that ask `should_save`.
            mirror: URL of a second place, any that fsspec knows; a bare path is a folder.
            environment: where and how is trained; by default this process, with settings unknown.

        Raises:
            ConfigError: a number is out of its range.
        """
        for name, value, least in (
            ("keep_best_k", keep_best_k, 0),
            ("keep_last_n", keep_last_n, 1),
            ("save_interval_epochs", save_interval_epochs, 1),
        ):
            if value < least:
                raise ConfigError(f"{name} is {value}; it must be at least {least}")
        if mode not in ("min", "max"):
            raise ConfigError(f"mode is {mode!r}; it must be 'min' or 'max'")
        self.directory = Path(checkpoint_dir)
        self.monitor = monitor
        self.mode: Mode = mode
        self.environment = environment or Environment.here()
        self._keep_best_k, self._keep_last_n = keep_best_k, keep_last_n
        self._interval = save_interval_epochs
        self._mirror = None if mirror is None else Mirror(str(mirror), self._choose)
        self._known: dict[str, CheckpointMetadata] = {}

    def should_save(self, epoch: int) -> bool:
        """Whether `save_interval_epochs` names this epoch, counted from 1."""
        return epoch % self._interval == 0

    def save_checkpoint(
        self,
        state: Mapping[str, Any],
        epoch: int,
        metrics: Mapping[str, float],
        metadata: Mapping[str, Any] | None = None,
        *,
        step: int = 0,
    ) -> CheckpointMetadata:
        """Write a checkpoint to the disk, then remove those that are no longer worth keeping.

        Args:
            state: a snapshot of the loop, or parts by name (`model=`, `optimizer=`): anything that has `state_dict`,
                tensors and plain values.
            epoch: the epoch it belongs to, from 1.
            metrics: known of it; without the monitored one it cannot be among the best.
            metadata: what else to keep beside it, JSON-able.
            step: batches trained on so far.

        Raises:
            StorageError: the disk is full, the place cannot be written, or `state` holds something that is neither a
                tensor nor plain. Earlier checkpoints are as they were.
        """
        parts = {name: part.state_dict() if hasattr(part, "state_dict") else part for name, part in state.items()}
        plain = PlainState(own=False).of(parts)
        with unfinished_directory(self.directory, "checkpoint") as folder:
            written = write_state(folder / STATE, plain)
            with exclusive(self.directory / _LOCK):
                before = self.checkpoints()
                number = next_number(path.name.removeprefix(_DAMAGED) for path in self.directory.iterdir())
                name = checkpoint_name(number, epoch, step, written.checksum)
                saved = CheckpointMetadata(
                    name=name,
                    path=str(self.directory / name),
                    epoch=epoch,
                    step=step,
                    metrics={key: float(value) for key, value in metrics.items()},
                    is_best=self._is_best(metrics, before),
                    timestamp=datetime.now(UTC).isoformat(),
                    size_bytes=written.num_bytes,
                    optimizer_state_bytes=sum(
                        tensor.nbytes for part in _OPTIMIZER_PARTS for tensor in tensors_of(plain.get(part))
                    ),
                    checksum=written.checksum,
                    environment=self.environment,
                    notes=dict(metadata or {}),
                )
                text = canonical_json({**json.loads(saved.model_dump_json()), "path": ""})
                with storage_errors(folder):
                    (folder / METADATA).write_text(text, encoding="utf-8")
                finish_directory(folder, self.directory / name, {STATE: written.checksum})
                self._known[name] = saved
                self._prune(saved)
                remember(self.directory, saved)
        if self._mirror is not None:
            self._mirror.send(self.directory / name)
        return saved

    def load_checkpoint(self, path: str | Path | None = None, **parts: Any) -> Snapshot:
        """The snapshot of a checkpoint, its tensors on the CPU, with its checksum verified and no code run.

        Args:
            path: a checkpoint's directory; by default the newest good one here or, where that is damaged or gone, at
                the mirror.
            parts: objects with `load_state_dict` that take over the snapshot's parts of their names.

        Raises:
            StorageError: there is none, or the one at `path` is damaged; the message says how.
            ConfigError: it is of a training with other settings, or of parts of other shapes.
        """
        if path is not None:
            folder = Path(path)
            try:
                _verify(folder)
                found = read_local_metadata(folder), read_state(folder / STATE)
            except OSError as error:
                raise StorageError(f"{folder} cannot be read ({error})") from error
        else:
            found = self._newest()
            if found is None:
                raise StorageError(f"{self.directory} holds no checkpoint that can be used; train from the start")
        metadata, snapshot = found
        self.environment.accept(metadata.environment, metadata.path)
        for name, part in parts.items():
            if name not in snapshot:
                raise StorageError(f"{metadata.path} has no part '{name}'; it has {', '.join(sorted(snapshot))}")
            take_state(part, snapshot[name], name, str(metadata.path))
        return snapshot

    def latest(self) -> Snapshot | None:
        """The snapshot to go on from, for `fit(resume=…)`; None when there is none and training starts anew.

        Raises:
            ConfigError: it is of a training with other settings.
        """
        found = self._newest()
        if found is None:
            return None
        metadata, snapshot = found
        self.environment.accept(metadata.environment, metadata.path)
        return snapshot

    def get_best_checkpoint(self) -> Path | None:
        """The directory of the best checkpoint by the monitored metric that reads back whole; None: none has it."""
        for kept in ranked(self.checkpoints(), self.monitor, self.mode):
            folder = self.directory / kept.name
            try:
                _verify(folder)
            except StorageError as error:
                self._put_aside(folder, error)
            else:
                return folder
        return None

    def checkpoints(self) -> list[CheckpointMetadata]:
        """What is known of the checkpoints in the directory, the oldest first; no state is read."""
        found: list[CheckpointMetadata] = []
        for name in self._names():
            if name not in self._known:
                try:
                    self._known[name] = read_local_metadata(self.directory / name)
                except StorageError as error:
                    self._put_aside(self.directory / name, error)
                    continue
            found.append(self._known[name])
        self._known = {kept.name: kept for kept in found}
        return found

    def get_checkpoint_history(self) -> "pd.DataFrame":
        """Every checkpoint ever saved here, the oldest first, one per row; see `history_frame` for the columns."""
        return history_frame(self.directory, self.checkpoints(), self.monitor, self.mode)

    history = get_checkpoint_history

    def flush(self, seconds: float = 60.0) -> None:
        """Wait until the mirror has every checkpoint, for at most `seconds`; warns when it has not."""
        if self._mirror is not None and not self._mirror.wait(seconds):
            _log.warning("the mirror %s is still behind after %g s", self._mirror.url, seconds)

    def _names(self) -> list[str]:
        try:
            return checkpoint_names(path.name for path in self.directory.iterdir())
        except FileNotFoundError:
            return []

    def _choose(self, checkpoints: Sequence[CheckpointMetadata]) -> set[str]:
        return worth_keeping(
            checkpoints,
            keep_best_k=self._keep_best_k,
            keep_last_n=self._keep_last_n,
            monitor=self.monitor,
            mode=self.mode,
        )

    def _is_best(self, metrics: Mapping[str, float], before: Sequence[CheckpointMetadata]) -> bool:
        """Whether `metrics` beat those of all checkpoints that are kept."""
        value = float(metrics.get(self.monitor, math.nan))
        best = ranked(before, self.monitor, self.mode)
        if not math.isfinite(value) or not best:
            return math.isfinite(value)
        return value < best[0].metrics[self.monitor] if self.mode == "min" else value > best[0].metrics[self.monitor]

    def _prune(self, newest: CheckpointMetadata) -> None:
        """Remove what is not worth keeping, once `newest` is known to read back."""
        sweep_unfinished(self.directory)
        checkpoints = self.checkpoints()
        keep = self._choose(checkpoints)
        superfluous = [kept for kept in checkpoints if kept.name not in keep]
        if not superfluous:
            return
        folder = self.directory / newest.name
        if not is_whole(folder) or (folder / STATE).stat().st_size != newest.size_bytes:
            raise StorageError(f"{folder} does not read back as it was written; look at the disk")
        check_archive(folder / STATE)
        for kept in superfluous:
            with suppress(OSError):  # what cannot be removed now is tried again after the next save
                remove_directory(self.directory / kept.name)
                del self._known[kept.name]

    def _newest(self) -> tuple[CheckpointMetadata, Snapshot] | None:
        """The newest good checkpoint, here or at the mirror."""
        there: list[str] = []
        tried: set[str] = set()
        ask_mirror = self._mirror is not None
        # Looks anew after every failure: what was the newest may be superfluous by now for a process that saves.
        while (untried := {*self._names(), *there} - tried) or ask_mirror:
            if ask_mirror and (tried or not untried) and self._mirror is not None:
                there, ask_mirror = self._mirror.names(), False
                tried.clear()  # what is put aside here may be whole there
                continue
            name = max(untried)
            tried.add(name)
            folder = self.directory / name
            found = self._try(folder)
            if found is None and name in there and not folder.exists() and self._fetch(name):
                found = self._try(folder)
            if found is not None:
                return found
        return None

    def _try(self, folder: Path) -> tuple[CheckpointMetadata, Snapshot] | None:
        """A checkpoint, or None and a warning why not; a damaged one is put aside."""
        if not folder.exists():
            return None
        try:
            _verify(folder)
        except StorageError as error:
            self._put_aside(folder, error)
            return None
        except OSError as error:
            _log.warning("checkpoint %s is not used: %s", folder.name, error)
            return None
        try:
            return read_local_metadata(folder), read_state(folder / STATE)
        except (StorageError, OSError) as error:
            _log.warning("checkpoint %s is not used: %s", folder.name, error)
            return None

    def _fetch(self, name: str) -> bool:
        """Bring a checkpoint back from the mirror."""
        assert self._mirror is not None
        with unfinished_directory(self.directory, "fetched") as folder:
            if not self._mirror.fetch(name, folder):
                return False
            try:
                _verify(folder)
            except (StorageError, OSError) as error:
                _log.warning("the copy of checkpoint %s at %s is not used: %s", name, self._mirror.url, error)
                return False
            with storage_errors(self.directory):
                finish_directory(folder, self.directory / name)
        _log.warning("checkpoint %s was brought back from %s", name, self._mirror.url)
        return True

    def _put_aside(self, folder: Path, error: Exception) -> None:
        """Take a damaged checkpoint out of use, so that it neither counts as kept nor is tried again."""
        if not folder.exists():  # another process found it superfluous
            return
        _log.warning("checkpoint %s is not used: %s", folder.name, error)
        self._known.pop(folder.name, None)
        with suppress(OSError):  # a directory that may only be read; it will be tried again, which costs time only
            folder.rename(folder.with_name(_DAMAGED + folder.name))


def _verify(folder: Path) -> None:
    """Compare every file of a checkpoint with its checksum.

    Raises:
        StorageError: one is missing, changed or was added; or there is no checkpoint.
        OSError: one cannot be read.
    """
    try:
        verify_published(open_published(folder))
    except (ValueError, TypeError, AttributeError) as error:
        raise StorageError(f"{folder}: its checksums cannot be read ({error})") from None
