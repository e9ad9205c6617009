"""Who chooses the values of the next trial, and who ends a trial early: Optuna's own, made repeatable.

What a sampler draws for a trial depends on the seed, the trial's number and the field, and on the trials it has seen:
never on what this process drew before. So a study that was interrupted, even in the middle of a choice, goes on as if
it had not been.
"""

import hashlib
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from training_core.campaigns.tuning.config import ParamValue, SamplerKind, TuningConfig
from training_core.campaigns.tuning.evolution import CmaSampler
from training_core.campaigns.tuning.space import Dimension
from training_core.errors import ConfigError
from training_core.seeding import derive_seed

_POPULATION = 20
"""Of the evolutionary samplers: a generation is seen a few times within the trials most studies have."""
_REDUCTION = 3
"""Hyperband and successive halving let about one in so many go on at each rung (the η of both papers)."""
_MEDIAN_STARTUP = 4
"""Complete trials before a median means anything."""
_WILCOXON_P = 0.1
_BITS = 30  # of a point of Sobol's sequence
_MOST_POINTS = 2**_BITS


def sampler_of(config: TuningConfig, paths: Sequence[str], seed: int) -> BaseSampler:
    """The sampler of a study.

    Its first `startup_trials` trials are points of a scrambled Sobol' sequence with a coordinate for every path: they
    cover the space more evenly than random ones do. All trials of `qmc` are.

    Args:
        config: which one.
        paths: of all dimensions.
        seed: root of all draws.

    Raises:
        ConfigError: it cannot search for several objectives.
    """
    if config.sampler == "cmaes" and len(config.objectives) > 1:
        raise ConfigError(
            f"`tuning.sampler` is cmaes, which knows one objective, and there are {len(config.objectives)}; choose "
            "tpe, gp, nsga2 or nsga3"
        )
    startup = {"qmc": _MOST_POINTS, "random": 0}.get(config.sampler, config.startup_trials)
    return _RepeatableSampler(config.sampler, tuple(sorted(paths)), startup, seed)


def pruner_of(config: TuningConfig, epochs: int) -> BasePruner | None:
    """Who ends trials early; None when nobody does, as with several objectives, or one that is not of quality.

    Args:
        config: which one.
        epochs: a training has at most.
    """
    if config.objectives not in (("loss",), ("score",)) or config.target != "learner" or config.pruner == "none":
        return None
    least = min(config.min_epochs, epochs)
    match config.pruner:
        case "hyperband":
            return optuna.pruners.HyperbandPruner(least, max(epochs, least), _REDUCTION)
        case "asha":
            return optuna.pruners.SuccessiveHalvingPruner(least, _REDUCTION)
        case "median":
            warmup = 1 if config.folds > 1 else least
            return optuna.pruners.MedianPruner(_MEDIAN_STARTUP, n_warmup_steps=warmup)
        case "wilcoxon":
            with _quiet():
                return optuna.pruners.WilcoxonPruner(p_threshold=_WILCOXON_P) if config.folds > 1 else None


def prunes_by_fold(config: TuningConfig) -> bool:
    """Whether it is folds that the pruner looks at, not epochs."""
    return config.folds > 1 and config.pruner in ("wilcoxon", "median")


def suggest(trial: Trial, dimension: Dimension) -> ParamValue:
    """The value a trial has along a dimension, chosen now if it has none."""
    distribution = distribution_of(dimension)
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(dimension.path, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(
            dimension.path, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    assert isinstance(distribution, FloatDistribution)
    return trial.suggest_float(
        dimension.path, distribution.low, distribution.high, step=distribution.step, log=distribution.log
    )


def distribution_of(dimension: Dimension) -> BaseDistribution:
    """A dimension as Optuna has it."""
    if dimension.kind == "choice":
        return CategoricalDistribution(dimension.choices)
    assert dimension.low is not None and dimension.high is not None, "numbers have ends"
    if dimension.kind == "int":
        step = 1 if dimension.step is None else int(dimension.step)
        return IntDistribution(int(dimension.low), int(dimension.high), dimension.log, step)
    return FloatDistribution(float(dimension.low), float(dimension.high), dimension.log, dimension.step)


class _RepeatableSampler(BaseSampler):
    """Asks a fresh sampler of Optuna's for every trial, seeded by the trial's number."""

    def __init__(self, kind: SamplerKind, paths: tuple[str, ...], startup: int, seed: int) -> None:
        self._kind: SamplerKind = kind
        self._paths, self._startup, self._seed = paths, startup, seed
        self._current: tuple[int, BaseSampler] | None = None

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Which fields are chosen together."""
        if trial.number < self._startup:
            return {}
        self._current = (trial.number, _fresh(self._kind, derive_seed(self._seed, "together", trial.number)))
        with _quiet():
            return self._current[1].infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Values of the fields that are chosen together."""
        if trial.number < self._startup or self._current is None or not search_space:
            return {}
        with _quiet(), _one_thread(self._kind):
            return self._current[1].sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The value of a field by itself."""
        seed = derive_seed(self._seed, "alone", trial.number, param_name)
        if trial.number < self._startup and param_name in self._paths:
            point = _even_point(trial.number, len(self._paths), derive_seed(self._seed, "even"))
            return value_at(param_distribution, point[self._paths.index(param_name)])
        with _quiet(), _one_thread(self._kind):
            return _fresh(self._kind, seed).sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Nothing is kept from trial to trial."""

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Let the sampler note what it notes with a trial."""
        with _quiet():
            _fresh(self._kind, derive_seed(self._seed, "after", trial.number)).after_trial(study, trial, state, values)


def value_at(distribution: BaseDistribution, position: float) -> Any:
    """The value at `position` in [0, 1) of a distribution, every part of which has its share.

    Raises:
        TypeError: the distribution is of no known form.
    """
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(position * len(distribution.choices))]
    if isinstance(distribution, IntDistribution):
        if distribution.log:
            low, high = math.log(distribution.low - 0.5), math.log(distribution.high + 0.5)
            return min(max(round(math.exp(low + position * (high - low))), distribution.low), distribution.high)
        steps = (distribution.high - distribution.low) // distribution.step + 1
        return distribution.low + int(position * steps) * distribution.step
    if isinstance(distribution, FloatDistribution):
        if distribution.step is not None:
            steps = round((distribution.high - distribution.low) / distribution.step) + 1
            return min(distribution.low + int(position * steps) * distribution.step, distribution.high)
        if distribution.log:
            low, high = math.log(distribution.low), math.log(distribution.high)
            return min(max(math.exp(low + position * (high - low)), distribution.low), distribution.high)
        return distribution.low + position * (distribution.high - distribution.low)
    raise TypeError(f"no position in a {type(distribution).__name__}")


@lru_cache(maxsize=64)
def _even_point(number: int, dimensions: int, seed: int) -> tuple[float, ...]:
    """Point `number` of Owen-scrambled Sobol' points in [0, 1)^dimensions (Owen 1998; Joe and Kuo 2008)."""
    from scipy.stats import qmc

    engine = qmc.Sobol(dimensions, scramble=True, bits=_BITS, rng=np.random.default_rng(seed))
    if number:
        engine.fast_forward(number)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a single point is not balanced; the sequence of them is
        return tuple(float(value) for value in engine.random(1)[0])


def _fresh(kind: SamplerKind, seed: int) -> BaseSampler:
    """A sampler of Optuna's that has drawn nothing yet."""
    state = int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:4], "big")
    with _quiet():
        match kind:
            case "tpe":
                # Fields that exist under conditions are chosen together with those they exist beside (`group`), and
                # trials that still run count as bad ones, so that no two of a batch are alike (`constant_liar`).
                return optuna.samplers.TPESampler(
                    n_startup_trials=1, multivariate=True, group=True, constant_liar=True, seed=state
                )
            case "gp":
                return optuna.samplers.GPSampler(seed=state, n_startup_trials=1)
            case "nsga2":
                return optuna.samplers.NSGAIISampler(population_size=_POPULATION, seed=state)
            case "nsga3":
                return optuna.samplers.NSGAIIISampler(population_size=_POPULATION, seed=state)
            case "cmaes":
                return CmaSampler(state)
            case "random" | "qmc":
                return optuna.samplers.RandomSampler(seed=state)


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings of experimental arguments: what they do is pinned by tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _one_thread(kind: SamplerKind) -> Iterator[None]:
    """The Gaussian process of `gp` is small and fitted by torch: its threads would wait for one another."""
    if kind != "gp":
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
