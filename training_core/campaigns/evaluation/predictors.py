"""The predictors that an evaluation compares, all asked the same way: any mask of cells, or samples of one's own."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from training_core.campaigns.evaluation.outcome import BEST_SINGLE, ENSEMBLE, PLAIN_MEAN
from training_core.evaluation.predictions import Predictions
from training_core.evaluation.robustness import MAX_TABULATED, AnswersByPattern, PredictShown, picked
from training_core.schema import Pattern, Samples
from training_core.selection.ensemble import Ensemble, PatternPredictions

_Ask = Callable[[PatternPredictions, Samples, Pattern], Predictions]
"""Predictions of samples (held, and as they are) with every modality outside a pattern hidden."""


@dataclass(frozen=True)
class Predictor:
    """One way of predicting the same rows.

    `under(pattern)` predicts them with every modality outside `pattern` hidden, `shown(mask)` with every cell outside
    `mask` hidden, and `of(samples)` predicts other samples.
    """

    name: str
    under: Callable[[Pattern], Predictions]
    shown: PredictShown
    of: Callable[[Samples], Predictions]


def predictors_of(ensemble: Ensemble, samples: Samples) -> tuple[Predictor, ...]:
    """The ensemble, its best single learner, and the plain mean of its learners, over the same samples.

    With up to `MAX_TABULATED` modalities each pattern is predicted once, whoever asks for it and however often.
    """
    under = ensemble.under_patterns(samples)
    asks: tuple[tuple[str, _Ask], ...] = (
        (ENSEMBLE, lambda held, _, pattern: held.predict(pattern)),
        (BEST_SINGLE, lambda held, given, pattern: best_alone(ensemble, held, given, pattern)),
        (PLAIN_MEAN, lambda held, _, pattern: held.predict(pattern, weighting="mean")),
    )
    return tuple(_predictor(name, ensemble, samples, under, ask) for name, ask in asks)


def best_alone(ensemble: Ensemble, held: PatternPredictions, samples: Samples, pattern: Pattern) -> Predictions:
    """Every row answered by one learner: the one that did best out of bag with the modalities the row is left with."""
    names = ensemble.spec.names
    seen = samples.availability(names) & np.array([name in pattern for name in names])
    masks, place = np.unique(seen, axis=0, return_inverse=True)
    named = [best_for(ensemble, frozenset(n for n, here in zip(names, mask, strict=True) if here)) for mask in masks]
    learners = sorted(set(named))
    which = np.array([learners.index(name) for name in named])[place.reshape(-1)]
    return picked([held.predict_member(name, pattern) for name in learners], which)


def best_for(ensemble: Ensemble, pattern: Pattern) -> str:
    """The learner that did best out of bag under a pattern; of those that can answer, for one nothing was learned for.

    Where none can answer, the best of all.
    """
    named = {found.pattern: found.best_single for found in ensemble.manifest.patterns}
    if learned := named.get(pattern):
        return learned
    row = {name: np.array([name in pattern]) for name in ensemble.spec.names}
    able = [m for m in ensemble.members if pattern and ensemble.learner(m.name).usable(row)[0]]
    return max(able, key=lambda member: member.score or -np.inf).name if able else ensemble.best_single


def hidden(samples: Samples, names: tuple[str, ...], shown: np.ndarray) -> Samples:
    """The samples as if only the cells `shown`, bool [N, M], were there; columns in the order of `names`."""
    masks = {name: samples.available[name] & shown[:, place] for place, name in enumerate(names)}
    return replace(samples, available={**samples.available, **masks})


def _predictor(name: str, ensemble: Ensemble, samples: Samples, under: PatternPredictions, ask: _Ask) -> Predictor:
    names = ensemble.spec.names

    def of(others: Samples) -> Predictions:
        return ask(ensemble.under_patterns(others), others, frozenset(names))

    if len(names) > MAX_TABULATED:
        return Predictor(
            name, lambda pattern: ask(under, samples, pattern), lambda shown: of(hidden(samples, names, shown)), of
        )
    answers = AnswersByPattern(names, lambda pattern: ask(under, samples, pattern))

    def with_pattern(pattern: Pattern) -> Predictions:
        row = np.array([name in pattern for name in names])
        return answers(np.broadcast_to(row, (len(samples), len(names))))

    return Predictor(name, with_pattern, answers, of)
