"""How the learning rate changes over training: pure functions of the number of the update, and one that watches.

A schedule multiplies the base learning rate. `factor(u)` is the multiplier of update `u`, counted from 0, so nothing
has to be stepped in the right order and a resumed training needs only its count. The exception is `Plateau`, which
also listens to the validation loss and has a state. All agree with the schedulers of `torch.optim.lr_scheduler`.
"""

import math
from collections.abc import Mapping
from typing import Any

from training_core.engine.loop import Hook, TrainingState
from training_core.engine.training import ScheduleKind, TrainingConfig
from training_core.errors import ConfigError

_FIRST_CYCLE_EPOCHS = 10  # of cosine restarts; each further cycle lasts twice as long as the one before
_RISING_SHARE = 0.3  # of a one-cycle training
_INITIAL_DIVISOR = 25.0  # a one-cycle training begins with this part of the peak,
_FINAL_DIVISOR = 1e4  # and ends with this part of its beginning
_PLATEAU_FACTOR = 0.5
_PLATEAU_PATIENCE = 5
_PLATEAU_THRESHOLD = 1e-4  # share of the best loss by which a loss must be lower to count as lower
_DECAY_PER_EPOCH = 0.95  # to a hundredth in 90 epochs


class LrSchedule:
    """A multiplier of the learning rate, here 1 for ever; the kinds override `factor`."""

    def factor(self, update: int) -> float:
        """The multiplier of optimiser update `update`, counted from 0."""
        return 1.0

    def observe(self, validation_loss: float) -> None:
        """Take note of an epoch's validation loss; all but `Plateau` ignore it."""

    def state_dict(self) -> dict[str, Any]:
        """What the update's number does not tell; empty for all but `Plateau`."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""


class CosineRestarts(LrSchedule):
    """Half a cosine from 1 to 0, again and again, each time twice as long.

    Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5 with η_min = 0 and T_mult = 2, in steps of one update.
    """

    def __init__(self, first_cycle: int) -> None:
        """`first_cycle`: updates until the first restart."""
        self._first_cycle = first_cycle

    def factor(self, update: int) -> float:
        """As in `LrSchedule`."""
        # Cycle n begins at first · (2ⁿ - 1): in whole numbers, so that no rounding moves a restart.
        doublings = 1 << ((update // self._first_cycle + 1).bit_length() - 1)
        position = update - self._first_cycle * (doublings - 1)
        return (1 + math.cos(math.pi * position / (self._first_cycle * doublings))) / 2


class OneCycle(LrSchedule):
    """Up from 1/25 to 1 over the first 30 %, then down to 1/250,000; both along a cosine.

    Smith & Topin 2018, arXiv:1708.07120, in the two phases of fastai. The momentum is left alone. After the planned
    end the last value stays.
    """

    def __init__(self, total_updates: int) -> None:
        self._last = total_updates - 1
        self._peak = _RISING_SHARE * total_updates - 1

    def factor(self, update: int) -> float:
        """As in `LrSchedule`."""
        low = 1 / _INITIAL_DIVISOR
        if update <= self._peak:
            return _along_cosine(low, 1.0, update / self._peak)
        return _along_cosine(
            1.0, low / _FINAL_DIVISOR, (min(update, self._last) - self._peak) / (self._last - self._peak)
        )


class Linear(LrSchedule):
    """Down from 1 in equal steps, to 0 just after the last planned update."""

    def __init__(self, total_updates: int) -> None:
        self._total_updates = total_updates

    def factor(self, update: int) -> float:
        """As in `LrSchedule`."""
        return max(0.0, 1 - update / self._total_updates)


class Exponential(LrSchedule):
    """Down by 5 % per epoch, a little with every update."""

    def __init__(self, updates_per_epoch: int) -> None:
        self._rate = math.log(_DECAY_PER_EPOCH) / updates_per_epoch

    def factor(self, update: int) -> float:
        """As in `LrSchedule`."""
        return math.exp(self._rate * update)


class Plateau(LrSchedule):
    """Half of what it was whenever more than 5 epochs in a row brought no validation loss lower by 0.01 %."""

    def __init__(self) -> None:
        self._factor = 1.0
        self._best = math.inf
        self._num_bad_epochs = 0

    def factor(self, update: int) -> float:
        """As in `LrSchedule`; the same for all updates between two observations."""
        return self._factor

    def observe(self, validation_loss: float) -> None:
        """Count epochs without a lower loss; one that is NaN is not lower."""
        # A negative best must become more negative: torch's `best · (1 - threshold)` would accept a slightly worse one.
        margin = _PLATEAU_THRESHOLD if self._best > 0 else -_PLATEAU_THRESHOLD
        if validation_loss < self._best * (1 - margin):
            self._best, self._num_bad_epochs = validation_loss, 0
            return
        self._num_bad_epochs += 1
        if self._num_bad_epochs > _PLATEAU_PATIENCE:
            self._factor, self._num_bad_epochs = self._factor * _PLATEAU_FACTOR, 0

    def state_dict(self) -> dict[str, Any]:
        """The multiplier, the lowest loss and how long ago it was."""
        return {"factor": self._factor, "best": self._best, "num_bad_epochs": self._num_bad_epochs}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._factor, self._best = state["factor"], state["best"]
        self._num_bad_epochs = state["num_bad_epochs"]


class Warmup(LrSchedule):
    """In front of another schedule: up to where that begins, in equal steps from 1 / (updates + 1).

    Goyal et al. 2017, arXiv:1706.02677, section 2.2 (gradual warm-up). The other schedule begins after it.
    """

    def __init__(self, num_updates: int, then: LrSchedule) -> None:
        self._num_updates = num_updates
        self._step = then.factor(0) / (num_updates + 1)
        self._then = then

    def factor(self, update: int) -> float:
        """As in `LrSchedule`."""
        if update < self._num_updates:
            return (update + 1) * self._step
        return self._then.factor(update - self._num_updates)

    def observe(self, validation_loss: float) -> None:
        """Tell the other schedule."""
        self._then.observe(validation_loss)

    def state_dict(self) -> dict[str, Any]:
        """The other schedule's."""
        return self._then.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._then.load_state_dict(state)


class ScheduleHook(Hook):
    """Tells a schedule the validation loss of every epoch, or the training loss when nothing is validated.

    Place it after `Validation`. Only `Plateau` listens; for the others the hook does nothing.
    """

    def __init__(self, schedule: LrSchedule) -> None:
        self._schedule = schedule

    def on_epoch_end(self, state: TrainingState, model: Any) -> None:
        """Tell."""
        loss = state.metrics.get("validation/loss", state.metrics.get("training/loss"))
        if loss is not None:
            self._schedule.observe(loss)

    def state_dict(self) -> dict[str, Any]:
        """The schedule's."""
        return self._schedule.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._schedule.load_state_dict(state)


def build_schedule(
    kind: ScheduleKind, *, total_updates: int, updates_per_epoch: int, warmup_epochs: float = 0.0
) -> LrSchedule:
    """The schedule called `kind` for a training of `total_updates` optimiser updates, warm-up included.

    `cosine_restarts` restarts after epochs 10, 30, 70, 150, … (after the warm-up): a training that ends there ends
    with a learning rate near 0, any other does not.

    Args:
        kind: a name of `ScheduleKind`.
        total_updates: optimiser updates planned: epochs times updates per epoch. More may follow.
        updates_per_epoch: optimiser updates, not batches: fewer than those under accumulation.
        warmup_epochs: epochs of linear growth in front; a part of an epoch is rounded to whole updates.

    Raises:
        ConfigError: no update is planned, or none is left after the warm-up.
    """
    if total_updates < 1 or updates_per_epoch < 1:
        raise ConfigError(
            f"a schedule was asked for {total_updates} updates, {updates_per_epoch} per epoch; both must be at least 1"
        )
    warmup = round(warmup_epochs * updates_per_epoch)
    left = total_updates - warmup
    if left < 1:
        epochs = total_updates / updates_per_epoch
        raise ConfigError(
            f"`warmup_epochs` is {warmup_epochs:g}, but training has only {epochs:g} epochs; "
            "make it smaller or raise `epochs`"
        )
    match kind:
        case "none":
            schedule = LrSchedule()
        case "cosine_restarts":
            schedule = CosineRestarts(_FIRST_CYCLE_EPOCHS * updates_per_epoch)
        case "one_cycle":
            schedule = OneCycle(left)
        case "plateau":
            schedule = Plateau()
        case "linear":
            schedule = Linear(left)
        case "exponential":
            schedule = Exponential(updates_per_epoch)
    return Warmup(warmup, schedule) if warmup else schedule


def _along_cosine(start: float, end: float, share: float) -> float:
    """From `start` to `end` along half a cosine, as `share` goes from 0 to 1."""
    return end + (start - end) / 2 * (math.cos(math.pi * share) + 1)


def training_schedule(training: TrainingConfig, num_batches: int) -> LrSchedule:
    """The schedule that the settings describe, for epochs of `num_batches` batches.

    Raises:
        ConfigError: as `build_schedule`.
    """
    per_epoch = -(-num_batches // training.accumulation)
    return build_schedule(
        training.schedule,
        total_updates=training.epochs * per_epoch,
        updates_per_epoch=per_epoch,
        warmup_epochs=training.warmup_epochs,
    )
