"""Regularised linear model of all columns: the first baseline, quick, well calibrated, hard to beat on small data."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from training_core.learners.base import spec_width
from training_core.learners.design_matrix import DesignMatrix
from training_core.learners.estimator import Estimator, EstimatorConfig
from training_core.learners.linear_fit import sigmoid, softmax
from training_core.learners.linear_model import LinearModel, learn_models, restore_models, save_models
from training_core.quantities import PositiveFloat, SearchChoices
from training_core.schema import DataSpec, ModalityKind, Samples, TaskKind

PASSES = 600
"""Passes over the data of a fit that chooses its own strength: about 4 strengths x 3 folds x 50 rounds."""
COLUMN_START: Mapping[TaskKind, float] = dict.fromkeys(("classification", "multilabel", "regression"), 10.0)
"""Where the search for the penalty of standardised columns begins."""


class LinearConfig(EstimatorConfig):
    """Logistic or ridge regression; ratings (a target of up to 10 values) are the value expected of a logistic one."""

    modality_kinds: ClassVar[frozenset[ModalityKind]] = frozenset({"vector", "tabular", "image", "sequence"})
    method: ClassVar[str | None] = "linear models"
    quality_prior: ClassVar[float] = 0.55

    kind: Literal["linear"] = "linear"
    strength: Annotated[PositiveFloat | None, SearchChoices(None, 1.0, 10.0, 100.0, 1000.0)] = None
    """L2 penalty; None chooses it by cross-validation on the training rows."""

    def build(self, spec: DataSpec, seed: int) -> "LinearEstimator":
        """A fresh estimator for the encoded `spec`."""
        self.require(spec)
        return LinearEstimator(spec, seed, DesignMatrix(spec), self.strength, start=COLUMN_START)

    def estimate_cost(self, spec: DataSpec, num_rows: int, epochs: int) -> tuple[float, float]:
        """Every pass multiplies the matrix with the coefficients twice; three copies of the matrix are alive."""
        cells = float(num_rows) * spec_width(spec)
        return 2 * PASSES * cells * spec.task.num_outputs, 3 * 8 * cells


class LinearEstimator(Estimator):
    """A linear model on a design matrix; also the second half of TF-IDF learners."""

    def __init__(
        self,
        spec: DataSpec,
        seed: int,
        design: DesignMatrix,
        strength: float | None,
        *,
        start: Mapping[TaskKind, float],
    ) -> None:
        super().__init__(spec, seed)
        self.design = design
        self.strength = strength
        self.start = start
        self.models: tuple[LinearModel, ...] = ()
        """One for all outputs; one for each when they are ratings. Empty before `fit`."""

    def _learn(self, samples: Samples, target: np.ndarray, weight: np.ndarray | None) -> None:
        matrix = self.design.fit(samples).transform(samples)
        self.models = learn_models(
            self.spec.task.kind,
            matrix,
            target,
            weight,
            groups=samples.groups,
            rng=self.rng("strength"),
            strength=self.strength,
            start=self.start,
        )

    def _answer(self, samples: Samples) -> np.ndarray:
        assert self.models, "predict before fit"
        matrix = self.design.transform(samples)
        raw = np.concatenate([model.raw(matrix) for model in self.models], axis=1)
        kind = self.spec.task.kind
        return raw if kind == "regression" else softmax(raw) if kind == "classification" else sigmoid(raw)

    def _learnt(self) -> dict[str, Any]:
        assert self.models, "save before fit"
        return {"design": self.design.learnt(), "models": save_models(self.models)}

    def _restore(self, learnt: dict[str, Any]) -> None:
        self.design.restore(learnt["design"])
        self.models = restore_models(learnt["models"], self.design.num_columns, len(self._active))
