"""What a predictor says about some rows: values, and how sure it is of them."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Predictions:
    """Predictions of N rows; no number in it is ever NaN, whatever was missing.

    `values` float64 [N, C]: probabilities of the classes (rows sum to 1) or of the labels, or the values of the target
    columns. `confidence` float64 [N] in [0, 1]: see `evaluation.calibration.confidence`. `num_learners` int64 [N]: how
    many learners spoke; 0 where none could and the answer is what is known without any input. `std` float64 [N, C],
    regression only: the error to be expected of each value, in the target's unit (root mean squared).
    """

    values: np.ndarray
    confidence: np.ndarray
    num_learners: np.ndarray
    std: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.values)
