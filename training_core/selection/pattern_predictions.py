"""One set of samples, predicted by an ensemble with different modalities hidden."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from training_core.errors import DataError
from training_core.evaluation.calibration import apply_temperature, confidence
from training_core.evaluation.predictions import Predictions
from training_core.schema import Pattern, Samples
from training_core.selection.answering import calibrated_values, error_factors
from training_core.selection.combination import PatternWeights
from training_core.selection.conformal import prediction_intervals, prediction_sets
from training_core.selection.pooling import pool

if TYPE_CHECKING:
    from training_core.selection.ensemble import Ensemble

Weighting = Literal["selected", "mean"]


@dataclass(frozen=True)
class PatternRule:
    """How rows of one availability pattern are answered."""

    weights: dict[str, float]
    """Of the learners that can answer; sum 1, or empty."""
    learned: PatternWeights
    """Where its calibration and its promise come from; one that changes nothing where there is none."""


class PatternPredictions:
    """Samples whose predictions under different patterns share what does not depend on the pattern.

    A learner is asked once per part of its own modalities that is left, however many patterns leave that part.
    """

    def __init__(self, ensemble: "Ensemble", samples: Samples) -> None:
        """Hold `samples`.

        Raises:
            DataError: a modality of the spec is not in `samples`.
        """
        absent = [n for n in ensemble.spec.names if n not in samples.inputs or n not in samples.available]
        if absent:
            raise DataError(
                f"samples have no modality {', '.join(absent)}; this ensemble knows {', '.join(ensemble.spec.names)} "
                "(a missing modality is given too, marked as unavailable)"
            )
        self._ensemble = ensemble
        self._samples = samples
        self._available = samples.availability(ensemble.spec.names)
        self._members = {member.name: member for member in ensemble.members}
        self._answers: dict[tuple[str, Pattern], np.ndarray] = {}

    def predict(self, pattern: Pattern | None = None, weighting: Weighting = "selected") -> Predictions:
        """Predictions with every modality outside `pattern` hidden; None hides nothing. See `Ensemble.predict`."""
        names = self._ensemble.spec.names
        pattern = frozenset(names) if pattern is None else pattern
        seen = self._available & np.array([name in pattern for name in names])
        masks, group_of_row = np.unique(seen, axis=0, return_inverse=True)
        group_of_row = group_of_row.reshape(-1)
        answer = self._unknown(len(seen), promise=weighting == "selected")
        for index, mask in enumerate(masks):
            left = frozenset(n for n, here in zip(names, mask, strict=True) if here)
            rule = self._ensemble.rule(left, weighting)
            if rule.weights:
                self._fill(answer, np.flatnonzero(group_of_row == index), rule, pattern, left, weighting)
        return answer

    def predict_member(self, name: str, pattern: Pattern | None = None) -> Predictions:
        """What one learner says by itself with every modality outside `pattern` hidden; see `Ensemble.predict_member`.

        Regression: its confidence is its own score out of bag.
        """
        ensemble = self._ensemble
        pattern = frozenset(ensemble.spec.names) if pattern is None else pattern
        mixed = pool(self._answer(name, pattern)[None], np.ones(1))
        values = np.where(mixed.covered[:, None], mixed.values, np.array(ensemble.manifest.prior))
        score = self._members[name].score or 0.0
        return Predictions(
            values=values,
            confidence=confidence(ensemble.task, values, np.where(mixed.covered, score, 0.0)),
            num_learners=mixed.num_learners,
        )

    def _unknown(self, num_rows: int, promise: bool) -> Predictions:
        """What is known without any input, as often as asked for; to be filled in where more is known."""
        manifest, task = self._ensemble.manifest, self._ensemble.task
        values = np.tile(np.array(manifest.prior), (num_rows, 1))
        std = sets = lower = upper = None
        if promise and task.kind == "regression" and manifest.prior_std:
            std = np.tile(np.array(manifest.prior_std), (num_rows, 1))
        if promise and manifest.prior_conformal:
            if std is not None:
                lower, upper = prediction_intervals(values, std, manifest.prior_conformal)
            elif task.kind != "regression":
                sets = prediction_sets(task, values, manifest.prior_conformal)
        sure = confidence(task, values, 0.0)
        return Predictions(values, sure, np.zeros(num_rows, np.int64), std, sets, lower, upper)

    def _fill(
        self, answer: Predictions, rows: np.ndarray, rule: PatternRule, pattern: Pattern, left: Pattern, how: Weighting
    ) -> None:
        """Write the answers to `rows`, which have the modalities in `left`, into `answer`."""
        task, names = self._ensemble.task, tuple(rule.weights)
        said = np.stack([self._answer(name, pattern)[rows] for name in names])
        if how == "selected" and task.kind != "regression":
            said = np.stack([self._calibrated(name, left, own) for name, own in zip(names, said, strict=True)])
        weights = np.array(list(rule.weights.values()))
        mixed = pool(said, weights)
        covered = np.flatnonzero(mixed.covered)
        rows, said, mixed = rows[covered], said[:, covered], mixed.take(covered)
        learned, values = rule.learned, mixed.values
        if how == "selected":
            values = calibrated_values(task, learned, mixed, said, weights, names)
        explained = np.full(len(rows), learned.explained or 0.0)
        if answer.std is not None:
            factors = error_factors(learned, values, said, weights, mixed)
            answer.std[rows] = np.array(learned.error_std or self._ensemble.manifest.prior_std) * factors
            explained = 1.0 - (1.0 - explained) * np.mean(factors**2, axis=1)
        answer.values[rows] = values
        answer.confidence[rows] = confidence(task, values, explained)
        answer.num_learners[rows] = mixed.num_learners
        if answer.sets is not None:
            answer.sets[rows] = prediction_sets(task, values, learned.conformal) if learned.conformal else True
        if answer.std is not None and answer.lower is not None and answer.upper is not None:
            answer.lower[rows], answer.upper[rows] = -np.inf, np.inf
            if learned.conformal:
                bounds = prediction_intervals(values, answer.std[rows], learned.conformal)
                answer.lower[rows], answer.upper[rows] = bounds

    def _calibrated(self, name: str, left: Pattern, said: np.ndarray) -> np.ndarray:
        """What a learner that is left with `left` says, at its own temperature."""
        member = self._members[name]
        temperature = member.temperature(left & frozenset(member.modalities))
        return said if temperature == 1.0 else apply_temperature(self._ensemble.task, said, temperature)

    def _answer(self, name: str, pattern: Pattern) -> np.ndarray:
        """The learner's answers, NaN where it has none, with what lies outside `pattern` hidden."""
        learner = self._ensemble.learner(name)
        own = frozenset(self._members[name].modalities)
        if (name, own & pattern) not in self._answers:
            self._answers[name, own & pattern] = learner.predict(self._samples.without(own - pattern))
        return self._answers[name, own & pattern]
