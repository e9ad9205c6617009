"""Building a `TrainerConfig` step by step, from a preset for a situation.

config = TrainingConfigBuilder.baseline().with_training(epochs=30).with_logging(run_name="first").build()
"""

from collections.abc import Iterable, Mapping
from typing import Any, Self

from training_core.engine.distributed.settings import DistributedConfig
from training_core.engine.trainer.config import CheckpointConfig, HardwareConfig, LoggingConfig, TrainerConfig
from training_core.engine.training import TrainingConfig
from training_core.errors import ConfigError

_OF_RUN = ("seed", "deterministic")
_OF_OPTIMIZER = (
    "optimizer", "lr", "weight_decay", "schedule", "warmup_epochs", "clip_norm", "clip_value", "accumulation",
    "ema_decay",
)  # fmt: skip
_OF_ARITHMETIC = ("precision", "compile", "gradient_checkpointing")

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "quick_prototype": {
        "training": {"epochs": 3, "batch_size": 64, "patience": 3, "checkpoint_seconds": 0.0},
        "logging": {"run_name": "quick-prototype"},
    },
    "baseline": {
        "training": {"epochs": 10, "schedule": "one_cycle", "warmup_epochs": 0.5},
        "checkpoints": {"directory": "checkpoints"},
        "logging": {"run_name": "baseline", "trackers": ["jsonl"]},
    },
    "production": {
        "training": {"epochs": 20, "schedule": "cosine_restarts", "warmup_epochs": 1.0, "ema_decay": 0.999},
        "checkpoints": {"directory": "checkpoints"},
        "logging": {"run_name": "production", "trackers": ["mlflow"]},
        "deterministic": True,
    },
    "distributed": {
        "training": {"epochs": 20, "batch_size": 128, "schedule": "cosine_restarts", "warmup_epochs": 1.0},
        "hardware": {"devices": 4, "distributed": {"strategy": "ddp"}},
        "checkpoints": {"directory": "checkpoints"},
        "logging": {"run_name": "distributed", "trackers": ["mlflow"]},
    },
    "low_memory": {
        "training": {
            "epochs": 10,
            "batch_size": 2,
            "accumulation": 8,
            "precision": "bf16",
            "gradient_checkpointing": True,
        },
        "checkpoints": {"directory": "checkpoints", "keep_best_k": 1, "keep_last_n": 1},
        "logging": {"run_name": "low-memory"},
    },
}
"""What each preset sets; all else is the defaults."""


class TrainingConfigBuilder:
    """Settings that are not complete yet. Every `with_…` gives a new builder and leaves this one as it is."""

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        """Start from nested `settings`, or the defaults."""
        self._settings: dict[str, Any] = dict(settings or {})

    @classmethod
    def quick_prototype(cls) -> Self:
        """To see whether it runs at all: 3 epochs, nothing kept or recorded."""
        return cls(PRESETS["quick_prototype"])

    @classmethod
    def baseline(cls) -> Self:
        """To have something to compare with: 10 epochs on one cycle of the learning rate, with checkpoints."""
        return cls(PRESETS["baseline"])

    @classmethod
    def production(cls) -> Self:
        """What goes live: 20 epochs, averaged weights, the same bits every time, recorded."""
        return cls(PRESETS["production"])

    @classmethod
    def distributed(cls) -> Self:
        """Four processes on four devices that average their gradients; `with_hardware(strategy=…)` shares out more."""
        return cls(PRESETS["distributed"])

    @classmethod
    def low_memory(cls) -> Self:
        """Small devices: 2 rows at a time, 8 times per step, in bf16, activations computed again."""
        return cls(PRESETS["low_memory"])

    def with_training(self, **settings: Any) -> Self:
        """Set fields of `TrainingConfig`, `seed` or `deterministic`.

        Raises:
            ConfigError: there is no such setting; those there are are listed.
        """
        _known("with_training", settings, (*TrainingConfig.model_fields, *_OF_RUN))
        return self._with({"training": _without(settings, _OF_RUN), **_only(settings, _OF_RUN)})

    def with_optimizer(self, **settings: Any) -> Self:
        """Set how gradients become steps: rule, learning rate and its schedule, decay, clipping, accumulation, average.

        Raises:
            ConfigError: there is no such setting; those there are are listed.
        """
        _known("with_optimizer", settings, _OF_OPTIMIZER)
        return self._with({"training": settings})

    def with_hardware(self, **settings: Any) -> Self:
        """Set fields of `HardwareConfig` or `DistributedConfig`, or `precision`, `compile`, `gradient_checkpointing`.

        Raises:
            ConfigError: there is no such setting; those there are are listed.
        """
        shared = tuple(DistributedConfig.model_fields)
        own = tuple(name for name in HardwareConfig.model_fields if name != "distributed")
        _known("with_hardware", settings, (*own, *shared, *_OF_ARITHMETIC))
        hardware = {**_only(settings, own), "distributed": _only(settings, shared)}
        return self._with({"hardware": hardware, "training": _only(settings, _OF_ARITHMETIC)})

    def with_checkpoints(self, **settings: Any) -> Self:
        """Set fields of `CheckpointConfig`.

        Raises:
            ConfigError: there is no such setting; those there are are listed.
        """
        _known("with_checkpoints", settings, CheckpointConfig.model_fields)
        return self._with({"checkpoints": settings})

    def with_logging(self, **settings: Any) -> Self:
        """Set fields of `LoggingConfig`.

        Raises:
            ConfigError: there is no such setting; those there are are listed.
        """
        _known("with_logging", settings, LoggingConfig.model_fields)
        return self._with({"logging": settings})

    def with_model(self, kind: str, **settings: Any) -> Self:
        """Choose the net to build: a `kind` of learner, and fields of its configuration."""
        return type(self)({**self._settings, "model": {"kind": kind, **settings}})

    def build(self) -> TrainerConfig:
        """The settings, complete and valid.

        Raises:
            ConfigError: one line naming the key, what was got and what was expected.
        """
        return TrainerConfig.parse(self._settings, "training settings")

    def _with(self, settings: Mapping[str, Any]) -> Self:
        from training_core.settings import merged

        return type(self)(merged(self._settings, {name: value for name, value in settings.items() if value != {}}))


def _known(method: str, settings: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raise a `ConfigError` if one of `settings` is none of `names`."""
    names = tuple(names)
    if unknown := [name for name in settings if name not in names]:
        raise ConfigError(f"{method} has no setting '{unknown[0]}'; it has {', '.join(names)}")


def _only(settings: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: settings[name] for name in names if name in settings}


def _without(settings: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in set(names)}
