"""An ensemble: loaded from its directory, it predicts for any sample, whatever modalities the sample lacks.

<folder>/ensemble.json       `EnsembleManifest`
<folder>/members/<member>/   `TrainedLearner` folders, read when they are first needed
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import pydantic

from training_core.errors import DataError, StorageError
from training_core.evaluation.predictions import Predictions
from training_core.schema import DataSpec, Pattern, Samples, TaskSpec
from training_core.selection.combination import PatternWeights
from training_core.selection.manifest import MANIFEST, EnsembleManifest, Member, nearest
from training_core.selection.pattern_predictions import (
    PatternPredictions,
    PatternRule,
    Weighting,
)
from training_core.selection.worth import modality_shares

_BLOCK_ROWS = 65_536
"""Rows predicted at a time: bounds the memory for all learners' answers, which are held together."""


class Learner(Protocol):
    """What an ensemble asks of a trained learner; `engine.trained.TrainedLearner` is one."""

    def usable(self, available: Mapping[str, np.ndarray]) -> np.ndarray:
        """For which rows it can answer, bool [N]."""
        ...

    def predict(self, samples: Samples) -> np.ndarray:
        """Answers float64 [N, C]; NaN rows where it is not usable."""
        ...


class Ensemble:
    """Trained learners and how much each one counts under every availability pattern."""

    def __init__(
        self,
        manifest: EnsembleManifest,
        folder: Path,
        device: str = "cpu",
        learners: Mapping[str, Learner] | None = None,
    ) -> None:
        """See `load`; `learners` are those in memory already, by name, and are not read from `folder`."""
        self.manifest = manifest
        self.folder = folder
        self.device = device
        self._learners: dict[str, Learner] = dict(learners or {})
        self._rules: dict[tuple[Pattern, Weighting], PatternRule] = {}

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "Ensemble":
        """The ensemble in `folder`; learners are read when they are first needed.

        Raises:
            StorageError: there is no ensemble, or its description does not read back.
        """
        try:
            manifest = EnsembleManifest.model_validate_json((folder / MANIFEST).read_text())
        except (OSError, pydantic.ValidationError) as error:
            reason = str(error).splitlines()[0]
            raise StorageError(f"{folder} holds no ensemble that can be read: {reason}; train it again") from error
        return cls(manifest, folder, device)

    @property
    def name(self) -> str:
        """Its name."""
        return self.manifest.name

    @property
    def spec(self) -> DataSpec:
        """What samples look like."""
        return self.manifest.spec

    @property
    def task(self) -> TaskSpec:
        """What it predicts."""
        return self.manifest.task

    @property
    def members(self) -> tuple[Member, ...]:
        """All its learners, those without a weight included."""
        return self.manifest.members

    @property
    def kept(self) -> tuple[str, ...]:
        """Names of the learners that have a weight under at least one pattern."""
        weighted = {name for found in self.manifest.patterns for name in found.weights}
        return tuple(member.name for member in self.members if member.name in weighted)

    @property
    def best_single(self) -> str:
        """The learner that does best alone out of bag, under the fullest pattern any learner speaks for."""
        named = [found.best_single for found in self.manifest.patterns if found.best_single]
        return named[0] if named else self.members[0].name

    @property
    def coverage(self) -> float | None:
        """How often its sets and intervals are to hold the truth; None when it promises nothing."""
        return next((found.conformal.coverage for found in self.manifest.patterns if found.conformal), None)

    def weights(self, pattern: Pattern | None = None) -> dict[str, float]:
        """Weight per learner (all members) under `pattern`, by default when every modality is present; sum 1 or 0."""
        rule = self.rule(frozenset(self.spec.names) if pattern is None else pattern)
        return {member.name: rule.weights.get(member.name, 0.0) for member in self.members}

    def modality_weights(self, pattern: Pattern | None = None) -> dict[str, float]:
        """How much of the weight under `pattern` (by default the full set) falls on each modality, sum 1.

        A learner's weight is divided among those of its modalities that are there by what each is worth to the
        ensemble (`worth.modality_worth`): a modality of noise is worth nothing, though learners that look at everything
        look at it, too. All 0 when no learner answers.
        """
        pattern = frozenset(self.spec.names) if pattern is None else pattern
        looks_at = {m.name: tuple(n for n in m.modalities if n in pattern) for m in self.members}
        return modality_shares(self.rule(pattern).weights, looks_at, self.manifest.worth, self.spec.names)

    def learner(self, name: str) -> Learner:
        """The trained learner called `name`, read on first use.

        Raises:
            DataError: there is none of that name.
            StorageError: its files do not read back.
        """
        if name not in self._learners:
            from training_core.engine.trained import TrainedLearner

            member = next((m for m in self.members if m.name == name), None)
            if member is None:
                known = ", ".join(m.name for m in self.members)
                raise DataError(f"no learner '{name}' in this ensemble; it has {known}")
            self._learners[name] = TrainedLearner.load(self.folder / member.folder, self.device)
        return self._learners[name]

    def predict(self, samples: Samples, weighting: Weighting = "selected") -> Predictions:
        """Predict raw samples of the data set, each from the modalities it has.

        "selected": the learned weights and temperature of each row's pattern. "mean": every learner that can answer
        counts the same and nothing is calibrated, which is what the ensemble is compared with. A row that no learner
        can answer for gets what is known without input, with `num_learners` 0.

        Raises:
            DataError: `samples` lacks a modality of the spec (one that is missing is given, as unavailable).
        """
        if len(samples) <= _BLOCK_ROWS:
            return self.under_patterns(samples).predict(weighting=weighting)
        starts = range(0, len(samples), _BLOCK_ROWS)
        blocks = [samples.take(np.arange(s, min(s + _BLOCK_ROWS, len(samples)))) for s in starts]
        return Predictions.joined([self.under_patterns(block).predict(weighting=weighting) for block in blocks])

    def predict_member(self, name: str, samples: Samples) -> Predictions:
        """What one learner says by itself, uncalibrated; rows it cannot answer for get what is known without input.

        Raises:
            DataError: there is no such learner, or `samples` lacks a modality of the spec.
        """
        return self.under_patterns(samples).predict_member(name)

    def under_patterns(self, samples: Samples) -> "PatternPredictions":
        """Predictions of the same samples with modalities hidden, sharing what does not depend on the hidden ones.

        Raises:
            DataError: `samples` lacks a modality of the spec.
        """
        return PatternPredictions(self, samples)

    def rule(self, pattern: Pattern, weighting: Weighting = "selected") -> PatternRule:
        """How rows that have exactly the modalities in `pattern` are answered.

        Listed patterns use what was learned for them. An unlisted one uses the weights of all listed patterns, summed,
        of the learners that can answer under it, and the calibration of the nearest listed pattern. Without any
        weight, all learners that can answer count the same; without any such learner, and under an uninformed pattern,
        the weights are empty.
        """
        if (pattern, weighting) not in self._rules:
            self._rules[pattern, weighting] = self._make_rule(pattern, weighting)
        return self._rules[pattern, weighting]

    def _make_rule(self, pattern: Pattern, weighting: Weighting) -> PatternRule:
        listed = self.manifest.patterns
        own = next((found for found in listed if found.pattern == pattern), None)
        if own is not None and own.uninformed and weighting == "selected":
            return PatternRule({}, own)
        weights: dict[str, float] = {}
        if weighting == "selected":
            weights = self._usable(own.weights, pattern) if own else {}
            if not weights:
                summed: dict[str, float] = {}
                for found in listed:
                    for name, weight in found.weights.items():
                        summed[name] = summed.get(name, 0.0) + weight
                weights = self._usable(summed, pattern)
        if not weights:
            weights = self._usable({member.name: 1.0 for member in self.members}, pattern)
        total = sum(weights.values())
        found = own or nearest(pattern, (found for found in listed if found.weights))
        if found is None or weighting == "mean":
            explained = found.explained if found else None
            found = PatternWeights(available=self._in_order(pattern), weights={}, explained=explained)
        return PatternRule({m.name: weights[m.name] / total for m in self.members if m.name in weights}, found)

    def _in_order(self, pattern: Pattern) -> tuple[str, ...]:
        return tuple(name for name in self.spec.names if name in pattern)

    def _usable(self, weights: Mapping[str, float], pattern: Pattern) -> dict[str, float]:
        """Those of `weights` whose learners can answer with the modalities in `pattern`."""
        row = {name: np.array([name in pattern]) for name in self.spec.names}
        return {name: w for name, w in weights.items() if w > 0 and self.learner(name).usable(row)[0]}
