"""What a tracker is told about runs, as plain data, and what every tracker can do with it."""

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from training_core.config import Config, canonical_json
from training_core.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]


class TrackedDataset(Config):
    """The data a run was made from, so that runs on the same data can be found."""

    name: str
    version: str
    fingerprint: str
    """SHA-256 of the content."""
    path: str
    """Where it is stored."""


class RunRecord(Config):
    """A run that is over: everything about it, logged in one call."""

    name: str
    status: RunStatus = "FINISHED"
    tags: Mapping[str, str] = {}
    params: Mapping[str, str] = {}
    """Settings, flat: see `flat_params`."""
    metrics: Mapping[str, float] = {}
    """Final values."""
    curves: Mapping[str, tuple[tuple[int, float], ...]] = {}
    """What changed over the run: (step, value) pairs in the order of the steps."""
    artifacts: tuple[str, ...] = ()
    """Paths of files or folders to keep with the run."""
    dataset: TrackedDataset | None = None
    start_time: float | None = None
    """Seconds since 1970; the time of logging when not given."""
    end_time: float | None = None


@dataclass(frozen=True)
class ModelPackage:
    """An ensemble on disk and what is needed to serve it."""

    folder: Path
    """The ensemble's directory."""
    sha256: str
    """What identifies its content: the same ensemble is registered only once."""
    name: str
    """Name it is registered under; without `/` and `:`."""
    script: Path
    """Models-from-code script: run where the model is loaded, it calls `tracking.mlflow.serve`."""
    example: "pd.DataFrame"
    """A few rows of input, with every column the model knows."""
    outputs: tuple[str, ...]
    """Names of the columns it answers with."""
    requirements: tuple[str, ...]
    """Pinned distributions it needs, as pip reads them."""
    code: tuple[Path, ...] = ()
    """Packages shipped inside the model, so that it loads where they are not installed."""
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ResolvedModel:
    """A registered model, found."""

    uri: str
    """Pinned: an alias or `latest` is replaced by the version it stood for."""
    path: Path
    """Local directory of the ensemble."""
    sha256: str | None
    """What it was registered with; compare before loading. None when someone else registered it."""


class Servable(Protocol):
    """A loaded model that can be served."""

    def predict_frame(self, frame: "pd.DataFrame") -> "pd.DataFrame":
        """Answer a table of inputs, one row per row."""
        ...


class Tracker(Protocol):
    """Where runs are recorded. Safe to call from several threads; run ids are opaque strings."""

    @property
    def location(self) -> str:
        """Where a person finds the runs: a URI or a folder."""
        ...

    def connect(self) -> None:
        """Get ready: import what is needed, create what is missing. Optional; the first use does it otherwise."""
        ...

    def start(
        self,
        name: str,
        *,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        dataset: TrackedDataset | None = None,
    ) -> str:
        """Begin a run that will be finished later; returns its id."""
        ...

    def log_run(self, parent_id: str, record: RunRecord) -> str:
        """Record a run that is over as a child of `parent_id`, in one go; returns its id."""
        ...

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int = 0) -> None:
        """Add values to a run."""
        ...

    def log_text(self, run_id: str, text: str, name: str) -> None:
        """Keep a text with a run, as the file `name` (folders separated by `/`)."""
        ...

    def log_artifact(self, run_id: str, path: Path, folder: str = "") -> None:
        """Keep a file or a directory with a run, inside its folder `folder`."""
        ...

    def finish(self, run_id: str, status: RunStatus = "FINISHED") -> None:
        """End a run."""
        ...

    def log_ensemble(self, run_id: str, package: ModelPackage) -> str | None:
        """Package and register an ensemble; returns `models:/name/version`, or None where there is no registry."""
        ...

    def resolve_model(self, uri: str) -> ResolvedModel:
        """Find a registered ensemble by `models:/name/version`, `models:/name@alias` or `models:/name/latest`.

        Raises:
            ConfigError: the URI is malformed, no such model is registered, or this tracker has no registry.
            StorageError: the model is registered but its files are gone.
        """
        ...


class Follower(Tracker, Protocol):
    """A tracker that takes the ids of another one, so that a run has the same id wherever it is recorded."""

    def start(
        self,
        name: str,
        *,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        dataset: TrackedDataset | None = None,
        run_id: str | None = None,
    ) -> str:
        """Begin a run called `run_id`; one of its own making when not given."""
        ...

    def log_run(self, parent_id: str, record: RunRecord, run_id: str | None = None) -> str:
        """Record a run that is over, called `run_id`; one of its own making when not given."""
        ...


@runtime_checkable
class Live(Protocol):
    """A tracker whose curves can be watched while they grow."""

    def log_progress(self, parent_id: str, name: str, metrics: Mapping[str, float], step: int) -> None:
        """Values of the child run `name` that is not over. `log_run` completes its curves and repeats no step."""
        ...


def new_run_id() -> str:
    """An id that starts with the time, so that folders sort."""
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:12]}"


def write_text_within(folder: Path, name: str, text: str) -> Path:
    """Write a text to `name` in the folder of a run; where it is.

    Raises:
        ConfigError: `name` leads out of the folder.
    """
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ConfigError(f"'{name}' leads out of the run's folder; give a relative name such as 'report.html'")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def flat_params(settings: Mapping[str, Any]) -> dict[str, str]:
    """Nested settings as flat text, keys joined by dots: `{"bags": {"num_bags": 6}}` -> `{"bags.num_bags": "6"}`.

    Lists become JSON; empty mappings leave no trace.
    """
    flat: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{inner}": text for inner, text in flat_params(value).items()}
        else:
            flat[str(key)] = canonical_json(value) if isinstance(value, list | tuple | bool | None) else str(value)
    return flat
