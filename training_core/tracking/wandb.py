"""Runs as Weights & Biases keeps them, written to disk only: `wandb sync` sends them when a person wants them sent."""

import os
import shutil
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
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

_ENVIRONMENT = {
    "WANDB_ERROR_REPORTING": "false",  # else it sends its own crashes to Sentry
    "WANDB_SILENT": "true",
}
"""What W&B is told before it is imported, which is when it reads them."""
_STEP = "step"


class WandbTracker:
    """Writes `<root>/wandb/offline-run-*`, a folder per run; a run and its learners form a group.

    Nothing is sent anywhere, whatever `WANDB_MODE` says. `wandb sync <root>/wandb/offline-run-*` uploads.

    Args:
        root: Folder of the runs.
        project: Where `wandb sync` puts them; by default `WANDB_PROJECT`, else "polychoir".
    """

    def __init__(self, root: Path, project: str | None = None) -> None:
        self._root = root.absolute()
        self._project = project or os.environ.get("WANDB_PROJECT") or "polychoir"
        self._lock = threading.Lock()
        self._open: dict[str, Any] = {}

    @property
    def location(self) -> str:
        """The folder that holds a folder per run."""
        return str(self._root / "wandb")

    def connect(self) -> None:
        """Import W&B (seconds, the first time) and create the folder."""
        self._root.mkdir(parents=True, exist_ok=True)
        _wandb()

    def start(
        self,
        name: str,
        *,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        dataset: TrackedDataset | None = None,
        run_id: str | None = None,
    ) -> str:
        """Begin a run; it stays open until it is finished."""
        run_id = run_id or new_run_id()
        source = {"dataset": dataset.model_dump(mode="json")} if dataset else {}
        with self._lock:
            config = {**(params or {}), **source, **(tags or {})}
            self._open[run_id] = self._begin(run_id, name, group=run_id, kind="run", config=config)
        return run_id

    def log_run(self, parent_id: str, record: RunRecord, run_id: str | None = None) -> str:
        """A run of its own in the parent's group, whole and closed."""
        run_id = run_id or new_run_id()
        with self._lock:
            config = {**record.params, **record.tags}
            run = self._begin(run_id, record.name, group=parent_id, kind="learner", config=config)
            try:
                for step, values in _by_step(record.curves):
                    run.log({_STEP: step, **values})
                run.summary.update(dict(record.metrics))
                for path in record.artifacts:
                    _copy(Path(path), Path(run.dir))
            finally:
                run.finish(exit_code=0 if record.status == "FINISHED" else 1, quiet=True)
        return run_id

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int = 0) -> None:
        """Further points of the run's curves."""
        with self._lock:
            self._run(run_id).log({_STEP: step, **metrics})

    def log_text(self, run_id: str, text: str, name: str) -> None:
        """The text as a file of the run.

        Raises:
            ConfigError: `name` leads out of the run's folder.
        """
        with self._lock:
            write_text_within(Path(self._run(run_id).dir), name, text)

    def log_artifact(self, run_id: str, path: Path, folder: str = "") -> None:
        """A copy of a file or a folder among the run's files."""
        with self._lock:
            _copy(path, Path(self._run(run_id).dir) / folder)

    def finish(self, run_id: str, status: RunStatus = "FINISHED") -> None:
        """End a run."""
        with self._lock:
            self._run(run_id).finish(exit_code=0 if status == "FINISHED" else 1, quiet=True)
            del self._open[run_id]

    def log_ensemble(self, run_id: str, package: ModelPackage) -> str | None:
        """Says in the run's summary where the ensemble is; None, since there is no registry on this machine."""
        with self._lock:
            about = {"name": package.name, "folder": str(package.folder), "sha256": package.sha256}
            self._run(run_id).summary.update({"ensemble": about})
        return None

    def resolve_model(self, uri: str) -> ResolvedModel:
        """Always refused.

        Raises:
            ConfigError: there is no registry.
        """
        raise ConfigError(f"cannot look up '{uri}': W&B keeps no models here; give the ensemble's directory instead")

    def _run(self, run_id: str) -> Any:
        """A run that is open; one that another process began is gone on with, and joined to it by `wandb sync`."""
        if run_id not in self._open:
            self._open[run_id] = self._begin(run_id, None, group=run_id, kind="run", config={})
        return self._open[run_id]

    def _begin(self, run_id: str, name: str | None, *, group: str, kind: str, config: Mapping[str, Any]) -> Any:
        wandb = _wandb()
        self._root.mkdir(parents=True, exist_ok=True)
        run = wandb.init(
            project=self._project,
            dir=str(self._root),
            id=run_id,
            name=name,
            group=group,
            job_type=kind,
            config=dict(config),
            mode="offline",
            reinit="create_new",  # several runs are open at once
            settings=wandb.Settings(
                silent=True,
                console="off",  # nothing that is printed belongs to a run
                disable_git=True,
                disable_code=True,
                save_code=False,
                x_disable_meta=True,
                x_disable_machine_info=True,
                x_disable_stats=True,
            ),
        )
        run.define_metric("*", step_metric=_STEP)
        return run


@cache
def _wandb() -> ModuleType:
    """W&B, imported on first use (seconds), after its environment is settled."""
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    import wandb

    return wandb


def _by_step(curves: Mapping[str, tuple[tuple[int, float], ...]]) -> list[tuple[int, dict[str, float]]]:
    """The points of all curves, by step."""
    rows: dict[int, dict[str, float]] = {}
    for key, curve in curves.items():
        for step, value in curve:
            rows.setdefault(step, {})[key] = value
    return sorted(rows.items())


def _copy(path: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.copytree(path, folder / path.name, dirs_exist_ok=True)
    else:
        shutil.copy2(path, folder)
