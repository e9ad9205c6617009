"""Everything the `Trainer` can be told, as one frozen value that reads and writes YAML and JSON."""

import json
from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from training_core.artifacts import write_text_atomically
from training_core.config import Config
from training_core.engine.device import choose_device
from training_core.engine.distributed.settings import DistributedConfig
from training_core.engine.training import TrainingConfig
from training_core.errors import ConfigError
from training_core.learners import LearnerConfig
from training_core.quantities import NonNegativeInt, PositiveInt, Seed
from training_core.tracking import TrackerKind


class HardwareConfig(Config):
    """Where training runs. Precision, compiling and recomputing activations are settings of `training`."""

    device: str = "auto"
    """`auto`: a GPU where there is one; or `cpu`, `cuda`, `cuda:1`, …"""
    devices: PositiveInt = 1
    """Processes that train together, each on a device of its own; start them with `torchrun`."""
    distributed: DistributedConfig = DistributedConfig()
    """How they share the work, where there are several."""

    def chosen_device(self) -> str:
        """The device that is meant, on this machine."""
        return choose_device() if self.device == "auto" else self.device


class CheckpointConfig(Config):
    """What is kept of a training while it runs. How often between epochs is `training.checkpoint_seconds`."""

    directory: str | None = None
    """Where checkpoints are; training goes on from the newest one there. None: none are kept."""
    keep_best_k: NonNegativeInt = 3
    """How many of the best to keep."""
    keep_last_n: PositiveInt = 5
    """How many of the newest to keep."""
    monitor: str = "validation/loss"
    """The metric that says which is best."""
    mode: Literal["min", "max"] = "min"
    """Whether a lower or a higher value of it is better."""
    save_interval_epochs: PositiveInt = 1
    """Epochs from one checkpoint to the next."""
    mirror: str | None = None
    """URL of a second place for them, any that fsspec knows."""


class LoggingConfig(Config):
    """Where a training is recorded."""

    trackers: tuple[TrackerKind, ...] = ()
    """Who is told of settings and metrics."""
    directory: str = "runs"
    """Where trackers keep their files."""
    run_name: str = "training"
    """What the run is called, also in messages."""
    notes: str = ""
    """What a reader of the record should know."""


class TrainerConfig(Config):
    """One training by the `Trainer`: how, where, what is kept and recorded of it, and optionally what is trained."""

    training: TrainingConfig = TrainingConfig()
    hardware: HardwareConfig = HardwareConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    logging: LoggingConfig = LoggingConfig()
    model: LearnerConfig | None = None
    """A net to build from the data, where the trainer is not given a model."""
    seed: Seed = 0
    """Root of every random choice."""
    deterministic: bool = False
    """The same seed gives the same bits: one CPU thread and deterministic GPU kernels, for the rest of the process."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.training.batch_size % self.hardware.devices:
            raise ValueError(
                f"`training.batch_size` is {self.training.batch_size}, which {self.hardware.devices} devices cannot "
                f"share equally; make it a multiple of {self.hardware.devices}"
            )
        return self

    def save(self, path: str | Path) -> Path:
        """Write it to `path`, as YAML or JSON by its ending: wholly or not at all. Returns the path.

        Raises:
            ConfigError: the ending is another.
            StorageError: the place cannot be written.
        """
        path = Path(path)
        data = self.model_dump(mode="json")
        if _is_yaml(path):
            import yaml

            text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
        else:
            text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(path, text)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote, or a person.

        Raises:
            ConfigError: it cannot be read, or one line naming the key, what was got and what was expected.
        """
        path = Path(path)
        if _is_yaml(path):
            from training_core.settings import read_yaml

            return cls.parse(read_yaml(path), str(path))
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read {path}: {error}") from None
        if not isinstance(data, dict):
            raise ConfigError(f"{path} holds {type(data).__name__}, expected an object of settings")
        return cls.parse(data, str(path))


def _is_yaml(path: Path) -> bool:
    """By its ending.

    Raises:
        ConfigError: it is neither YAML nor JSON.
    """
    if path.suffix not in {".yaml", ".yml", ".json"}:
        raise ConfigError(f"settings are kept in .yaml, .yml or .json files; got {path}")
    return path.suffix != ".json"
