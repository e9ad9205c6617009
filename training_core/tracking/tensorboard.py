"""Runs as TensorBoard shows them: a folder of event files per run, and one per learner that grows as it trains."""

import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training_core.errors import ConfigError
from training_core.tracking.protocol import (
    ModelPackage,
    ResolvedModel,
    RunRecord,
    RunStatus,
    TrackedDataset,
    new_run_id,
    write_text_within,
)

_FLUSH_SECONDS = 5


class TensorBoardTracker:
    """Writes `<root>/<name>-<run id>/`, and `<root>/<name>-<run id>/<learner>/` for each child run.

    Settings and final metrics of the learners are under HParams, texts under Text. TensorBoard keeps no files and no
    models: they are beside the event files, or named there.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._lock = threading.Lock()
        self._folders: dict[str, Path] = {}
        self._open: dict[Path, _Events] = {}

    @property
    def location(self) -> str:
        """What to give `tensorboard --logdir`."""
        return str(self._root)

    def connect(self) -> None:
        """Import TensorBoard (seconds, the first time) and create the folder."""
        self._root.mkdir(parents=True, exist_ok=True)
        from torch.utils import tensorboard as _  # noqa: F401

    def start(
        self,
        name: str,
        *,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        dataset: TrackedDataset | None = None,
        run_id: str | None = None,
    ) -> str:
        """Begin a run: a folder with its settings as a text."""
        run_id = run_id or new_run_id()
        source = {"dataset": f"{dataset.name}@{dataset.version}"} if dataset else {}
        with self._lock:
            self._folders[run_id] = self._root / f"{_legal(name)}-{run_id}"
            self._events(self._folders[run_id]).text("settings", _table({**source, **(params or {}), **(tags or {})}))
        return run_id

    def log_run(self, parent_id: str, record: RunRecord, run_id: str | None = None) -> str:
        """A folder of the child's own below its parent's; curves that were shown as they grew are completed."""
        with self._lock:
            folder = self._folder(parent_id) / _legal(record.name)
            events = self._events(folder)
            if any(events.precedes(key, curve) for key, curve in record.curves.items()):
                # A training that went on from a checkpoint was shown from there only: its folder is written anew.
                events.remove()
                self._open[folder] = events = _Events(folder)
            for key, curve in record.curves.items():
                for step, value in curve:
                    events.scalar(key, value, step)
            for key, value in record.metrics.items():
                events.scalar(key, value, 0)
            events.settings(record.params, record.metrics)
            about = {"status": record.status, **record.tags, **{f"file {i}": p for i, p in enumerate(record.artifacts)}}
            events.text("about", _table(about))
            self._close(folder)
        return run_id or new_run_id()

    def log_progress(self, parent_id: str, name: str, metrics: Mapping[str, float], step: int) -> None:
        """Further points of a learner's curves."""
        with self._lock:
            events = self._events(self._folder(parent_id) / _legal(name))
            for key, value in metrics.items():
                events.scalar(key, value, step)
            events.flush()

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int = 0) -> None:
        """Further points of the run's own curves."""
        with self._lock:
            events = self._events(self._folder(run_id))
            for key, value in metrics.items():
                events.scalar(key, value, step)
            events.flush()

    def log_text(self, run_id: str, text: str, name: str) -> None:
        """The text as a file in the run's folder; plain ones are shown as well.

        Raises:
            ConfigError: `name` leads out of the run's folder.
        """
        with self._lock:
            folder = self._folder(run_id)
            path = write_text_within(folder, name, text)
            if path.suffix in {".txt", ".md"}:
                self._events(folder).text(name, text if path.suffix == ".md" else _verbatim(text))

    def log_artifact(self, run_id: str, path: Path, folder: str = "") -> None:
        """A text that says where the file is."""
        with self._lock:
            self._events(self._folder(run_id)).text("/".join(filter(None, ("files", folder))), _verbatim(str(path)))

    def finish(self, run_id: str, status: RunStatus = "FINISHED") -> None:
        """Close the run's files, and those of children that never ended."""
        with self._lock:
            folder = self._folder(run_id)
            self._events(folder).text("status", status)
            for path in [path for path in self._open if path == folder or folder in path.parents]:
                self._close(path)

    def log_ensemble(self, run_id: str, package: ModelPackage) -> str | None:
        """A text that says where the ensemble is; None, since there is no registry."""
        with self._lock:
            about = {"name": package.name, "folder": str(package.folder), "sha256": package.sha256}
            self._events(self._folder(run_id)).text("ensemble", _table(about))
        return None

    def resolve_model(self, uri: str) -> ResolvedModel:
        """Always refused.

        Raises:
            ConfigError: there is no registry.
        """
        raise ConfigError(f"cannot look up '{uri}': TensorBoard keeps no models; give the ensemble's directory instead")

    def _folder(self, run_id: str) -> Path:
        """The folder of a run that this or another process began."""
        if run_id not in self._folders:
            found = sorted(self._root.glob(f"*-{run_id}"))
            self._folders[run_id] = found[0] if found else self._root / f"run-{run_id}"
        return self._folders[run_id]

    def _events(self, folder: Path) -> "_Events":
        return self._open.setdefault(folder, _Events(folder))

    def _close(self, folder: Path) -> None:
        self._open.pop(folder).close()


class _Events:
    """The event file that this process writes in one folder; made when there is something to write."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None
        self._files: list[Path] = []
        self._seen: dict[str, set[int]] = {}

    def scalar(self, key: str, value: float, step: int) -> None:
        """A point of a curve, unless the curve has one at this step: a group of learners that is tried again."""
        seen = self._seen.setdefault(key, set())
        if step not in seen:
            seen.add(step)
            self._writing().add_scalar(key, value, step)

    def precedes(self, key: str, curve: tuple[tuple[int, float], ...]) -> bool:
        """Whether the curve has points that lie before those written."""
        seen = self._seen.get(key)
        return bool(seen) and any(step not in seen and step < max(seen) for step, _ in curve)

    def text(self, key: str, text: str) -> None:
        """A text, in Markdown."""
        self._writing().add_text(key, text)

    def settings(self, params: Mapping[str, str], metrics: Mapping[str, float]) -> None:
        """What the HParams page shows; numbers as numbers, so that it can sort and draw them."""
        from torch.utils.tensorboard.summary import hparams

        for summary in hparams({key: _number(text) for key, text in params.items()}, dict(metrics)):
            self._writing().file_writer.add_summary(summary)

    def flush(self) -> None:
        """Let what was written be seen."""
        self._writing().flush()

    def close(self) -> None:
        """Write the rest."""
        if self._writer is not None:
            self._writer.close()

    def remove(self) -> None:
        """Take back all that was written."""
        self.close()
        for path in self._files:
            path.unlink(missing_ok=True)

    def _writing(self) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._folder.mkdir(parents=True, exist_ok=True)
            before = set(self._folder.glob("events.*"))
            self._writer = SummaryWriter(str(self._folder), flush_secs=_FLUSH_SECONDS)
            self._files = sorted(set(self._folder.glob("events.*")) - before)
        return self._writer


def _legal(name: str) -> str:
    """A name as a relative path; `bag-01/fusion_net` stays the two levels it reads as."""
    steps = [step for step in re.sub(r"[^\w\-. /#+@=]", "_", name).split("/") if step not in {"", ".", ".."}]
    return "/".join(steps) or "_"


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _table(values: Mapping[str, str]) -> str:
    rows = [f"| {key} | {' '.join(str(value).split()).replace('|', chr(92) + '|')} |" for key, value in values.items()]
    return "\n".join(["| setting | value |", "| --- | --- |", *rows])


def _verbatim(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
