"""Statistics of an image, vector or sequence modality as its rows stream by."""

from typing import Any

import numpy as np

from training_core.data.quality.columns import bins_of
from training_core.data.quality.hashing import ABSENT, hash_rows
from training_core.data.quality.streaming import Moments, pieces
from training_core.data.quality.summary import ArraySummary

MAX_FEATURES = 1 << 18
"""Features with moments of their own (five float64 each: 10 MB); rows of more numbers have only common ones."""
TELLING_FEATURES = 16
"""Rows of fewer numbers may be equal by chance, above all when they are counts."""
FEATURES_KEPT = 1024
"""Features named in the summary of a version; a modality of more has only common moments there."""


class ArrayProfile:
    """One modality of rows of `shape`."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._num_features = int(np.prod(shape))
        self._by_feature = self._num_features <= MAX_FEATURES
        self.moments = Moments(self._num_features if self._by_feature else 1)
        self.dtype = ""
        self.constant_rows = 0
        self._zero_rows = 0

    def update(self, values: np.ndarray, available: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Add rows [n, …], of which only the available ones (bool [n]) count.

        Returns:
            Hashes [n], which rows are not equal to another by chance (bool [n]), and
            row means float32 [n], NaN where absent.
        """
        self.dtype = str(values.dtype)
        flat = values.reshape(len(values), -1)
        hashes = np.full(len(flat), ABSENT, np.uint64)
        telling = np.zeros(len(flat), bool)
        means = np.full(len(flat), np.nan, np.float32)
        for start, stop in pieces(len(flat), self._num_features):
            here = np.flatnonzero(available[start:stop]) + start
            if not len(here):
                continue
            piece = flat[start:stop] if len(here) == stop - start else flat[here]
            self.moments.update(piece if self._by_feature else piece.reshape(-1, 1))
            least, greatest = piece.min(axis=1), piece.max(axis=1)
            constant = least == greatest
            self.constant_rows += int(constant.sum())
            self._zero_rows += int((constant & (least == 0)).sum())
            hashes[here] = hash_rows(piece)
            telling[here] = ~constant & (self._num_features >= TELLING_FEATURES)
            with np.errstate(invalid="ignore", over="ignore"):
                means[here] = piece.mean(axis=1, dtype=np.float32 if piece.dtype.itemsize < 8 else np.float64)
        return hashes, telling, means

    @property
    def dead_features(self) -> np.ndarray | None:
        """Which features have one value in all rows, bool [D]; None when there are too many features to tell."""
        moments = self.moments
        return (moments.count > 1) & (moments.least == moments.greatest) if self._by_feature else None

    def summary(self, row_means: np.ndarray) -> ArraySummary:
        """What is known by now; `row_means` float32 [m] of the sample, NaN where absent."""
        moments, dead = self.moments, self.dead_features
        count, mean, std, least, greatest = moments.overall()
        known: dict[str, Any] = {"dtype": self.dtype, "non_finite": moments.num_non_finite}
        if not count:
            return ArraySummary(**known)
        kept: dict[str, Any] = {}
        if self._by_feature and self._num_features <= FEATURES_KEPT and moments.count.all():
            kept = {
                "feature_mean": _rounded(moments.mean),
                "feature_std": _rounded(moments.std),
                "feature_min": _rounded(moments.least),
                "feature_max": _rounded(moments.greatest),
            }
        return ArraySummary(
            **known,
            min=least,
            max=greatest,
            mean=mean,
            std=std,
            constant_rows=self.constant_rows,
            zero_rows=self._zero_rows,
            dead_features=None if dead is None else int(dead.sum()),
            row_means=bins_of(row_means[np.isfinite(row_means)].astype(np.float64)),
            **kept,
        )


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    """To 8 digits: what is kept of a thousand features is to be read, not to be computed with."""
    return tuple(float(f"{value:.8g}") for value in values)
