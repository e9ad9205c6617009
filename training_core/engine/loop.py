"""The inner loop: `for batch in stream: update.step(model, batch)`, with hooks to watch, save and stop.

The loop knows no task, no batch type and no optimiser, nor whether one learner is trained or a cohort of them. Metrics
stay tensors until the epoch ends, so no step waits for a device, and hooks are resolved to tuples once, so a hook that
does not listen costs nothing. A snapshot taken after any step, or at the end of an epoch, goes on bit for bit.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar
from weakref import proxy

from torch import Tensor

from training_core.config import Config
from training_core.engine.epoch_metrics import EpochMetrics
from training_core.errors import ConfigError, DataError, DivergenceError
from training_core.seeding import load_random_state, random_state

Snapshot = dict[str, Any]
"""All of a training that stands between two steps: tensors and plain values, safe to load without running code."""

_MAX_NAMED = 3
"""Tensors of another shape that a message names."""
_SAME = "give the same hooks in the same order, or train from the start, with another directory for checkpoints"
_SHAPES = re.compile(
    r"size mismatch for (\S+): copying a param with shape torch\.Size\((.*?)\) from checkpoint, "
    r"the shape in current model is torch\.Size\((.*?)\)"
)
_KEYS = re.compile(r"(?:Missing|Unexpected) key\(s\) in state_dict: .*?(?=\. *$)", re.MULTILINE)

Model = TypeVar("Model")
Model_contra = TypeVar("Model_contra", contravariant=True)
Batch_co = TypeVar("Batch_co", bound=Sized, covariant=True)
Batch_contra = TypeVar("Batch_contra", bound=Sized, contravariant=True)
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


@dataclass(frozen=True)
class EpochResult:
    """One epoch, for whoever reports it. Seconds are no part of `History`: equal trainings have equal histories."""

    epoch: int
    """From 1."""
    loss: float
    metrics: Mapping[str, float]
    epoch_duration_seconds: float
    num_samples: int
    num_batches: int
    learning_rate: float | None
    """At the end of the epoch; None where the update has none, or one per learner."""


@dataclass
class TrainingState:
    """Where training stands; hooks read it, and stop training by giving `stop_reason` a value."""

    name: str
    """Who is trained, for messages."""
    num_epochs: int
    epoch: int = 0
    """The epoch being trained, from 1; 0 before the first."""
    step: int = 0
    """Batches seen since training started."""
    batch: int = 0
    """Batches seen in this epoch."""
    in_epoch: bool = False
    """Between the start of an epoch and its end."""
    stop_reason: str | None = None
    best_epoch: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    """Metrics of the epoch that just ended, of a cohort the means over its learners; hooks may add theirs in
    `on_epoch_end`."""
    values: dict[str, Tensor] = field(default_factory=dict)
    """The training metrics of the epoch as the steps gave them, float64 on the CPU: scalars, or [K] for a cohort."""
    step_metrics: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    """What the step that was done last returned, on the device. Reading a value waits for it."""
    num_rows: int | Tensor = 1
    """Over how many rows, or what weight of rows, those metrics are means; [K] for a cohort."""
    history: list[dict[str, float]] = field(default_factory=list)
    result: EpochResult | None = None
    """The epoch that ended last."""
    snapshot: Callable[[], Snapshot] | None = field(default=None, repr=False)
    """Takes a snapshot; to be called in `on_batch_end` or `on_epoch_end`, in the latter after all other hooks."""

    def state_dict(self) -> dict[str, Any]:
        """The counters, as plain values."""
        names = ("epoch", "step", "batch", "in_epoch", "num_rows", "stop_reason", "best_epoch")
        return {**{name: getattr(self, name) for name in names}, "history": [dict(epoch) for epoch in self.history]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        for name, value in state.items():
            setattr(self, name, value)
        if self.history:
            self.metrics = self.history[-1]


class Hook:
    """Something that listens to training. Override what you need; methods left alone are never called.

    Hooks are called in the order they are given, so one that reads another's metrics comes after it.
    """

    def on_training_start(self, state: TrainingState, model: Any) -> None:
        """Before the first epoch, after the update was prepared; when training goes on, before its state is loaded."""

    def on_epoch_start(self, state: TrainingState, model: Any) -> None:
        """Before the first batch of an epoch."""

    def on_batch_end(self, state: TrainingState, model: Any) -> None:
        """After every step. Never read a tensor's value here: it would make each step wait for the device."""

    def on_epoch_end(self, state: TrainingState, model: Any) -> None:
        """After an epoch whose metrics, in `state.metrics`, are known to be finite."""

    def on_training_end(self, state: TrainingState, model: Any) -> None:
        """After the last epoch, however it was decided. Not called when training raises."""

    def state_dict(self) -> dict[str, Any]:
        """What the hook must know to go on; empty when it keeps nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""

    @property
    def kept_as(self) -> str | None:
        """What a snapshot calls its state: the name of its class; None where that keeps nothing."""
        return None if type(self).state_dict is Hook.state_dict else type(self).__name__


class Stream(Protocol[Batch_co]):
    """Batches of one epoch per iteration. One that can be resumed also has `state_dict` and `load_state_dict`."""

    def __iter__(self) -> Iterator[Batch_co]: ...


class Update(Protocol[Model_contra, Batch_contra]):
    """How one batch changes a model. `step` is all that must be written by those that inherit the rest."""

    def start(self, model: Model_contra) -> None:
        """Prepare for `model`; called once, before the first step."""

    def step(self, model: Model_contra, batch: Batch_contra) -> Mapping[str, Tensor]:
        """Change `model`; returns detached scalars by name, or [K] for a cohort: means over the rows of `batch`."""
        ...

    def num_rows(self, batch: Batch_contra) -> int | Tensor:
        """Over how many rows of `batch`, or what weight, the metrics of its step are means; [K] for a cohort."""
        return len(batch)

    def end_epoch(self, model: Model_contra) -> Mapping[str, Tensor]:
        """Close what the last step left open (a window of accumulation that is not full); metrics as from `step`."""
        return {}

    def check(self, model: Model_contra) -> str | None:
        """What is wrong with the model after an epoch (a weight is not finite), or None; may wait for the device."""

    def state_dict(self) -> dict[str, Any]:
        """What the update must know to go on."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave; called after `start`."""


def fit(
    model: Model,
    stream: Stream[BatchType],
    update: Update[Model, BatchType],
    hooks: Sequence[Hook] = (),
    *,
    epochs: int,
    name: str = "model",
    resume: Mapping[str, Any] | None = None,
) -> History:
    """Train `model` in place for at most `epochs` passes over `stream`.

    An epoch's training metrics are the means over its rows, under the prefix `training/`, of what the steps returned.
    A non-finite metric or model ends training at the end of its epoch, before any hook sees the epoch's weights; the
    learners of a cohort guard themselves, so that one of them does not end the others.

    Args:
        model: what is trained.
        stream: its batches.
        update: how a batch changes it.
        hooks: who listens.
        epochs: passes at most.
        name: who is trained, for messages.
        resume: a snapshot of this same training, to go on from: the result is the same, bit for bit.

    Raises:
        DivergenceError: a metric or a weight stopped being finite; says who, when and what to do.
        DataError: the stream is empty.
        ConfigError: `resume` is of a training of other shapes, see `take_state`, or of other hooks, see `take_hooks`.
    """
    state, seen = TrainingState(name=name, num_epochs=epochs), EpochMetrics()
    on_batch_end = _listeners(hooks, "on_batch_end")
    on_epoch_start = _listeners(hooks, "on_epoch_start")
    on_epoch_end = _listeners(hooks, "on_epoch_end")
    update.start(model)
    _call(_listeners(hooks, "on_training_start"), state, model)
    # The state weakly: it holds the snapshot, and in a circle all of this would stay in memory until Python looks.
    parts = {"model": model, "update": update, "stream": stream, "state": proxy(state), "metrics": seen}
    state.snapshot = lambda: _snapshot(parts, hooks)
    taken = resume is not None and _load(resume, parts, hooks)
    while state.in_epoch or (state.epoch < epochs and state.stop_reason is None):
        started = time.perf_counter()
        if not state.in_epoch:
            state.epoch, state.batch, state.in_epoch = state.epoch + 1, 0, True
            _call(on_epoch_start, state, model)
        num_samples = 0
        for batch in () if taken else stream:
            state.step_metrics = update.step(model, batch)
            state.num_rows = update.num_rows(batch)
            seen.add(state.step_metrics, state.num_rows)
            num_samples += len(batch)
            state.step += 1
            state.batch += 1
            for listener in on_batch_end:
                listener(state, model)
            if state.stop_reason is not None:
                break
        taken = False
        seen.add(update.end_epoch(model), state.num_rows)
        state.values = _checked_means(state, seen)
        state.metrics = {f"training/{key}": float(value.nanmean()) for key, value in state.values.items()}
        problem = update.check(model)
        if problem is not None:
            raise divergence(state, f"after epoch {state.epoch} {problem}")
        seen.load_state_dict({})
        state.in_epoch = False
        state.history.append(state.metrics)
        state.result = EpochResult(
            epoch=state.epoch,
            loss=state.metrics.get("training/loss", float("nan")),
            metrics=state.metrics,
            epoch_duration_seconds=time.perf_counter() - started,
            num_samples=num_samples,
            num_batches=state.batch,
            learning_rate=getattr(update, "lr", None),
        )
        _call(on_epoch_end, state, model)
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


def _snapshot(parts: Mapping[str, Any], hooks: Sequence[Hook]) -> Snapshot:
    """Everything that decides the next steps. Tensors are the live ones: whoever keeps a snapshot copies them."""
    return {
        **{name: part.state_dict() for name, part in parts.items()},
        **hook_states(hooks),
        "random": random_state(),
    }


def hook_states(hooks: Sequence[Hook]) -> dict[str, Any]:
    """What a snapshot holds of hooks: the states of those that keep one, and their names, in their order."""
    keeping = [hook for hook in hooks if hook.kept_as is not None]
    return {"hooks": [hook.state_dict() for hook in keeping], "hook_names": [hook.kept_as for hook in keeping]}


def take_hooks(
    hooks: Sequence[Hook], snapshot: Mapping[str, Any], fitted: Callable[[Any, Hook], Any] | None = None
) -> None:
    """Let hooks take over what `hook_states` put into `snapshot`. Those that keep nothing may come and go.

    Snapshots of old have no names, but a state for every hook: they are taken by as many hooks, place by place.

    Args:
        hooks: those that keep a state are of the same classes as then, in the same order.
        snapshot: to go on from.
        fitted: makes of a kept state what its hook takes; by default it is taken as it is.

    Raises:
        ConfigError: they are others; says what they were and what they are.
    """
    names, states = snapshot.get("hook_names"), snapshot["hooks"]
    taking = [hook for hook in hooks if names is None or hook.kept_as is not None]
    if names is None and len(states) != len(taking):
        raise ConfigError(f"the snapshot to go on from is of {len(states)} hooks, and here are {len(taking)}; {_SAME}")
    if names is not None and names != (here := [hook.kept_as for hook in taking]):
        raise ConfigError(
            f"the snapshot to go on from has the states of these hooks: {', '.join(names) or 'none'}; those that keep "
            f"one here are: {', '.join(map(str, here)) or 'none'}; {_SAME}"
        )
    for hook, kept in zip(taking, states, strict=True):
        try:
            hook.load_state_dict(kept if fitted is None else fitted(kept, hook))
        except (KeyError, TypeError) as error:
            raise ConfigError(
                f"the snapshot to go on from does not hold what {type(hook).__name__} keeps ({error!r}); {_SAME}"
            ) from error


def take_state(part: Any, kept: Mapping[str, Any], name: str, where: str) -> None:
    """Let `part` take over the state `kept` of the part called `name` in the snapshot `where`.

    Raises:
        ConfigError: it is the state of something of another shape; says which tensors differ, and how.
    """
    try:
        part.load_state_dict(kept)
    except (RuntimeError, ValueError) as error:
        told = str(error)
        if "loading state_dict" not in told and "loaded state dict" not in told:
            raise
        differing = [f"{tensor} is {there} there and {here} here" for tensor, there, here in _SHAPES.findall(told)]
        differing += [" ".join(said.split()) for said in _KEYS.findall(told)]
        shown = "; ".join(differing[:_MAX_NAMED]) or told.splitlines()[0]
        more = f"; and {len(differing) - _MAX_NAMED} more" if len(differing) > _MAX_NAMED else ""
        raise ConfigError(
            f"{where}: its part '{name}' does not fit the {type(part).__name__} that is to go on from it ({shown}"
            f"{more}); build that as it was when the snapshot was taken, or train from the start"
        ) from error


def _load(snapshot: Mapping[str, Any], parts: Mapping[str, Any], hooks: Sequence[Hook]) -> bool:
    """Put everything back, the random generators last. Returns whether the open epoch takes no more batches."""
    for name, part in parts.items():
        take_state(part, snapshot[name], name, "the snapshot to go on from")
    take_hooks(hooks, snapshot)
    load_random_state(snapshot["random"])
    state = snapshot["state"]
    all_taken = state["stop_reason"] is not None or snapshot["stream"].get("position") == 0
    return state["in_epoch"] and state["batch"] > 0 and all_taken


def _checked_means(state: TrainingState, seen: EpochMetrics) -> dict[str, Tensor]:
    """The means of the epoch, after a look at them."""
    if not state.batch:
        raise DataError(f"{state.name}: the training stream gave no batch in epoch {state.epoch}; it needs rows")
    values = seen.means()
    for name, value in values.items():
        if value.ndim == 0 and (step := seen.first_wild(name)) is not None:
            raise divergence(state, f"{name} became {float(value)} at epoch {state.epoch}, step {step}")
    return values


def _listeners(hooks: Iterable[Hook], event: str) -> tuple[Callable[[TrainingState, Any], None], ...]:
    """The bound methods of those hooks that override `event`."""
    return tuple(getattr(hook, event) for hook in hooks if getattr(type(hook), event) is not getattr(Hook, event))


def _call(listeners: Iterable[Callable[[TrainingState, Any], None]], state: TrainingState, model: Any) -> None:
    for listener in listeners:
        listener(state, model)
