"""Hooks in the plain form many trainers know: methods without a state or a model, adapted to the loop by `as_hook`."""

from collections.abc import Mapping
from typing import Any

from training_core.engine.loop import Hook, TrainingState
from training_core.errors import ConfigError


class TrainingHooks:
    """Override what you need, and give the object to `as_hook`. Epochs are counted from 1."""

    def on_training_start(self) -> None:
        """Before the first epoch."""

    def on_epoch_start(self, epoch: int) -> None:
        """Before the first batch of an epoch."""

    def on_batch_end(self, batch_idx: int, loss: float) -> None:
        """After every batch of an epoch, counted from 0. Reading `loss` makes every step wait for the device."""

    def on_validation_end(self, metrics: dict[str, float]) -> None:
        """After an epoch's validation; metrics without their prefix, such as `loss`."""

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        """After an epoch, with all its metrics, such as `training/loss` and `validation/loss`."""

    def on_training_end(self) -> None:
        """After the last epoch; not when training raises."""


_EVENTS = tuple(name for name in vars(TrainingHooks) if name.startswith("on_"))
_PREFIX = "validation/"


def as_hook(hooks: object) -> Hook:
    """A hook of the loop that calls the methods of `TrainingHooks` that `hooks` has, whether it inherits them or not.

    Place it after `Validation`. Only an object that has an `on_batch_end` of its own makes steps wait for the device,
    since it is told the loss of each. If it has `state_dict` and `load_state_dict`, its state is kept with snapshots.

    Raises:
        ConfigError: `hooks` has none of the methods.
    """
    own = [name for name in _EVENTS if _has_own(hooks, name)]
    if not own:
        raise ConfigError(f"{type(hooks).__name__} listens to nothing; it needs one of {', '.join(_EVENTS)}")
    return _AdaptedPerBatch(hooks) if "on_batch_end" in own else _Adapted(hooks)


class _Adapted(Hook):
    """Passes on everything but batches."""

    def __init__(self, hooks: Any) -> None:
        self._hooks = hooks

    def on_training_start(self, state: TrainingState, model: Any) -> None:
        self._tell("on_training_start")

    def on_epoch_start(self, state: TrainingState, model: Any) -> None:
        self._tell("on_epoch_start", state.epoch)

    def on_epoch_end(self, state: TrainingState, model: Any) -> None:
        judged = {
            name.removeprefix(_PREFIX): value for name, value in state.metrics.items() if name.startswith(_PREFIX)
        }
        if judged:
            self._tell("on_validation_end", judged)
        self._tell("on_epoch_end", state.epoch, dict(state.metrics))

    def on_training_end(self, state: TrainingState, model: Any) -> None:
        self._tell("on_training_end")

    @property
    def kept_as(self) -> str | None:
        return type(self._hooks).__name__ if hasattr(self._hooks, "state_dict") else None

    def state_dict(self) -> dict[str, Any]:
        return dict(self._hooks.state_dict()) if hasattr(self._hooks, "state_dict") else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if hasattr(self._hooks, "load_state_dict"):
            self._hooks.load_state_dict(state)

    def _tell(self, event: str, *values: Any) -> None:
        if _has_own(self._hooks, event):
            getattr(self._hooks, event)(*values)


class _AdaptedPerBatch(_Adapted):
    """Passes on batches too. A class of its own: the loop asks the class what it listens to."""

    def on_batch_end(self, state: TrainingState, model: Any) -> None:
        self._hooks.on_batch_end(state.batch - 1, float(state.step_metrics["loss"]))


def _has_own(hooks: object, event: str) -> bool:
    """Whether an object has a method that is not the empty one of `TrainingHooks`."""
    empty = getattr(TrainingHooks, event)
    return callable(getattr(hooks, event, None)) and getattr(type(hooks), event, None) is not empty
