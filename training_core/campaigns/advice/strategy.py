"""From what a person wants to the settings of a run, with what it will take and why each setting is what it is."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from training_core.campaigns.advice.estimate import DataFacts, RunEstimate, estimate_run
from training_core.campaigns.run_config import RunConfig
from training_core.config import Config
from training_core.errors import ConfigError
from training_core.schema import DataSpec
from training_core.settings import merged

Goal = Literal["real_time", "accuracy_critical", "large_scale", "resource_constrained"]

_LARGE_ROWS = 50_000
"""Training rows from which on larger batches cost no steps that are missed."""
_FEWEST_STEPS = 10
"""Batches that should make an epoch: a net that takes fewer steps learns little of an epoch."""
_SMALLEST_BATCH = 8
"""Below it a gradient is mostly noise, and the time goes into calls."""

_GOALS: Mapping[Goal, Mapping[str, Any]] = {
    "real_time": {
        "preset": "quick",
        "learners": {"strategy": "speed"},
        "training": {"epochs": 50, "batch_size": 128, "schedule": "one_cycle"},
        "combination": {"method": "greedy", "max_rounds": 10},
    },
    "accuracy_critical": {
        "preset": "best",
        "learners": {"strategy": "accuracy"},
        "training": {"patience": 30},
        "denoising": {"enabled": True},
    },
    "large_scale": {
        "bags": {"num_bags": 8, "row_fraction": 0.5},
        "learners": {"learners_per_bag": 1},
        "training": {"epochs": 20, "patience": 4, "batch_size": 256},
    },
    "resource_constrained": {
        "preset": "quick",
        "learners": {"strategy": "memory"},
        "training": {"epochs": 30, "batch_size": 16, "accumulation": 2, "stacking": "never"},
        "budget": {"workers": 1, "group_size": 2},
    },
}
_WHY: Mapping[Goal, str] = {
    "real_time": "few quick learners, of which greedy selection keeps the least: every learner kept is asked for every "
    "answer",
    "accuracy_critical": "many learners of several kinds and copies, trained long, with denoising",
    "large_scale": "few learners on half of the rows each, few passes in large batches: there are rows enough",
    "resource_constrained": "small kinds of learner, one process at a time, small batches whose gradients are summed",
}


class TrainingStrategy(Config):
    """Settings for a run, and what they come to."""

    name: str
    """The goals, or `balanced` without any."""
    config: RunConfig
    estimate: RunEstimate
    reasons: tuple[str, ...]
    """Why, a sentence each."""

    @property
    def estimated_seconds(self) -> float:
        """What the run is expected to take."""
        return self.estimate.seconds

    @property
    def memory_mb(self) -> float:
        """What it is expected to hold at a time, in MB (1e6 bytes)."""
        return self.estimate.memory_mb


def configure_training(
    learners: Sequence[str], data: DataFacts, goals: Sequence[Goal] = (), **settings: Any
) -> TrainingStrategy:
    """The settings for a run on `data` that serve `goals`.

    Of goals that contradict one another the one named first is followed, and a reason says so.

    Args:
        learners: kinds of learner to choose from; empty: all.
        data: what it is trained on.
        goals: what matters, the most important first; none: the balanced preset.
        settings: fields of `RunConfig` that stand over all this.

    Raises:
        ConfigError: a goal, a kind of learner or a setting is unknown, or no learner can take the data.
    """
    if unknown := [goal for goal in goals if goal not in _GOALS]:
        raise ConfigError(f"unknown goal '{unknown[0]}'; choose from {', '.join(_GOALS)}")
    chosen: dict[str, Any] = {}
    reasons = []
    for goal in goals:
        yielding = sorted(key for key, value in _flat(_GOALS[goal]).items() if _flat(chosen).get(key, value) != value)
        chosen = merged(_GOALS[goal], chosen)
        reasons.append(f"{goal}: {_WHY[goal]}")
        if yielding:
            reasons.append(f"{goal} gives way to what was named before it in {', '.join(yielding)}")
    for key, value, why in _fitting(data, chosen):
        chosen = merged(chosen, _nested(key, value))
        reasons.append(f"{key} {value}: {why}")
    if learners:
        chosen = merged(chosen, {"learners": {"include": tuple(learners)}})
    config = RunConfig.load(**merged({"dataset": data.name, **chosen}, settings))
    return TrainingStrategy(
        name=" and ".join(goals) or "balanced",
        config=config,
        estimate=estimate_run(config, data),
        reasons=tuple(reasons),
    )


def _fitting(data: DataFacts, chosen: Mapping[str, Any]) -> list[tuple[str, Any, str]]:
    """What the data themselves ask for, where no goal has said anything."""
    flat, found = _flat(chosen), []
    batch_size = flat.get("training.batch_size", 32)
    if data.num_rows < _FEWEST_STEPS * batch_size and batch_size > _SMALLEST_BATCH:
        fitting = max(_SMALLEST_BATCH, 2 ** int(math.log2(max(1, data.num_rows / _FEWEST_STEPS))))
        why = f"reduced from {batch_size}, for there are only {data.num_rows} rows"
        found.append(("training.batch_size", min(fitting, batch_size), why))
    elif data.num_rows >= _LARGE_ROWS and "training.batch_size" not in flat:
        found.append(("training.batch_size", 256, f"with {data.num_rows} rows an epoch has steps enough"))
    if len(data.spec.modalities) < 2 and flat.get("denoising.enabled"):
        found.append(("denoising.enabled", False, "a single modality has none to be told of by others"))
    if not _has_net_modalities(data.spec) and "bags.num_bags" not in flat and data.num_rows < 200:
        found.append(("bags.sampling", "folds", "few rows: every one of them is heard outside a bag"))
    return found


def _has_net_modalities(spec: DataSpec) -> bool:
    """Whether there is anything that only nets take well."""
    return any(modality.kind in ("image", "text", "sequence") for modality in spec.modalities)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return found


def _nested(key: str, value: Any) -> dict[str, Any]:
    for step in reversed(key.split(".")):
        value = {step: value}
    return value
