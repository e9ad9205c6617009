"""The parts of a training by the `Trainer`, each out of its settings."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from training_core.data.preprocessing import Preprocessor
from training_core.data.streams.perturbation import Perturbation
from training_core.engine.checkpoints.environment import Environment
from training_core.engine.checkpoints.manager import CheckpointManager
from training_core.engine.loop import Stream
from training_core.engine.trainer.config import TrainerConfig
from training_core.engine.training import TrainingConfig
from training_core.engine.updates.averaging import WeightAverage
from training_core.engine.updates.gradient import GradientUpdate
from training_core.engine.updates.schedules import LrSchedule, training_schedule
from training_core.engine.watching.tracking_hook import TrackingHook
from training_core.errors import ConfigError
from training_core.objectives import Objective
from training_core.schema import Batch, TaskSpec
from training_core.tracking import flat_params, open_tracker

if TYPE_CHECKING:
    from training_core.engine.distributed.ranks import Ranks


def perturbation_of(training: TrainingConfig, preprocessor: Preprocessor | None) -> Perturbation | None:
    """How rows are changed in training, or None where they are not.

    Args:
        training: the settings.
        preprocessor: fitted on the rows; None for data that are not raw rows.

    Raises:
        ConfigError: rows are to be mixed, or nobody knows what the numbers of a row are.
    """
    if training.mixup:
        raise ConfigError("`training.mixup` is for the nets of ensembles; a trainer's loss takes no mixed answers")
    if not (training.input_noise or training.feature_dropout):
        return None
    if preprocessor is None:
        raise ConfigError(
            "`training.input_noise` and `training.feature_dropout` need raw rows, which say what their numbers are; "
            "set both to 0 for data of another form"
        )
    return Perturbation.of(preprocessor, 0.0, training.feature_dropout, training.input_noise)


def schedule_of(training: TrainingConfig, stream: Stream[Batch]) -> LrSchedule | None:
    """The learning rate over the training, or None where it stays as it is.

    Raises:
        ConfigError: nobody knows how long the training is.
    """
    if training.schedule == "none" and training.warmup_epochs == 0:
        return None
    if not hasattr(stream, "__len__"):
        raise ConfigError(
            f"the schedule '{training.schedule}' needs to know how many batches an epoch has, and this stream has no "
            "length; set `training.schedule` to none and `warmup_epochs` to 0, or give data with a length"
        )
    return training_schedule(training, len(stream))  # pyright: ignore[reportArgumentType]


def update_of(
    training: TrainingConfig,
    objective: Objective,
    schedule: LrSchedule | None,
    average: WeightAverage | None,
    config: TrainerConfig,
    ranks: "Ranks | None",
) -> GradientUpdate:
    """How a batch changes the model, on one device or several."""
    settings: dict[str, Any] = {
        "clip_norm": training.clip_norm,
        "clip_value": training.clip_value,
        "accumulation": training.accumulation,
        "precision": training.precision,
        "schedule": schedule,
        "average": average,
        "gradient_checkpointing": training.gradient_checkpointing,
    }
    if ranks is None:
        return GradientUpdate(objective, training.optimizer_config(), compile=training.compile, **settings)
    if training.compile:
        raise ConfigError("`training.compile` is for one device; leave it out, or set `hardware.devices` to 1")
    from training_core.engine.distributed.update import DistributedUpdate

    shared = config.hardware.distributed
    return DistributedUpdate(objective, training.optimizer_config(), ranks=ranks, distributed=shared, **settings)


@contextmanager
def started_ranks(devices: int, device: str) -> "Iterator[Ranks | None]":
    """The group of processes that train together; None for one alone.

    Raises:
        ConfigError: the settings are for another number of processes than were started.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != devices:
        raise ConfigError(
            f"`hardware.devices` is {devices}, but {started} processes train together; start them with "
            f"`torchrun --nproc-per-node {devices} SCRIPT.py`, or set `hardware.devices` to {started}"
        )
    if devices == 1:
        yield None
        return
    from training_core.engine.distributed.group import process_group

    with process_group(device="cpu" if device == "cpu" else None) as ranks:
        yield ranks


def tracking_of(config: TrainerConfig) -> list[TrackingHook]:
    """Who records the training."""
    logging = config.logging
    if not logging.trackers:
        return []
    tracker = open_tracker(logging.trackers, Path(logging.directory))
    params = flat_params(config.model_dump(mode="json"))
    return [TrackingHook(tracker, logging.run_name, params, {"notes": logging.notes} if logging.notes else None)]


def checkpoints_of(
    config: TrainerConfig, task: TaskSpec, model: nn.Module, device: str, world_size: int
) -> CheckpointManager | None:
    """Where checkpoints are kept and found; those of another net, or of other decisive settings, are refused."""
    kept = config.checkpoints
    if kept.directory is None:
        return None
    decisive = {
        "training": config.training.model_dump(mode="json", exclude={"checkpoint_seconds", "stacking"}),
        "seed": config.seed,
        "task": task.model_dump(mode="json"),
        "model": {name: list(tensor.shape) for name, tensor in model.state_dict().items()},
    }
    return CheckpointManager(
        kept.directory,
        keep_best_k=kept.keep_best_k,
        keep_last_n=kept.keep_last_n,
        monitor=kept.monitor,
        mode=kept.mode,
        save_interval_epochs=kept.save_interval_epochs,
        mirror=kept.mirror,
        environment=Environment.here(device, config=decisive, world_size=world_size),
    )
