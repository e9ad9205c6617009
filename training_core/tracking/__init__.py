"""Where runs are recorded: MLflow, JSON lines or nowhere, behind one protocol; recording never stops training."""

from pathlib import Path
from typing import Literal

from training_core.tracking.guarded import Guarded
from training_core.tracking.jsonl import JsonLinesTracker
from training_core.tracking.null import NullTracker
from training_core.tracking.protocol import (
    ModelPackage,
    ResolvedModel,
    RunRecord,
    RunStatus,
    TrackedDataset,
    Tracker,
    flat_params,
)

TrackerKind = Literal["mlflow", "jsonl", "none"]

__all__ = [
    "Guarded",
    "JsonLinesTracker",
    "ModelPackage",
    "NullTracker",
    "ResolvedModel",
    "RunRecord",
    "RunStatus",
    "TrackedDataset",
    "Tracker",
    "TrackerKind",
    "flat_params",
    "open_tracker",
]


def open_tracker(kind: TrackerKind, store_root: Path) -> Tracker:
    """A tracker that keeps its files under `store_root`; quick, since nothing is imported or created before use.

    MLflow comes guarded: what it fails to record goes to JSON lines in `<store_root>/tracking`. It uses the server or
    database of `MLFLOW_TRACKING_URI` when that is set, else `<store_root>/mlflow.db`.
    """
    lines = JsonLinesTracker(store_root / "tracking")
    if kind == "none":
        return NullTracker()
    if kind == "jsonl":
        return lines
    from training_core.tracking.mlflow import MLflowTracker

    return Guarded(MLflowTracker(store_root), lines)
