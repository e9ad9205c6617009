"""The list of every checkpoint ever saved to a directory, which outlives the checkpoints themselves."""

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from training_core.artifacts import storage_errors
from training_core.config import canonical_json
from training_core.engine.checkpoints.metadata import CheckpointMetadata, Mode

if TYPE_CHECKING:
    import pandas as pd

_FILE = "history.jsonl"
_NUMBERS = ("epoch", "step", "size_bytes", "optimizer_state_bytes")
_TEXTS = ("name", "timestamp", "checksum")


def remember(directory: Path, saved: CheckpointMetadata) -> None:
    """Add `saved` to the list of `directory`.

    Raises:
        StorageError: the disk is full or the place cannot be written.
    """
    # The line break comes first: what a killed process left unfinished then spoils no other line.
    line = "\n" + canonical_json(_entry(saved))
    with storage_errors(directory / _FILE), (directory / _FILE).open("ab", buffering=0) as file:
        file.write(line.encode())


def history_frame(
    directory: Path, checkpoints: Iterable[CheckpointMetadata], monitor: str, mode: Mode
) -> "pd.DataFrame":
    """Every checkpoint ever saved to `directory`, the oldest first, one per row; `checkpoints` are still there.

    Returns:
        Columns `epoch`, `step`, each metric under its own name, `is_best` (of all of them; among equals the first),
        `kept` (still there), `timestamp`, `size_bytes`, `optimizer_state_bytes`, `checksum` and `path`.
    """
    import pandas as pd

    there = {kept.name: {**_entry(kept), "metrics": dict(kept.metrics)} for kept in checkpoints}
    entries = {**_read(directory), **there}
    named = sorted({key for entry in entries.values() for key in entry["metrics"]})
    rows = [
        {
            "epoch": entry["epoch"],
            "step": entry["step"],
            **{key: entry["metrics"].get(key, float("nan")) for key in named},
            "is_best": False,
            "kept": name in there,
            **{key: entry[key] for key in ("timestamp", "size_bytes", "optimizer_state_bytes", "checksum")},
            "path": str(directory / name),
        }
        for name, entry in sorted(entries.items())
    ]
    if not rows:
        return pd.DataFrame(columns=["epoch", "step", "is_best", "kept", "timestamp", "path"])
    frame = pd.DataFrame(rows)
    judged = frame[monitor][np.isfinite(frame[monitor])] if monitor in named else pd.Series()
    if len(judged):
        frame.loc[judged.idxmin() if mode == "min" else judged.idxmax(), "is_best"] = True
    return frame


def _entry(kept: CheckpointMetadata) -> dict[str, Any]:
    return json.loads(kept.model_dump_json(include={*_NUMBERS, *_TEXTS, "metrics"}))


def _read(directory: Path) -> dict[str, dict[str, Any]]:
    """The lines of the list by name, without those that were not finished."""
    entries: dict[str, dict[str, Any]] = {}
    with suppress(FileNotFoundError):
        for line in (directory / _FILE).read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, KeyError, TypeError, AttributeError):
                read = json.loads(line)
                entry: dict[str, Any] = {key: int(read[key]) for key in _NUMBERS}
                entry |= {key: str(read[key]) for key in _TEXTS}
                entry["metrics"] = {key: float(value) for key, value in read["metrics"].items()}
                entries[str(read["name"])] = entry
    return entries
