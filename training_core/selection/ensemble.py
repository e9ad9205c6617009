"""An ensemble: loaded from its directory, it predicts for any sample, whatever modalities the sample lacks.

<folder>/ensemble.json       `EnsembleManifest`
<folder>/members/<member>/   `TrainedLearner` folders, read when they are first needed
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import pydantic

from training_core.errors import DataError, StorageError
from training_core.evaluation.calibration import apply_temperature, confidence
from training_core.evaluation.predictions import Predictions
from training_core.schema import DataSpec, Pattern, Samples, TaskSpec
from training_core.selection.manifest import MANIFEST, EnsembleManifest, Member, nearest
from training_core.selection.pooling import pool

Weighting = Literal["selected", "mean"]
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


@dataclass(frozen=True)
class PatternRule:
    """How rows of one availability pattern are answered."""

    weights: dict[str, float]
    temperature: float
    explained: float
    error_std: tuple[float, ...] | None


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

    def weights(self, pattern: Pattern | None = None) -> dict[str, float]:
        """Weight per learner (all members) under `pattern`, by default when every modality is present; sum 1 or 0."""
        rule = self.rule(frozenset(self.spec.names) if pattern is None else pattern)
        return {member.name: rule.weights.get(member.name, 0.0) for member in self.members}

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
        parts = [self.under_patterns(block).predict(weighting=weighting) for block in blocks]
        return Predictions(
            values=np.concatenate([part.values for part in parts]),
            confidence=np.concatenate([part.confidence for part in parts]),
            num_learners=np.concatenate([part.num_learners for part in parts]),
            std=np.concatenate([part.std for part in parts if part.std is not None])
            if parts[0].std is not None
            else None,
        )

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
        weight, all learners that can answer count the same; without any such learner the weights are empty.
        """
        if (pattern, weighting) not in self._rules:
            self._rules[pattern, weighting] = self._make_rule(pattern, weighting)
        return self._rules[pattern, weighting]

    def _make_rule(self, pattern: Pattern, weighting: Weighting) -> PatternRule:
        listed = self.manifest.patterns
        own = next((found for found in listed if found.pattern == pattern), None)
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
        return PatternRule(
            weights={m.name: weights[m.name] / total for m in self.members if m.name in weights},
            temperature=found.temperature if found and weighting == "selected" else 1.0,
            explained=(found.explained or 0.0) if found else 0.0,
            error_std=found.error_std if found else None,
        )

    def _usable(self, weights: Mapping[str, float], pattern: Pattern) -> dict[str, float]:
        """Those of `weights` whose learners can answer with the modalities in `pattern`."""
        row = {name: np.array([name in pattern]) for name in self.spec.names}
        return {name: w for name, w in weights.items() if w > 0 and self.learner(name).usable(row)[0]}


class PatternPredictions:
    """One set of samples, predicted with different modalities hidden.

    A learner is asked once per part of its own modalities that is left, however many patterns leave that part.
    """

    def __init__(self, ensemble: Ensemble, samples: Samples) -> None:
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
        self._modalities = {member.name: member.modalities for member in ensemble.members}
        self._answers: dict[tuple[str, Pattern], np.ndarray] = {}

    def predict(self, pattern: Pattern | None = None, weighting: Weighting = "selected") -> Predictions:
        """Predictions with every modality outside `pattern` hidden; None hides nothing. See `Ensemble.predict`."""
        ensemble = self._ensemble
        names = ensemble.spec.names
        pattern = frozenset(names) if pattern is None else pattern
        seen = self._available & np.array([name in pattern for name in names])
        masks, group_of_row = np.unique(seen, axis=0, return_inverse=True)
        group_of_row = group_of_row.reshape(-1)
        present = [frozenset(n for n, here in zip(names, mask, strict=True) if here) for mask in masks]
        rules = [ensemble.rule(group, weighting) for group in present]

        asked = [m.name for m in ensemble.members if any(m.name in rule.weights for rule in rules)]
        values, num_learners = self._prior(), np.zeros(len(seen), np.int64)
        if asked:
            by_group = np.array([[rule.weights.get(name, 0.0) for rule in rules] for name in asked])
            answers = np.stack([self._answer(name, pattern) for name in asked])
            mixed = pool(answers, by_group[:, group_of_row])
            values = np.where(mixed.covered[:, None], mixed.values, values)
            num_learners = mixed.num_learners
        for index, rule in enumerate(rules):
            rows = np.flatnonzero((group_of_row == index) & (num_learners > 0))
            values[rows] = apply_temperature(ensemble.task, values[rows], rule.temperature)

        explained = np.array([rule.explained for rule in rules])[group_of_row] if rules else np.zeros(0)
        std = None
        if ensemble.task.kind == "regression" and weighting == "selected" and ensemble.manifest.prior_std:
            unknown = ensemble.manifest.prior_std
            std = np.array([rule.error_std or unknown for rule in rules]).reshape(-1, len(unknown))[group_of_row]
            std = np.where((num_learners > 0)[:, None], std, np.array(unknown))
        return Predictions(
            values=values,
            confidence=confidence(ensemble.task, values, np.where(num_learners > 0, explained, 0.0)),
            num_learners=num_learners,
            std=std,
        )

    def predict_member(self, name: str, pattern: Pattern | None = None) -> Predictions:
        """What one learner says by itself with every modality outside `pattern` hidden; see `Ensemble.predict_member`.

        Regression: its confidence is its own score out of bag.
        """
        ensemble = self._ensemble
        pattern = frozenset(ensemble.spec.names) if pattern is None else pattern
        mixed = pool(self._answer(name, pattern)[None], np.ones(1))
        values = np.where(mixed.covered[:, None], mixed.values, self._prior())
        score = next(member.score for member in ensemble.members if member.name == name) or 0.0
        return Predictions(
            values=values,
            confidence=confidence(ensemble.task, values, np.where(mixed.covered, score, 0.0)),
            num_learners=mixed.num_learners,
        )

    def _answer(self, name: str, pattern: Pattern) -> np.ndarray:
        """The learner's answers, NaN where it has none, with what lies outside `pattern` hidden."""
        learner = self._ensemble.learner(name)
        own = frozenset(self._modalities[name])
        if (name, own & pattern) not in self._answers:
            self._answers[name, own & pattern] = learner.predict(self._samples.without(own - pattern))
        return self._answers[name, own & pattern]

    def _prior(self) -> np.ndarray:
        return np.tile(np.array(self._ensemble.manifest.prior), (len(self._samples), 1))
