"""What is known of a checkpoint without opening it, and which checkpoints are worth keeping."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import NonNegativeInt

from training_core.config import Config
from training_core.engine.checkpoints.environment import Environment
from training_core.errors import ConfigError, StorageError

STATE = "state.pt"
METADATA = "metadata.json"

Mode = Literal["min", "max"]

_NAME = re.compile(r"(\d{8,})-epoch\d{4,}-step\d{8,}-[0-9a-f]{8}")


class CheckpointMetadata(Config):
    """A checkpoint, for whoever looks for the right one."""

    name: str
    """Of its directory: number of the save, epoch, step, beginning of the checksum. Sorts by age."""
    path: str = ""
    """Its directory, where it was found."""
    epoch: NonNegativeInt
    """Epoch in which, or at whose end, it was taken; from 1."""
    step: NonNegativeInt
    """Batches trained on before it was taken."""
    metrics: Mapping[str, float]
    is_best: bool
    """When it was saved, no other checkpoint there was better by the monitored metric."""
    timestamp: str
    """When it was saved, ISO 8601 with time zone."""
    size_bytes: NonNegativeInt
    """Size of its state on the disk."""
    optimizer_state_bytes: NonNegativeInt
    """Of which the optimiser's tensors take this much."""
    checksum: str
    """Of its state's file: `crc32:` and eight hexadecimal digits."""
    environment: Environment
    """Where it was trained, and how."""
    notes: Mapping[str, Any] = {}
    """What the caller wanted to be kept beside it, JSON-able."""


def checkpoint_names(names: Iterable[str]) -> list[str]:
    """Those of `names` that are checkpoints', the oldest first."""
    return sorted(name for name in names if _NAME.fullmatch(name))


def checkpoint_name(number: int, epoch: int, step: int, checksum: str) -> str:
    """The name of the checkpoint that was saved as number `number`."""
    return f"{number:08d}-epoch{epoch:04d}-step{step:08d}-{checksum[-8:]}"


def next_number(names: Iterable[str]) -> int:
    """The number of the next checkpoint after those among `names`."""
    return max((int(name.partition("-")[0]) for name in checkpoint_names(names)), default=0) + 1


def read_metadata(text: str, folder: str) -> CheckpointMetadata:
    """The metadata written as `text` into the checkpoint directory `folder`.

    Raises:
        StorageError: it is not what a checkpoint has there.
    """
    try:
        return CheckpointMetadata.parse({**json.loads(text), "path": folder}, METADATA)
    except (ValueError, TypeError, ConfigError) as error:
        raise StorageError(f"{folder}: its metadata cannot be read ({error})") from None


def read_local_metadata(folder: Path) -> CheckpointMetadata:
    """The metadata of the checkpoint directory `folder`.

    Raises:
        StorageError: they are not there or not what a checkpoint has there.
        OSError: they cannot be read.
    """
    try:
        return read_metadata((folder / METADATA).read_text(encoding="utf-8"), str(folder))
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise StorageError(f"{folder}: its metadata cannot be read ({error})") from error


def ranked(checkpoints: Iterable[CheckpointMetadata], monitor: str, mode: Mode) -> list[CheckpointMetadata]:
    """The checkpoints that have a finite metric `monitor`, the best first, among equals the one with fewer steps."""
    sign = 1.0 if mode == "min" else -1.0
    judged = [kept for kept in checkpoints if math.isfinite(kept.metrics.get(monitor, math.nan))]
    return sorted(judged, key=lambda kept: (sign * kept.metrics[monitor], kept.step, kept.name))


def worth_keeping(
    checkpoints: Sequence[CheckpointMetadata], *, keep_best_k: int, keep_last_n: int, monitor: str, mode: Mode
) -> set[str]:
    """The names of the `keep_best_k` best and of the `keep_last_n` newest."""
    newest = sorted((kept.name for kept in checkpoints), reverse=True)[:keep_last_n]
    return {*newest, *(kept.name for kept in ranked(checkpoints, monitor, mode)[:keep_best_k])}
