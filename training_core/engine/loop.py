"""The inner loop: `for batch in stream: update.step(model, batch)`, with hooks to watch, save and stop.

The loop knows no task, no batch type and no optimiser. Metrics stay tensors until the epoch ends, so no step waits
for a device, and hooks are resolved to tuples once, so a hook that does not listen costs nothing.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from training_core.config import Config
from training_core.errors import DataError, DivergenceError

Model = TypeVar("Model")
Model_contra = TypeVar("Model_contra", contravariant=True)
Batch_co = TypeVar("Batch_co", bound=Sized, covariant=True)
Batch_contra = TypeVar("Batch_contra", contravariant=True)
BatchType = TypeVar("BatchType", bound=Sized)


class History(Config):
    """What a training run did, epoch by epoch."""

    epochs: tuple[dict[str, float], ...]
    """Metrics by name (`training/loss`, `validation/loss`, …), one entry per epoch; the first is epoch 1."""
    num_steps: int
    stop_reason: str
    """Why training ended, as a sentence."""
    best_epoch: int | None = None
    """The epoch (from 1) whose weights were kept; None when nothing was validated: the last one's."""

    def curve(self, key: str) -> list[tuple[int, float]]:
        """The values of one metric as (epoch from 1, value); epochs without it are left out."""
        return [(number, metrics[key]) for number, metrics in enumerate(self.epochs, start=1) if key in metrics]


@dataclass
class TrainingState:
    """Where training stands; hooks read it, and stop training by giving `stop_reason` a value."""

    name: str
    """Who is trained, for messages."""
    num_epochs: int
    epoch: int = 0
    """The epoch being trained, from 1; 0 before the first."""
    step: int = 0
    """Steps done since training started."""
    stop_reason: str | None = None
    best_epoch: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    """Metrics of the epoch that just ended; hooks may add theirs in `on_epoch_end`."""
    history: list[dict[str, float]] = field(default_factory=list)


class Hook:
    """Something that listens to training. Override what you need; methods left alone are never called.

    Hooks are called in the order they are given, so one that reads another's metrics comes after it.
    """

    def on_training_start(self, state: TrainingState, model: Any) -> None:
        """Before the first epoch, after the update was prepared."""

    def on_epoch_start(self, state: TrainingState, model: Any) -> None:
        """Before the first batch of an epoch."""

    def on_batch_end(self, state: TrainingState, model: Any) -> None:
        """After every step. Never read a tensor's value here: it would make each step wait for the device."""

    def on_epoch_end(self, state: TrainingState, model: Any) -> None:
        """After an epoch whose metrics, in `state.metrics`, are known to be finite."""

    def on_training_end(self, state: TrainingState, model: Any) -> None:
        """After the last epoch, however it was decided. Not called when training raises."""


class Stream(Protocol[Batch_co]):
    """Batches of one epoch per iteration; the length of a batch is its number of rows."""

    def __iter__(self) -> Iterator[Batch_co]: ...


class Update(Protocol[Model_contra, Batch_contra]):
    """How one batch changes a model."""

    def start(self, model: Model_contra) -> None:
        """Prepare for `model`; called once, before the first step."""

    def step(self, model: Model_contra, batch: Batch_contra) -> Mapping[str, Tensor]:
        """Change `model`; returns detached scalars by the same names each time, means over the rows of `batch`."""
        ...

    def check(self, model: Model_contra) -> str | None:
        """What is wrong with the model after an epoch (a weight is not finite), or None; may wait for the device."""


def fit(
    model: Model,
    stream: Stream[BatchType],
    update: Update[Model, BatchType],
    hooks: Sequence[Hook] = (),
    *,
    epochs: int,
    name: str = "model",
) -> History:
    """Train `model` in place for at most `epochs` passes over `stream`.

    An epoch's training metrics are the means over its rows, under the prefix `training/`, of what the steps returned.
    A non-finite metric or model ends training at the end of its epoch, before any hook sees the epoch's weights.

    Raises:
        DivergenceError: a metric or a weight stopped being finite; says who, when and what to do.
        DataError: the stream is empty.
    """
    state = TrainingState(name=name, num_epochs=epochs)
    on_batch_end = _listeners(hooks, "on_batch_end")
    on_epoch_start = _listeners(hooks, "on_epoch_start")
    on_epoch_end = _listeners(hooks, "on_epoch_end")
    update.start(model)
    _call(_listeners(hooks, "on_training_start"), state, model)
    while state.epoch < epochs and state.stop_reason is None:
        state.epoch += 1
        _call(on_epoch_start, state, model)
        steps: list[Mapping[str, Tensor]] = []
        sizes: list[int] = []
        for batch in stream:
            steps.append(update.step(model, batch))
            sizes.append(len(batch))
            state.step += 1
            for listener in on_batch_end:
                listener(state, model)
            if state.stop_reason is not None:
                break
        state.metrics = _epoch_means(state, steps, sizes)
        problem = update.check(model)
        if problem is not None:
            raise divergence(state, f"after epoch {state.epoch} {problem}")
        _call(on_epoch_end, state, model)
        state.history.append(state.metrics)
    _call(_listeners(hooks, "on_training_end"), state, model)
    return History(
        epochs=tuple(state.history),
        num_steps=state.step,
        stop_reason=state.stop_reason or f"all {epochs} epochs done",
        best_epoch=state.best_epoch,
    )


def divergence(state: TrainingState, what: str) -> DivergenceError:
    """The error for training that left the finite numbers: `what` says where and which number."""
    return DivergenceError(
        f"{state.name}: {what}; lower `training.lr`, keep `training.clip_norm` above 0, "
        "and look for extreme values in the data"
    )


def _epoch_means(state: TrainingState, steps: list[Mapping[str, Tensor]], sizes: list[int]) -> dict[str, float]:
    """Row-weighted means of the steps' metrics, read from the device in one go."""
    if not steps:
        raise DataError(f"{state.name}: the training stream gave no batch in epoch {state.epoch}; it needs rows")
    names = list(steps[0])
    if not names:
        return {}
    # [step, metric]; float64 so that the mean of many float32 losses loses nothing.
    values = torch.stack([step[name] for step in steps for name in names]).view(len(steps), -1).cpu().double()
    finite = torch.isfinite(values)
    if not bool(finite.all()):
        row, column = (int(i) for i in (~finite).nonzero()[0])
        value = float(values[row, column])
        raise divergence(state, f"{names[column]} became {value} at epoch {state.epoch}, step {row + 1}")
    weights = torch.tensor(sizes, dtype=torch.float64)
    means = (weights @ values / weights.sum()).tolist()
    return {f"training/{name}": mean for name, mean in zip(names, means, strict=True)}


def _listeners(hooks: Iterable[Hook], event: str) -> tuple[Callable[[TrainingState, Any], None], ...]:
    """The bound methods of those hooks that override `event`."""
    return tuple(getattr(hook, event) for hook in hooks if getattr(type(hook), event) is not getattr(Hook, event))


def _call(listeners: Iterable[Callable[[TrainingState, Any], None]], state: TrainingState, model: Any) -> None:
    for listener in listeners:
        listener(state, model)
