"""What an evaluation found, as one JSON-able value. Every number says on how many rows it was found."""

from collections.abc import Mapping
from typing import Literal

from training_core.campaigns.evaluation.config import EvaluationConfig
from training_core.config import Config
from training_core.evaluation.calibration_quality import CalibrationQuality
from training_core.evaluation.conflict import ConflictScore
from training_core.evaluation.diversity import Diversity
from training_core.evaluation.patterns import PatternScore
from training_core.evaluation.robustness import MissingRateCurve
from training_core.evaluation.selective import SelectiveScore
from training_core.evaluation.statistics import Difference, Interval
from training_core.schema import TaskSpec

ENSEMBLE, BEST_SINGLE, PLAIN_MEAN = "ensemble", "best single learner", "plain mean"
"""The predictors that every part of an evaluation compares."""


class JudgedRows(Config):
    """Which rows judged."""

    which: Literal["test", "unseen"]
    num_rows: int
    trained_on: int
    """Rows left out because the model was trained on them."""
    checked: bool
    """Whether the rows the model was trained on are known here; otherwise the split alone kept them apart."""
    unit: str
    """What the intervals resample: rows, whole groups, or blocks of successive rows."""
    num_units: int
    num_resamples: int


class PredictorScore(Config):
    """How good one predictor is with every modality that a row has."""

    predictor: str
    detail: str = ""
    """Which learner, or which model."""
    score: float
    interval: Interval
    metrics: Mapping[str, float]
    lead: Difference | None = None
    """Of the judged ensemble over this predictor; None for the ensemble itself."""
    adjusted_p_value: float | None = None
    """Of the lead, adjusted for the number of models compared (Holm); None where it is one of a kind."""
    num_rows: int


class OracleScore(Config):
    """An ensemble that was trained on just the modalities of a pattern."""

    score: float
    interval: Interval
    gap: Difference
    """Oracle less the judged ensemble: what it would gain by having been trained for this pattern only."""
    ensemble: str
    """Its directory."""
    num_rows: int


class PatternEvaluation(Config):
    """One availability pattern."""

    ensemble: PatternScore
    interval: Interval
    best_single: float
    """Score of the learner that did best out of bag under this pattern."""
    plain_mean: float
    lead_over_best_single: Difference
    lead_over_mean: Difference
    calibration: CalibrationQuality
    oracle: OracleScore | None = None


class ModalityShare(Config):
    """What one modality is worth to the ensemble."""

    modality: str
    weight_share: float
    """Of the weights with everything present; a learner's weight is split over its modalities by what each is worth to
    the ensemble, see `Ensemble.modality_weights`."""
    shapley: float
    """Its part of the score above that of knowing nothing; see `evaluation.attribution.shapley_values`."""
    interval: Interval
    """Of `shapley`."""
    shapley_share: float
    """`shapley` as a part of the sum over modalities; those below 0 count as 0."""
    alone: float
    """Score with this modality only."""
    drop: float
    """Score with everything, less that without this modality."""
    num_rows: int


class Cost(Config):
    """What the model takes."""

    milliseconds_single: float
    """Per row, rows asked one at a time; median."""
    milliseconds_batch: float
    """Per row, `batch_rows` asked together; median."""
    batch_rows: int
    load_seconds: float
    """From files to the first answer, in a process that has the libraries loaded."""
    size_bytes: int
    """On disk."""
    num_learners: int
    num_kept: int
    """With a weight under at least one pattern."""
    cpu_seconds: float | None = None
    """Of training all learners. This and what follows: None where the store has no record of the training run."""
    seconds: float | None = None
    """Of the training run."""
    peak_bytes: int | None = None
    """Largest resident memory of a learner's process while training."""
    run_id: str | None = None
    """The training run."""


class EvaluationReport(Config):
    """Everything that one evaluation found."""

    request: EvaluationConfig
    model: str
    """As it is registered, or the ensemble's directory."""
    ensemble: str
    """The ensemble's directory."""
    trained_on: str
    """`name@version`."""
    dataset: str
    """`name@version` of the rows that judged."""
    task: TaskSpec
    metric: str
    score: float
    """Headline score with every modality that a row has."""
    rows: JudgedRows
    predictors: tuple[PredictorScore, ...]
    """The ensemble first, then the best single learner, the plain mean, and models it is compared with."""
    patterns: tuple[PatternEvaluation, ...]
    """The full set first."""
    curves: tuple[MissingRateCurve, ...]
    selective: SelectiveScore
    conflict: tuple[ConflictScore, ...]
    diversity: Diversity | None
    """Of the learners with a weight when everything is present; None for fewer than two."""
    modalities: tuple[ModalityShare, ...]
    cost: Cost
    failures: Mapping[str, str]
    """Why each failed learner failed."""
    seconds: float
    """Taken by the evaluation, oracles not included."""

    @property
    def full(self) -> PatternEvaluation:
        """With everything present."""
        return self.patterns[0]

    @property
    def worst(self) -> PatternEvaluation:
        """The pattern with the lowest score."""
        return min(self.patterns, key=lambda pattern: pattern.ensemble.score)

    def curve(self, predictor: str, missingness: str) -> MissingRateCurve:
        """The robustness curve of one predictor.

        Raises:
            KeyError: there is none.
        """
        for found in self.curves:
            if found.predictor == predictor and found.missingness == missingness:
                return found
        raise KeyError(f"no curve of {predictor} for {missingness} missingness")
