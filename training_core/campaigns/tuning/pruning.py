"""What a pruner will think of a trial, asked before the trial begins.

Trials train in processes, perhaps on other machines, that know nothing of the study. So the pruner is asked beforehand,
on a copy of what is known: at each epoch, which is the worst best-so-far value it would let go on? The answers are a
plain table that travels with the job. That costs the worker nothing, and the same study gives the same table.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from datetime import datetime
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

_IMAGINED = -1  # id of a trial that no storage has
_LARGE = 1e300
_HALVINGS = 8  # between two known values: a percentile lies between them, an order-based rule at one of them
_EVERY = 8  # up to this epoch a pruner looks at each one
_GROWTH = 1.1


def looks(epochs: int) -> tuple[int, ...]:
    """The epochs at which a pruner looks: each one at first, then in steps that grow by a tenth; the last one."""
    found, position = list(range(1, min(_EVERY, epochs) + 1)), float(_EVERY)
    while found[-1] < epochs:
        position = max(position * _GROWTH, found[-1] + 1.0)
        found.append(min(round(position), epochs))
    return tuple(found)


class Foresight:
    """A copy of what a study knows, on which pruners may be tried."""

    def __init__(self, study: optuna.Study, before: int) -> None:
        """Copy the trials with numbers below `before` of `study`, which has one objective."""
        self._storage = _Sandbox()
        self._study = optuna.create_study(
            storage=self._storage, study_name=study.study_name, directions=study.directions
        )
        self._sign = 1.0 if study.direction == optuna.study.StudyDirection.MINIMIZE else -1.0
        trials = sorted(study.get_trials(deepcopy=False), key=lambda trial: trial.number)
        self._known = [_outline(trial) for trial in trials if trial.number < before]
        # Numbers count: Hyperband deals trials out to its brackets by their numbers.
        self._study.add_trials([trial if trial.state.is_finished() else _unknown() for trial in self._known])

    def give_up_table(self, pruner: BasePruner, number: int, epochs: Sequence[int]) -> dict[int, float]:
        """For each epoch at which the pruner would end trial `number`: the largest value with which it may go on.

        Values are less the better, whatever the study's direction. Thresholds are bisected over the values known at
        that epoch, and between the two neighbours found, which suits every rule that asks for the order of values.
        """
        table: dict[int, float] = {}
        noted: dict[str, Any] = {}
        for epoch in epochs:

            def prunes(value: float, epoch: int = epoch, noted: Mapping[str, Any] = noted) -> bool:
                self._storage.noted.clear()
                return pruner.prune(self._study, _imagined(number, {epoch: self._sign * value}, noted))

            if prunes(_LARGE):
                table[epoch] = _largest_passing(self._values_at(epoch), prunes)
                prunes(table[epoch])  # so that it is noted with what it passed this epoch
            noted = {**noted, **self._storage.noted}
        return table

    def _values_at(self, epoch: int) -> list[float]:
        """What the known trials had at an epoch, sorted, less being better."""
        reached = (t.intermediate_values[epoch] for t in self._known if epoch in t.intermediate_values)
        return sorted({self._sign * value for value in reached if math.isfinite(value)})

    def would_prune(self, pruner: BasePruner, number: int, values: Mapping[int, float]) -> bool:
        """Whether the pruner ends trial `number`, which has these values by step, in the study's own direction."""
        self._storage.noted.clear()
        return pruner.prune(self._study, _imagined(number, dict(values), {}))


class _Sandbox(InMemoryStorage):
    """Catches what a pruner notes of a trial that is only imagined."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: dict[str, Any] = {}

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Keep a note."""
        if trial_id == _IMAGINED:
            self.noted[key] = value
        else:
            super().set_trial_system_attr(trial_id, key, value)


def _largest_passing(known: Sequence[float], prunes: Callable[[float], bool]) -> float:
    """The largest value that is not pruned, to within a fraction of the gap between its neighbours in `known`."""
    low, high = -1, len(known)  # known[low] passes, known[high] does not; both ends are imagined
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if prunes(known[middle]) else (middle, high)
    if low < 0:
        return -_LARGE if not known else math.nextafter(known[0], -math.inf)
    if high == len(known):
        return known[low]
    passing, failing = known[low], known[high]
    for _ in range(_HALVINGS):
        middle = (passing + failing) / 2
        passing, failing = (passing, middle) if prunes(middle) else (middle, failing)
    return passing


def _imagined(number: int, values: dict[int, float], noted: Mapping[str, Any]) -> FrozenTrial:
    """A running trial that is in no study."""
    return FrozenTrial(
        number=number,
        state=TrialState.RUNNING,
        value=None,
        datetime_start=datetime.now(),
        datetime_complete=None,
        params={},
        distributions={},
        user_attrs={},
        system_attrs=dict(noted),
        intermediate_values=values,
        trial_id=_IMAGINED,
    )


def _outline(trial: FrozenTrial) -> FrozenTrial:
    """A trial without what no pruner looks at and every copy of a study would copy: its fields and its facts."""
    outline = copy(trial)
    outline.params, outline.distributions, outline.user_attrs = {}, {}, {}
    return outline


def _unknown() -> FrozenTrial:
    """Stands for a trial nothing is known of yet."""
    return optuna.trial.create_trial(state=TrialState.FAIL)
