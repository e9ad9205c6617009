"""CMA-ES over a study's numeric fields, worked out anew from the trials told so far.

Optuna's own keeps its state as a pickle inside the study, which whoever can write the study could make run code. Here
nothing is kept but the generation of each trial: the state follows from the values that were told.
"""

import math
import warnings
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import intersection_search_space
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

_GENERATION = "polychoir:generation"
_SIGMA = 0.25
"""Of the first generation, in units of the space: Hansen 2016, arXiv:1604.00772, B: a quarter of the interval."""


class CmaSampler(BaseSampler):
    """Covariance matrix adaptation; fields that are choices or exist under conditions are drawn at random."""

    def __init__(self, seed: int) -> None:
        """Draw by `seed`, in [0, 2**32)."""
        self._seed = seed
        self._random = RandomSampler(seed=seed)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The numeric fields that every complete trial has."""
        space = intersection_search_space(study.get_trials(deepcopy=False))
        return {
            name: distribution
            for name, distribution in space.items()
            if isinstance(distribution, FloatDistribution | IntDistribution) and not distribution.single()
        }

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The next point of the generation at hand."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import cmaes

        names = sorted(search_space)
        # CMA needs two dimensions at least; the second one of a single field is a number that nothing depends on.
        width = max(2, len(names))
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        start = np.full(width, 0.5)
        best = _best(study, done)
        if best is not None:
            start[: len(names)] = [_position(search_space[name], best.params[name]) for name in names]
        bounds = np.tile([[0.0, 1.0]], (width, 1))
        evolution = cmaes.CMA(mean=start, sigma=_SIGMA, bounds=bounds, seed=self._seed)
        sign = 1.0 if study.direction == StudyDirection.MINIMIZE else -1.0
        while True:
            members = [t for t in done if t.system_attrs.get(_GENERATION) == evolution.generation]
            members = [t for t in members if all(name in t.params for name in names)][: evolution.population_size]
            if len(members) < evolution.population_size:
                break
            solutions = []
            for member in members:
                point = np.full(width, 0.5)
                point[: len(names)] = [_position(search_space[name], member.params[name]) for name in names]
                solutions.append((point, sign * float(member.values[0])))
            evolution.tell(solutions)
        study._storage.set_trial_system_attr(trial._trial_id, _GENERATION, evolution.generation)
        point = evolution.ask()
        return {name: _value(search_space[name], float(point[i])) for i, name in enumerate(names)}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A random value."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)


def _best(study: optuna.Study, done: list[FrozenTrial]) -> FrozenTrial | None:
    """The best of the trials that were done when the first generation began: what it starts from stays the same."""
    first = min(
        (
            t.datetime_start
            for t in study.get_trials(deepcopy=False)
            if _GENERATION in t.system_attrs and t.datetime_start
        ),
        default=None,
    )
    ended = [(trial, trial.datetime_complete) for trial in done if _GENERATION not in trial.system_attrs]
    before = [trial for trial, when in ended if first is None or (when is not None and when < first)]
    sign = 1.0 if study.direction == StudyDirection.MINIMIZE else -1.0
    return min(before, key=lambda trial: (sign * trial.values[0], trial.number), default=None)


def _position(distribution: BaseDistribution, value: float) -> float:
    """Where a value lies in its range, in [0, 1]."""
    low, high = _ends(distribution)
    return min(max((_scaled(distribution, value) - low) / (high - low), 0.0), 1.0)


def _value(distribution: BaseDistribution, position: float) -> float | int:
    """The value nearest to a position in [0, 1] of its range."""
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = _ends(distribution)
    scaled = low + min(max(position, 0.0), 1.0) * (high - low)
    value = math.exp(scaled) if distribution.log else scaled
    if distribution.step is not None and not distribution.log:
        value = distribution.low + round((value - distribution.low) / distribution.step) * distribution.step
    value = min(max(value, distribution.low), distribution.high)
    return round(value) if isinstance(distribution, IntDistribution) else float(value)


def _ends(distribution: BaseDistribution) -> tuple[float, float]:
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return _scaled(distribution, distribution.low), _scaled(distribution, distribution.high)


def _scaled(distribution: BaseDistribution, value: float) -> float:
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return math.log(value) if distribution.log else float(value)
