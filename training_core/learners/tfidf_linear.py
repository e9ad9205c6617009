"""TF-IDF of every text beside all other columns in one regularised linear model: the text baseline to beat."""

from typing import Annotated, ClassVar, Literal

from training_core.learners.base import num_texts, spec_width
from training_core.learners.design_matrix import DesignMatrix
from training_core.learners.estimator import EstimatorConfig
from training_core.learners.linear import PASSES, LinearEstimator
from training_core.learners.linear_model import TEXT_START
from training_core.learners.text_features import TextFeaturesConfig
from training_core.quantities import PositiveFloat, SearchChoices
from training_core.schema import DataSpec, ModalityKind

PIECES_PER_TEXT = 100
"""Distinct words and word pairs taken for one text."""
WORK_PER_TEXT = 200_000
"""Taking one text apart, in multiply-adds that take as long (about 0.2 ms)."""


class TfidfLinearConfig(EstimatorConfig):
    """Logistic or ridge regression on TF-IDF weights, together with any other modality.

    Ratings (a target of up to 10 values) are the value expected of a logistic regression.
    """

    modality_kinds: ClassVar[frozenset[ModalityKind]] = frozenset({"text", "vector", "tabular", "image", "sequence"})
    method: ClassVar[str | None] = "linear models"
    quality_prior: ClassVar[float] = 0.75

    kind: Literal["tfidf_linear"] = "tfidf_linear"
    text: TextFeaturesConfig = TextFeaturesConfig()
    """Which pieces of a text count."""
    strength: Annotated[PositiveFloat | None, SearchChoices(None, 0.01, 0.1, 1.0, 10.0)] = None
    """L2 penalty; None chooses it by cross-validation on the training rows."""

    def supports(self, spec: DataSpec) -> str | None:
        """As `EstimatorConfig.supports`; data without text is for `linear`."""
        reason = super().supports(spec)
        return "it needs a text among the modalities" if reason is None and not num_texts(spec) else reason

    def build(self, spec: DataSpec, seed: int) -> LinearEstimator:
        """A fresh estimator for the encoded `spec`, its texts as strings."""
        self.require(spec)
        return LinearEstimator(spec, seed, DesignMatrix(spec, text=self.text), self.strength, start=TEXT_START)

    def estimate_cost(self, spec: DataSpec, num_rows: int, epochs: int) -> tuple[float, float]:
        """Taking texts apart, then passes over what is not zero; three copies of the matrix are alive."""
        cells = float(num_rows) * (spec_width(spec) + PIECES_PER_TEXT * num_texts(spec))
        work = float(num_rows) * num_texts(spec) * WORK_PER_TEXT + 2 * PASSES * cells * spec.task.num_outputs
        return work, 3 * 12 * cells + 400.0 * self.text.max_vocabulary * num_texts(spec)
