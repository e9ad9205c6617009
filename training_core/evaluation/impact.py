"""What a setting changes, measured on pairs: the same bags and seeds trained with it and without it."""

from collections.abc import Mapping, Sequence

import numpy as np

from training_core.config import Config
from training_core.errors import DataError
from training_core.evaluation.statistics import LEVEL, Interval, corrected_standard_error


class PairedDifference(Config):
    """The mean of differences between pairs, and how sure it is."""

    mean: float
    """Above 0: more with it than without."""
    std_error: float | None
    """Of the mean; None for a single pair."""
    interval: Interval | None
    """Student's t interval of the mean; None for a single pair."""
    num_pairs: int

    @property
    def is_beyond_noise(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.interval is not None and not self.interval.low <= 0 <= self.interval.high


def paired_difference(
    differences: Sequence[float] | np.ndarray, test_to_train: float = 0.0, level: float = LEVEL
) -> PairedDifference:
    """Mean of `differences` [n] and its t interval with n - 1 degrees of freedom.

    Args:
        differences: one per pair, with less without.
        test_to_train: where the pairs were judged on different draws of the same rows, judged rows over training rows:
            such differences resemble each other (`statistics.corrected_resampled_t`). 0: the pairs are independent.
        level: of the interval.

    Raises:
        DataError: there are none, or one is not finite.
    """
    values = np.asarray(differences, dtype=np.float64)
    if not len(values) or not np.isfinite(values).all():
        raise DataError(f"a paired difference needs at least one pair of finite numbers, got {values.tolist()[:5]}")
    mean = float(values.mean())
    if len(values) == 1:
        return PairedDifference(mean=mean, std_error=None, interval=None, num_pairs=1)
    from scipy.stats import t as student

    std_error = corrected_standard_error(values, test_to_train)
    margin = float(student.ppf((1 + level) / 2, len(values) - 1)) * std_error
    interval = Interval(low=mean - margin, high=mean + margin)
    return PairedDifference(mean=mean, std_error=std_error, interval=interval, num_pairs=len(values))


def paired_impact(
    with_it: Mapping[str, float | None], without_it: Mapping[str, float | None], test_to_train: float = 0.0
) -> PairedDifference | None:
    """What a setting adds to the scores of learners of the same names; None when no name has a score in both."""
    pairs = [(with_it[name], without_it[name]) for name in sorted(with_it.keys() & without_it.keys())]
    differences = [one - other for one, other in pairs if one is not None and other is not None]
    return paired_difference(differences, test_to_train) if differences else None
