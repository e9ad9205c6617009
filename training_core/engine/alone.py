"""Training one learner by itself: a net by gradients, epoch after epoch; an estimator in one step."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import nn

from training_core.data.splitting.row_draws import units_of_rows
from training_core.data.streams.batching import Batching
from training_core.data.streams.choice import open_stream
from training_core.data.streams.encoded import OneBatch
from training_core.data.views import RowSource
from training_core.engine.checkpoints.environment import Environment
from training_core.engine.checkpoints.hook import CheckpointHook
from training_core.engine.checkpoints.manager import CheckpointManager
from training_core.engine.denoising import DenoisingWeights
from training_core.engine.hooks import ProgressHook, Validation
from training_core.engine.loop import History, Hook, Snapshot, fit
from training_core.engine.prepare import VALIDATION_ROWS, PreparedLearner
from training_core.engine.soft_targets import loss_of_mixed
from training_core.engine.trained import TrainedLearner
from training_core.engine.training import TrainingConfig
from training_core.engine.updates.averaging import KeepAverage, WeightAverage
from training_core.engine.updates.estimator_update import EstimatorUpdate
from training_core.engine.updates.gradient import GradientUpdate
from training_core.engine.updates.schedules import LrSchedule, ScheduleHook, training_schedule
from training_core.engine.updates.stages import StagesHook
from training_core.engine.watching.profiling import Watch
from training_core.objectives import LossStrategy, Objective, Supervised
from training_core.objectives.balance import balanced_class_weights
from training_core.objectives.denoising import SupervisedAndDenoising, ask_inner_net
from training_core.schema import Samples, TaskSpec
from training_core.seeding import torch_seeded

_FEWEST_BLOCKS = 3
"""Fewer blocks of time make no folds to choose settings by: learnt from the one half, they would suit half the rows."""
_LARGEST_BLOCK = 0.5
"""Of all rows: the folds without a larger block would be learnt from the fewer rows."""


class Trained(NamedTuple):
    """A learner after training."""

    learner: TrainedLearner
    history: History
    trained_as: str
    """How: `alone: <why>`, or `stacked with 7 others (4.1x)`."""


def train_alone(
    prepared: PreparedLearner, device: str = "cpu", checkpoints: Path | None = None, watch: Watch | None = None
) -> Trained:
    """Train one learner; the same arguments give the same bits.

    Args:
        prepared: what to train.
        device: where to train a net.
        checkpoints: where to keep, and find, what an interrupted training of a net goes on from.
        watch: measures the training of a net.

    Raises:
        DivergenceError: a loss, a weight or a prediction stopped being finite.
    """
    request = prepared.request
    hooks: list[Hook] = [] if request.on_epoch is None else [ProgressHook(request.on_epoch)]
    if isinstance(prepared.model, nn.Module):
        history = _fit_net(prepared, prepared.trained_net(device), hooks, checkpoints, watch)
    else:
        everything = OneBatch(prepared.preprocessor.encode(_in_units(prepared.rows)))
        history = fit(prepared.model, everything, EstimatorUpdate(), hooks, epochs=1, name=request.name)
    return Trained(prepared.finish(device), history, "alone")


def build_objectives(
    task: TaskSpec,
    training: TrainingConfig,
    weights: Sequence[float] | None,
    denoised: bool = False,
    loss: LossStrategy | None = None,
) -> tuple[Objective, Objective]:
    """What a net is trained towards, and what it is judged by: its target alone, without label smoothing.

    Args:
        task: what is predicted.
        training: the settings.
        weights: of the classes, see `class_weights`.
        denoised: whether it is a `DenoisedNet`, which learns of its modalities too.
        loss: what it is trained towards in place of the loss of the settings and its smoothing.
    """
    smoothed = (
        Supervised(task, training.label_smoothing, weights, training.loss)
        if loss is None
        else Supervised(task, loss=loss)
    )
    if denoised:
        return SupervisedAndDenoising(smoothed), Supervised(task, 0.0, weights, training.loss, ask_inner_net)
    return smoothed, Supervised(task, 0.0, weights, training.loss)


def build_update(
    training: TrainingConfig,
    objective: Objective,
    schedule: LrSchedule | None = None,
    average: WeightAverage | None = None,
) -> GradientUpdate:
    """How the settings say a batch changes a net.

    Args:
        training: the settings.
        objective: what is minimised.
        schedule: of the learning rate; None: it stays.
        average: of the weights, where the settings ask for one.
    """
    return GradientUpdate(
        objective,
        training.optimizer_config(),
        clip_norm=training.clip_norm,
        clip_value=training.clip_value,
        accumulation=training.accumulation,
        precision=training.precision,
        schedule=schedule,
        average=average,
        compile=training.compile,
        gradient_checkpointing=training.gradient_checkpointing,
    )


def class_weights(task: TaskSpec, training: TrainingConfig, target: np.ndarray) -> tuple[float, ...] | None:
    """What samples of each class count, by the settings and the raw training target; None: all alike.

    Raises:
        ConfigError: the task has no classes.
    """
    return None if training.class_weights == "none" else balanced_class_weights(task, target)


def row_weights(prepared: PreparedLearner, target: np.ndarray | None) -> np.ndarray | None:
    """What rows of these targets count by the weights of their classes, float [N]; None: all alike."""
    own = prepared.rows.target()
    if own is None or target is None:
        return None
    weights = class_weights(prepared.preprocessor.spec.task, prepared.training, own)
    return None if weights is None else np.asarray(weights)[target.astype(np.int64)]


def going_on(checkpoints: Path | None, training: TrainingConfig, device: str) -> tuple[Snapshot | None, list[Hook]]:
    """What an interrupted training goes on from, if there is anything, and the hook, to be last, that keeps such."""
    if checkpoints is None or not training.checkpoint_seconds:
        return None, []
    here = Environment.here(device)  # not the settings: the folder is named by all that decides the result
    manager = CheckpointManager(checkpoints, keep_best_k=0, keep_last_n=2, environment=here)
    return manager.latest(), [CheckpointHook(manager, training.checkpoint_seconds)]


def _in_units(rows: RowSource) -> Samples:
    """All samples; where rows have times and no groups, blocks of time stand in the place of groups.

    An estimator chooses its settings on rows it splits off its own, and knows of groups alone: without them it would
    judge itself on neighbours in time of what it has learnt. Rows drawn more than once count once.

    Where there are too few blocks, or one has most of the rows, rows stand for themselves as if they had no times:
    settings that neighbours have judged are better than those nobody has.
    """
    samples, times = rows.samples(), rows.times()
    if samples.groups is not None or times is None:
        return samples
    _, first, of_row = np.unique(samples.ids.astype(str), return_index=True, return_inverse=True)
    units = units_of_rows(None, times[first])
    if units is None:
        return samples
    sizes = np.unique(units.astype(str), return_counts=True)[1]
    if len(sizes) < _FEWEST_BLOCKS or sizes.max() > _LARGEST_BLOCK * len(units):
        return samples
    return replace(samples, groups=units[of_row])


def _fit_net(
    prepared: PreparedLearner, net: nn.Module, hooks: Sequence[Hook], checkpoints: Path | None, watch: Watch | None
) -> History:
    """Train `net`, which is on its device."""
    training, encoding, device = prepared.training, prepared.preprocessor, next(net.parameters()).device
    target = prepared.rows.target()
    weights = None if target is None else class_weights(encoding.spec.task, training, target)
    denoising = prepared.denoising
    mixed = loss_of_mixed(encoding.spec.task, training) if training.mixup else None
    objective, judge = build_objectives(encoding.spec.task, training, weights, denoising is not None, mixed)
    of_rows = None if mixed is None else row_weights(prepared, target)
    stream = open_stream(prepared.rows, encoding, prepared.batching, device, weight=of_rows)
    schedule = training_schedule(training, prepared.num_batches)
    average = WeightAverage(training.ema_decay) if training.ema_decay > 0 else None
    update = build_update(training, objective, schedule, average)
    listening: list[Hook] = [StagesHook(training.stages, update)] if training.stages else []
    if denoising is not None:
        listening.append(DenoisingWeights(denoising))
    if prepared.judged is not None:
        judged = open_stream(prepared.judged, encoding, Batching(VALIDATION_ROWS, shuffle=False), device)
        listening.append(Validation(judge, judged, training.patience_epochs(prepared.num_batches), average))
    elif average is not None:
        listening.append(KeepAverage(average))
    listening.append(ScheduleHook(schedule))
    listening.extend(hooks)
    if watch is not None:
        stream, watching = watch.over(stream, update, prepared.request.label)
        listening.append(watching)
    resume, keeping = going_on(checkpoints, training, str(device))
    name, epochs = prepared.request.name, training.epochs
    with torch_seeded(prepared.request.seed, "training"):  # dropout inside a net draws from torch's global generators
        return fit(net, stream, update, [*listening, *keeping], epochs=epochs, name=name, resume=resume)
