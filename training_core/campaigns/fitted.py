"""An ensemble as its trainer gets it back: it predicts for arrays, tables and files, and tells how it came about."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from training_core.artifacts import ArtifactRef, open_published
from training_core.campaigns.bagging import Plan
from training_core.campaigns.budget_use import BudgetUse, CostScore
from training_core.campaigns.clock import RunClock
from training_core.campaigns.dispatch import TrainingOutcome
from training_core.campaigns.fit_summary import FitSummary
from training_core.campaigns.judgement import judge
from training_core.campaigns.run_config import RunConfig
from training_core.campaigns.summary import Judgement, LearnerCounts
from training_core.data.cells import as_text
from training_core.data.frames import read_samples, samples_from_arrays, samples_from_frame
from training_core.data.storage.store import Dataset
from training_core.errors import ConfigError, DataError
from training_core.evaluation.predictions import Predictions
from training_core.jobs import DatasetRef, JobReport
from training_core.schema import Samples, pattern_key, patterns_to_judge
from training_core.selection.ensemble import Ensemble
from training_core.selection.leaderboard import leaderboard, leaderboard_frame
from training_core.selection.manifest import MANIFEST, EnsembleManifest
from training_core.selection.pattern_predictions import Weighting

if TYPE_CHECKING:
    import pandas as pd


Available = Iterable[str] | Mapping[str, Any] | None
"""Modalities that may be looked at: their names, or bool [N] by name, which leaves those it does not name as they are;
None: all that are there."""


@dataclass(frozen=True)
class LabelledPredictions(Predictions):
    """Predictions with the answers themselves, which are what NumPy and scikit-learn see of them.

    `labels`: classes [N], as they were in the training target; for multilabel bool [N, L]; for regression the values,
    float64 [N] or [N, K].
    """

    labels: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The labels."""
        return np.array(self.labels, dtype=dtype) if copy else np.asarray(self.labels, dtype=dtype)


@dataclass(frozen=True)
class _Origin:
    """How an ensemble came about."""

    run: RunConfig
    dataset: DatasetRef
    plan: Plan
    trained: TrainingOutcome
    clock: RunClock
    seconds: float


class FittedEnsemble(Ensemble):
    """An ensemble that takes data in any form and remembers its training."""

    def __init__(self, folder: Path, origin: _Origin | None = None, classes: np.ndarray | None = None) -> None:
        """See `of`, and `load_ensemble` for one trained before; `classes` are those of the target as it was given."""
        super().__init__(EnsembleManifest.model_validate_json((folder / MANIFEST).read_text()), folder)
        self._origin = origin
        self.classes = _in_order(classes, self.task.classes)
        """Classification: the classes, in the order of the columns of `predict_proba`."""

    @classmethod
    def of(
        cls,
        artifact: ArtifactRef,
        run: RunConfig,
        dataset: DatasetRef,
        plan: Plan,
        trained: TrainingOutcome,
        clock: RunClock,
        classes: np.ndarray | None = None,
    ) -> Self:
        """The ensemble that a training ended with."""
        return cls(artifact.path, _Origin(run, dataset, plan, trained, clock, clock.elapsed), classes)

    def predict(
        self, samples: Any, weighting: Weighting = "selected", available: Available = None
    ) -> LabelledPredictions:
        """Predict samples, each from the modalities it has.

        Args:
            samples: arrays by modality (one left out is missing), a flat data frame (see `data.frames`), a file of
                either, a data set (its test rows, or all when it has none), or `Samples`.
            weighting: "selected", or "mean" for the plain mean of all learners.
            available: the modalities that may be looked at, or bool [N] by modality, which leaves those it does
                not name as they are; by default all that are there.

        Raises:
            DataError: `samples` have none of the modalities, a wrong shape, or `available` names an unknown modality.
        """
        shown = restricted(self._samples(samples), available, self.spec.names)
        found = super().predict(shown, weighting)
        own = {f.name: getattr(found, f.name) for f in fields(found)}
        return LabelledPredictions(**own, labels=self._labels(found.values))

    def predict_proba(self, samples: Any, available: Available = None) -> np.ndarray:
        """Probabilities float64 [N, C] of the classes, in the order of `classes`, or of the labels.

        Raises:
            ConfigError: this is a regression.
            DataError: as for `predict`.
        """
        if self.task.kind == "regression":
            raise ConfigError("a regression has no probabilities; use predict(…).std for the error to be expected")
        return self.predict(samples, available=available).values

    def confidence(self, samples: Any, available: Available = None) -> np.ndarray:
        """How sure the ensemble is of each row, float64 [N] in [0, 1]; see `evaluation.calibration.confidence`.

        Raises:
            DataError: as for `predict`.
        """
        return self.predict(samples, available=available).confidence

    def leaderboard(self) -> "pd.DataFrame":
        """The learners, the best first: score out of bag, weight, seconds and size."""
        return leaderboard_frame(leaderboard(self._reports, self.weights()))

    def failures(self) -> "pd.DataFrame":
        """Learners that failed, and those there was no time for: `learner`, `kind`, `modalities`, `status`, `why`."""
        import pandas as pd

        lost = [report for report in self._reports if report.status in {"failed", "skipped"}]
        rows = [[r.name, r.learner, "+".join(r.modalities), r.status, r.error] for r in lost]
        return pd.DataFrame(rows, columns=["learner", "kind", "modalities", "status", "why"])

    def explain_selection(self) -> "pd.DataFrame":
        """Why each learner was chosen, what it was predicted to cost, what it cost, and whether it was kept."""
        import pandas as pd

        weights = self.weights()
        rows = [
            [
                report.name,
                "+".join(report.modalities),
                report.reason,
                report.predicted_seconds,
                report.seconds if report.artifact else None,
                weights.get(report.name, 0.0),
                self._verdict(report),
            ]
            for report in self._reports
        ]
        names = ["learner", "modalities", "why_chosen", "predicted_seconds", "seconds", "weight", "verdict"]
        return pd.DataFrame(rows, columns=names)

    def modality_report(self) -> "pd.DataFrame":
        """What is left when modalities are missing: a row per pattern, the full set first.

        `available`, `missing`, `num_learners` with a weight, the share of the weight on each modality
        (`weight/<name>`), and of the test rows, where the data set has some, `score`, `confidence`, `ece`, `num_rows`.
        """
        import pandas as pd

        names = self.spec.names
        judged = {} if self.judgement is None else {frozenset(p.available): p for p in self.judgement.patterns}
        rows: list[dict[str, Any]] = []
        for pattern in patterns_to_judge(names):
            row: dict[str, Any] = {
                "available": pattern_key(pattern, names),
                "missing": pattern_key(set(names) - pattern, names),
                "num_learners": sum(weight > 0 for weight in self.weights(pattern).values()),
            }
            row |= {f"weight/{name}": share for name, share in self.modality_weights(pattern).items()}
            if (found := judged.get(pattern)) is not None:
                row |= {"score": found.score, "confidence": found.confidence, "ece": found.ece}
                row["num_rows"] = found.num_rows
            rows.append(row)
        return pd.DataFrame(rows)

    def summary(self) -> FitSummary:
        """What came of the training; print it, or read its fields. Judges the ensemble when it is first asked for."""
        origin = self._trained_here
        reports, trained = origin.trained.reports, [r for r in origin.trained.reports if r.artifact is not None]
        return FitSummary(
            dataset=origin.dataset.label,
            metric=self.task.metric,
            judgement=self.judgement,
            learners=LearnerCounts.of(reports, kept=len(self.kept)),
            best_single=self.best_single,
            best_single_score=next((r.score for r in trained if r.name == self.best_single), None),
            seconds=origin.seconds,
            cpu_seconds=sum(report.cpu_seconds for report in trained),
            peak_mb=max((report.peak_bytes for report in trained), default=0) / 1e6,
            cost_model=CostScore.of(reports),
            budget=BudgetUse.of(origin.run.budget, origin.plan, origin.trained, origin.clock),
            failures={report.name: report.error for report in reports if report.status == "failed"},
            ensemble=str(self.folder),
        )

    @cached_property
    def judgement(self) -> Judgement | None:
        """What the test rows say; None when there are none."""
        origin = self._trained_here
        if not len(_open(origin.dataset).rows("test")):
            return None
        return judge(open_published(self.folder), origin.dataset)

    @property
    def _reports(self) -> tuple[JobReport, ...]:
        return self._trained_here.trained.reports

    @property
    def _trained_here(self) -> _Origin:
        if self._origin is None:
            raise ConfigError(
                "this ensemble was loaded from its files, which do not say how it was trained; call fit_ensemble again "
                "with the same arguments: nothing is trained twice"
            )
        return self._origin

    def _verdict(self, report: JobReport) -> str:
        """What became of a learner in the ensemble."""
        if report.artifact is None:
            return f"{report.status}: {report.error}"
        if self.weights().get(report.name, 0.0) > 0:
            return "kept"
        elsewhere = sum(report.name in found.weights for found in self.manifest.patterns)
        return f"kept for {elsewhere} patterns with modalities missing" if elsewhere else "dropped: the others know it"

    def _labels(self, values: np.ndarray) -> np.ndarray:
        """The answers that probabilities or values [N, C] stand for."""
        if self.task.kind == "classification":
            return self.classes[np.argmax(values, axis=1)]
        if self.task.kind == "multilabel":
            return values >= 0.5
        return values[:, 0] if values.shape[1] == 1 else values

    def _samples(self, given: Any) -> Samples:
        """Samples in whatever form they are given."""
        import pandas as pd

        if isinstance(given, Samples):
            return given
        if isinstance(given, Dataset):
            test = given.rows("test")
            return given.samples(test if len(test) else None, self.spec.names)
        if isinstance(given, pd.DataFrame):
            return samples_from_frame(given, self.spec)
        if isinstance(given, Mapping):
            return samples_from_arrays(given, self.spec)
        if isinstance(given, str | Path):
            return read_samples(Path(given), self.spec)
        if len(self.spec.names) == 1:
            return samples_from_arrays({self.spec.names[0]: given}, self.spec)
        raise DataError(
            f"got {type(given).__name__}, expected arrays by modality ({', '.join(self.spec.names)}), a data frame, a "
            "file, a data set or Samples"
        )


def restricted(samples: Samples, available: Any, names: tuple[str, ...]) -> Samples:
    """The samples with all but the `available` modalities hidden."""
    if available is None:
        return samples
    if isinstance(available, str):
        available = (available,)
    if unknown := [name for name in available if name not in names]:
        raise DataError(f"`available` names '{unknown[0]}', this ensemble knows {', '.join(names)}")
    if not isinstance(available, Mapping):
        return samples.without(set(names) - set(available))
    masks = dict(samples.available)
    for name, mask in available.items():
        given = np.broadcast_to(np.asarray(mask, bool), (len(samples),))
        masks[name] = masks[name] & given
    return Samples(samples.inputs, masks, samples.ids, samples.target, samples.groups)


def _in_order(given: np.ndarray | None, names: tuple[str, ...]) -> np.ndarray:
    """The classes of a target in the order of the codes, as they were given where that is known, else their names."""
    import pandas as pd

    made = np.empty(len(names), object)
    made[:] = names
    if given is None or given.ndim != 1:
        return made
    texts = [str(text) for text in as_text(pd.Series(given))]
    if sorted(texts) != sorted(names):
        return made
    return given[[texts.index(name) for name in names]]


def _open(ref: DatasetRef) -> Dataset:
    from training_core.campaigns.bagging import open_dataset

    return open_dataset(ref)
