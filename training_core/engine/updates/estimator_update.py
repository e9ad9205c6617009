"""The update of learners that are fitted in one go: one step on all rows."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from training_core.engine.loop import Update
from training_core.schema import Samples

_NUM_CHECKED = 256


class EstimatorLike(Protocol):
    """What the update needs of an estimator."""

    def fit(self, samples: Samples, weight: np.ndarray | None = None) -> Any:
        """Learn from encoded samples."""
        ...

    def predict(self, samples: Samples) -> np.ndarray:
        """Probabilities or values, float64 [N, num_outputs]."""
        ...


class EstimatorUpdate(Update[EstimatorLike, Samples]):
    """`estimator.fit` as a step. It has no metrics: an estimator reports no loss."""

    def __init__(self, weight: np.ndarray | None = None) -> None:
        """Weigh the rows by `weight`, float [N]; all alike when None."""
        self._weight = weight
        self._rows_to_check: Samples | None = None

    def step(self, model: EstimatorLike, batch: Samples) -> Mapping[str, Tensor]:
        """Fit on all rows of `batch`."""
        model.fit(batch, self._weight)
        self._rows_to_check = batch.take(np.arange(min(len(batch), _NUM_CHECKED)))
        return {}

    def check(self, model: EstimatorLike) -> str | None:
        """Predict some of the rows it was fitted on: an estimator shows no weights that could be checked."""
        if self._rows_to_check is None or np.isfinite(model.predict(self._rows_to_check)).all():
            return None
        return "its predictions on rows it was fitted on are not finite"
