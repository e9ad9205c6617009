"""Runs as JSON lines: one folder per run, one line per thing that happened; readable with any text tool.

`<root>/<run id>/events.jsonl`; texts are kept beside it in `artifacts/`. Files are referred to, not copied: this is
the tracker that must still work when the disk is nearly full.
"""

import json
import threading
import time
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


class JsonLinesTracker:
    """Writes every event at once, so that a killed process loses nothing that was logged before."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._lock = threading.Lock()

    @property
    def location(self) -> str:
        """The folder that holds a folder per run."""
        return str(self._root)

    def connect(self) -> None:
        """Create the folder."""
        self._root.mkdir(parents=True, exist_ok=True)

    def start(
        self,
        name: str,
        *,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        dataset: TrackedDataset | None = None,
        run_id: str | None = None,
    ) -> str:
        """Begin a run."""
        run_id = run_id or new_run_id()
        source = dataset.model_dump(mode="json") if dataset else None
        self._write(run_id, "start", name=name, tags=dict(tags or {}), params=dict(params or {}), dataset=source)
        return run_id

    def log_run(self, parent_id: str, record: RunRecord, run_id: str | None = None) -> str:
        """One line with the whole record in the child's own folder, and one in the parent's that points to it."""
        run_id = run_id or new_run_id()
        self._write(run_id, "run", parent=parent_id, **json.loads(record.model_dump_json()))
        self._write(parent_id, "child", run=run_id, name=record.name, status=record.status)
        return run_id

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int = 0) -> None:
        """One line with all the values."""
        self._write(run_id, "metrics", step=step, metrics={key: _plain(value) for key, value in metrics.items()})

    def log_text(self, run_id: str, text: str, name: str) -> None:
        """The text as a file in the run's folder.

        Raises:
            ConfigError: `name` leads out of the run's folder.
        """
        path = write_text_within(self._root / run_id / "artifacts", name, text)
        self._write(run_id, "artifact", path=str(path), folder="")

    def log_artifact(self, run_id: str, path: Path, folder: str = "") -> None:
        """One line with where the file is."""
        self._write(run_id, "artifact", path=str(path.absolute()), folder=folder)

    def finish(self, run_id: str, status: RunStatus = "FINISHED") -> None:
        """The line that ends the run."""
        self._write(run_id, "finish", status=status)

    def log_ensemble(self, run_id: str, package: ModelPackage) -> str | None:
        """One line with where the ensemble is; None, since there is no registry."""
        self._write(run_id, "ensemble", name=package.name, path=str(package.folder), sha256=package.sha256)
        return None

    def resolve_model(self, uri: str) -> ResolvedModel:
        """Always refused.

        Raises:
            ConfigError: there is no registry.
        """
        raise ConfigError(f"cannot look up '{uri}': JSON lines keep no models; give the ensemble's directory instead")

    def _write(self, run_id: str, event: str, **content: Any) -> None:
        line = json.dumps({"time": time.time(), "event": event, **content}, ensure_ascii=False, allow_nan=False)
        path = self._root / run_id / "events.jsonl"
        with self._lock:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")


def _plain(value: float) -> float | str:
    """A number as JSON has it; NaN and infinities, which JSON lacks, as text (as in every `Config`)."""
    value = float(value)
    if value != value:
        return "NaN"
    return value if abs(value) != float("inf") else "Infinity" if value > 0 else "-Infinity"
