"""Where runs are recorded: several places at once, behind one protocol; recording never stops or slows training."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from training_core.errors import ConfigError
from training_core.tracking.guarded import Guarded
from training_core.tracking.jsonl import JsonLinesTracker
from training_core.tracking.null import NullTracker
from training_core.tracking.protocol import (
    Follower,
    Live,
    ModelPackage,
    ResolvedModel,
    RunRecord,
    RunStatus,
    TrackedDataset,
    Tracker,
    flat_params,
)

TrackerKind = Literal["mlflow", "tensorboard", "wandb", "jsonl"]

__all__ = [
    "Follower",
    "Guarded",
    "JsonLinesTracker",
    "Live",
    "ModelPackage",
    "NullTracker",
    "ResolvedModel",
    "RunRecord",
    "RunStatus",
    "TrackedDataset",
    "Tracker",
    "TrackerKind",
    "flat_params",
    "home_of",
    "open_tracker",
]


def open_tracker(kinds: Sequence[TrackerKind], store_root: Path) -> Tracker:
    """A tracker that records in all of `kinds`, with files under `store_root`; quick: nothing is imported before use.

    MLflow uses the server or database of `MLFLOW_TRACKING_URI` when that is set, else `<store_root>/mlflow.db`; the
    others write `<store_root>/tensorboard`, `<store_root>/wandb` and, of JSON lines, `<store_root>/tracking`. What one
    of them fails to record goes to JSON lines there. No kinds: nothing is recorded.

    Raises:
        ConfigError: a tracker is not installed.
    """
    if not kinds:
        return NullTracker()
    lines = JsonLinesTracker(store_root / "tracking")
    trackers: list[Follower] = []
    if "tensorboard" in kinds:
        _require("tensorboard")
        from training_core.tracking.tensorboard import TensorBoardTracker

        trackers.append(TensorBoardTracker(store_root / "tensorboard"))
    if "wandb" in kinds:
        _require("wandb")
        from training_core.tracking.wandb import WandbTracker

        trackers.append(WandbTracker(store_root))
    if "jsonl" in kinds:
        trackers.append(lines)
    fallback = None if "jsonl" in kinds else lines
    if "mlflow" in kinds:  # the ids of runs are MLflow's: it takes none from others
        from training_core.tracking.mlflow import MLflowTracker

        return Guarded(MLflowTracker(store_root), fallback, trackers)
    return Guarded(trackers[0], fallback, trackers[1:])


def home_of(tracker: Tracker) -> str:
    """Where the ids that a tracker gives are good: of several trackers only that which gives them counts."""
    return tracker.home if isinstance(tracker, Guarded) else tracker.location


def _require(package: str) -> None:
    if find_spec(package) is None:
        raise ConfigError(f"the tracker '{package}' is not installed: pip install 'polychoir[{package}]'")
