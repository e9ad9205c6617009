"""What a predictor says about some rows: values, and how sure it is of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Predictions:
    """Predictions of N rows; no number in it is ever NaN, whatever was missing.

    `values` float64 [N, C]: probabilities of the classes (rows sum to 1) or of the labels, or the values of the target
    columns. `confidence` float64 [N] in [0, 1]: see `evaluation.calibration.confidence`. `num_learners` int64 [N]: how
    many learners spoke; 0 where none could and the answer is what is known without any input. `std` float64 [N, C],
    regression only: the error to be expected of each value, in the target's unit (root mean squared).

    Where the predictor promises a coverage (`selection.conformal`): `sets` bool [N, C], the classes or labels that
    cannot be ruled out, and for regression `lower` and `upper` float64 [N, C], between which the value lies; infinite
    where too few rows were seen to promise anything. None where nothing is promised.
    """

    values: np.ndarray
    confidence: np.ndarray
    num_learners: np.ndarray
    std: np.ndarray | None = None
    sets: np.ndarray | None = None
    lower: np.ndarray | None = None
    upper: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.values)

    @classmethod
    def joined(cls, parts: Sequence["Predictions"]) -> "Predictions":
        """One after another, the rows of one predictor's `parts` (at least one); what one of them lacks, all do."""

        def together(columns: list[np.ndarray | None]) -> np.ndarray | None:
            given = [column for column in columns if column is not None]
            return np.concatenate(given) if len(given) == len(columns) else None

        return cls(
            values=np.concatenate([part.values for part in parts]),
            confidence=np.concatenate([part.confidence for part in parts]),
            num_learners=np.concatenate([part.num_learners for part in parts]),
            std=together([part.std for part in parts]),
            sets=together([part.sets for part in parts]),
            lower=together([part.lower for part in parts]),
            upper=together([part.upper for part in parts]),
        )
