"""The settings of training that every net shares."""

import math
from typing import Annotated, Literal

from training_core.config import Config
from training_core.data.streams.batching import DropoutSchedule
from training_core.engine.updates.optimizers import LearningRate, OptimizerConfig, SearchedOptimizer, WeightDecay
from training_core.quantities import (
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Rate,
    SearchChoices,
    SearchOn,
    SearchRange,
)

ScheduleKind = Literal["none", "cosine_restarts", "one_cycle", "plateau", "linear", "exponential"]
Precision = Literal["float32", "bf16", "fp16"]
Stacking = Literal["measured", "always", "never"]
_LEAST_PATIENCE = 5
"""Validation losses go up and down: fewer epochs without a better one say little, however long they are."""


class Stage(Config):
    """A stretch of training in which some parts of a net stand still."""

    epochs: PositiveInt
    """Epochs it lasts; after the last stage training goes on as in that stage."""
    frozen: tuple[str, ...] = ()
    """Parameters that do not change: beginnings of their names, such as `encoders` or `blocks.0`."""
    lr_multiplier: PositiveFloat = 1.0
    """What the learning rate is multiplied by."""


class TrainingConfig(Config):
    """How a net is trained. Estimators, which fit in one step, read none of it."""

    epochs: PositiveInt = 100
    """Passes over the training rows, at most: early stopping usually ends training before."""
    batch_size: Annotated[PositiveInt, SearchChoices(16, 32, 64, 128)] = 32
    """Rows per step."""
    optimizer: SearchedOptimizer = "adamw"
    """Rule that turns gradients into steps."""
    lr: LearningRate = 1e-3
    """Learning rate."""
    weight_decay: WeightDecay = 1e-4
    """Pull of weights towards zero; norms and biases are left out."""
    schedule: Annotated[
        ScheduleKind, SearchChoices("none", "cosine_restarts", "one_cycle", "plateau", "linear", "exponential")
    ] = "none"
    """How the learning rate changes over training."""
    warmup_epochs: Annotated[NonNegativeFloat, SearchChoices(0.0, 1.0, 5.0)] = 0.0
    """Epochs over which the learning rate grows from near 0 before the schedule begins."""
    clip_norm: Annotated[NonNegativeFloat, SearchChoices(0.0, 0.3, 1.0, 3.0)] = 1.0
    """Largest norm of all gradients together; longer ones are scaled down to it. 0: no clipping."""
    clip_value: NonNegativeFloat = 0.0
    """Largest magnitude of a single gradient; larger ones are cut. 0: no cutting."""
    accumulation: PositiveInt = 1
    """Batches whose gradients make one step: the effective batch is this many times `batch_size`."""
    precision: Precision = "float32"
    """Arithmetic of the forward and backward pass; weights stay float32. fp16 scales its losses dynamically."""
    compile: bool = False
    """Compile the step. It pays for long trainings of larger nets; starting takes tens of seconds."""
    ema_decay: Annotated[Rate, SearchChoices(0.0, 0.9, 0.99, 0.999)] = 0.0
    """Above 0: an exponential moving average of the weights is validated and kept, decaying by this per step."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, more time."""
    loss: str = "default"
    """Loss of the task: a name of the loss registry, or the task's own."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: a class counts in inverse proportion to its frequency among the training rows."""
    label_smoothing: Annotated[Rate, SearchRange(0.0, 0.2), SearchOn(tasks=("classification", "multilabel"))] = 0.0
    """Share of a label's probability that is spread over all classes."""
    input_noise: Annotated[NonNegativeFloat, SearchRange(0.0, 0.5)] = 0.0
    """Standard deviation of the noise that nets meet on numbers in training (of images, vectors, sequences and numeric
    columns), in standard deviations of each feature. What is missing stays missing."""
    feature_dropout: Annotated[Rate, SearchRange(0.0, 0.5), SearchOn(modality_kinds=("vector", "tabular"))] = 0.0
    """Probability that a net does not see a feature of a sample in a step: a cell of a table is missing then, a number
    of a vector is its mean. Images, sequences and text have none that could be hidden one by one."""
    mixup: NonNegativeFloat = 0.0
    """Above 0: nets learn from rows mixed in pairs, answers too, by a share drawn from Beta(mixup, mixup). Not for
    text, categories, or losses without a form for mixed answers."""
    patience: PositiveInt = 15
    """Epochs without a better validation loss after which training stops; the best weights are kept."""
    patience_steps: PositiveInt = 2000
    """Where epochs are long, fewer will do: steps without a better validation loss after which training stops as well,
    though never before the fifth epoch without one."""
    validation_fraction: Rate = 0.2
    """Share of the training rows held back to watch for overfitting. 0: train all epochs, keep the last weights."""
    modality_dropout: Annotated[Rate, SearchRange(0.0, 0.8), SearchOn(several_modalities=True)] = 0.3
    """Probability that a net does not see a modality of a sample in a step; one modality always stays. Above 0, a net
    learns to answer with modalities absent."""
    modality_dropout_schedule: Annotated[
        DropoutSchedule, SearchChoices("constant", "uniform", "linear"), SearchOn(several_modalities=True)
    ] = "constant"
    """How that probability, then the highest there is, depends on sample and epoch. uniform: drawn for each sample and
    epoch, evenly from 0 up. linear: growing from 0 over ten epochs."""
    stages: tuple[Stage, ...] = ()
    """Stretches with parts of the net frozen or the learning rate changed, one after the other."""
    stacking: Stacking = "measured"
    """Whether nets of one architecture are trained together: as a measurement of a few steps says, always where it is
    possible, or never. Together and alone they end alike up to rounding."""
    checkpoint_seconds: NonNegativeFloat = 60.0
    """Seconds between checkpoints from which an interrupted training goes on. 0: none."""

    def patience_epochs(self, num_batches: int) -> int:
        """Epochs of `num_batches` batches each that training goes on without a better validation loss."""
        enough = math.ceil(self.patience_steps * self.accumulation / max(num_batches, 1))
        return min(self.patience, max(_LEAST_PATIENCE, enough))

    def optimizer_config(self) -> OptimizerConfig:
        """The optimiser these settings describe."""
        return OptimizerConfig(kind=self.optimizer, lr=self.lr, weight_decay=self.weight_decay)
