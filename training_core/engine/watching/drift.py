"""How far two samples of numbers are apart: the Jensen-Shannon divergence of their histograms, per feature."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np

from training_core.errors import ConfigError, DataError

DriftStatus = Literal["healthy", "warning", "critical"]

_MAX_BINS = 32
_MIN_VALUES = 10  # with fewer, chance alone would make a divergence of more than 0.1


@dataclass(frozen=True)
class DriftMetrics:
    """How far features moved away from a reference."""

    js_divergence: float
    """Of the feature that moved farthest, in [0, 1]; 0 when nothing could be compared."""
    status: DriftStatus
    affected_features: list[str]
    """Features at or above the warning threshold, the farthest first."""
    timestamp: str
    """When it was measured, ISO 8601, UTC."""
    details: dict[str, float] = field(default_factory=dict)
    """The divergence of each feature; NaN for one with fewer than 10 values on either side."""


def js_divergence(reference: np.ndarray, current: np.ndarray) -> float:
    """Jensen-Shannon divergence, base 2, of two histograms over the same bins: 0 when equal in shape, 1 when disjoint.

    `½ KL(p ‖ m) + ½ KL(q ‖ m)` with `m = (p + q) / 2` (Lin 1991, doi:10.1109/18.61115, eq. 4.1 with equal weights);
    the square of `scipy.spatial.distance.jensenshannon`.

    Args:
        reference: counts or probabilities [bin], not negative and not all 0; scaled to sum to 1.
        current: the same for the other sample.

    Raises:
        DataError: the histograms differ in length, or one of them is empty or negative.
    """
    p, q = np.asarray(reference, dtype=np.float64), np.asarray(current, dtype=np.float64)
    if p.shape != q.shape or p.ndim != 1:
        raise DataError(f"histograms of shapes {p.shape} and {q.shape} have no common bins; both must be [bin]")
    if p.min(initial=0) < 0 or q.min(initial=0) < 0 or p.sum() <= 0 or q.sum() <= 0:
        raise DataError("a histogram must have counts of at least 0, and at least one above")
    p, q = p / p.sum(), q / q.sum()
    middle = (p + q) / 2
    divergence = (_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2
    return min(max(divergence, 0.0), 1.0)  # rounding may leave the interval by an ulp


def histograms(reference: np.ndarray, current: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts of two samples over bins they share.

    The bins hold about equally many values of both samples together, so an outlier does not empty the others. There
    are as many as the square root of the smaller sample, at most 32: with those, chance alone leaves a divergence of
    about `0.36 / √n`. Few distinct values have a bin each. Values that are not finite have a bin of their own.

    Args:
        reference: numbers [N].
        current: numbers [M].

    Returns:
        Counts int64 [bin] of both; the last bin holds what is not finite.
    """
    finite_reference, finite_current = reference[np.isfinite(reference)], current[np.isfinite(current)]
    together = np.concatenate([finite_reference, finite_current])
    num_bins = min(_MAX_BINS, max(2, math.isqrt(min(len(finite_reference), len(finite_current)))))
    edges = np.unique(together)
    if len(edges) > num_bins:
        edges = np.unique(np.quantile(together, np.linspace(0, 1, num_bins + 1)[1:-1]))

    def counts(values: np.ndarray, num_missing: int) -> np.ndarray:
        bins = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
        return np.append(bins, num_missing)

    return (
        counts(finite_reference, len(reference) - len(finite_reference)),
        counts(finite_current, len(current) - len(finite_current)),
    )


def measure_drift(
    reference: Mapping[str, Any],
    current: Mapping[str, Any],
    warning: float = 0.1,
    critical: float = 0.2,
) -> DriftMetrics:
    """Compare samples of features by name; features that only one side has are left out.

    Args:
        reference: a feature's numbers [N], as an array, a CPU tensor or a list, by its name.
        current: the same, now; the number of values may be another.
        warning: divergence from which on a feature is affected.
        critical: divergence from which on it is critical.

    Raises:
        ConfigError: the thresholds are not in order.
        DataError: no feature is on both sides.
    """
    check_thresholds(warning, critical)
    names = [name for name in reference if name in current]
    if not names:
        raise DataError(
            f"nothing to compare: the reference has {', '.join(reference) or 'no feature'}, the current sample "
            f"{', '.join(current) or 'no feature'}"
        )
    details = {name: _feature_drift(_flat(reference[name]), _flat(current[name])) for name in names}
    known = {name: value for name, value in details.items() if not math.isnan(value)}
    affected = sorted((name for name in known if known[name] >= warning), key=lambda name: -known[name])
    farthest = max(known.values(), default=0.0)
    status: DriftStatus = "critical" if farthest >= critical else "warning" if affected else "healthy"
    return DriftMetrics(farthest, status, affected, datetime.now(UTC).isoformat(timespec="seconds"), details)


def check_thresholds(warning: float, critical: float) -> None:
    """Whether these can be thresholds of a divergence.

    Raises:
        ConfigError: they cannot.
    """
    if not 0 < warning <= critical <= 1:
        raise ConfigError(
            f"drift thresholds are {warning:g} (warning) and {critical:g} (critical); they must lie in (0, 1], in order"
        )


def _feature_drift(reference: np.ndarray, current: np.ndarray) -> float:
    if min(len(reference), len(current)) < _MIN_VALUES:
        return math.nan
    return js_divergence(*histograms(reference, current))


def _flat(values: Any) -> np.ndarray:
    return np.asarray(values, dtype=np.float64).ravel()


def _relative_entropy(p: np.ndarray, middle: np.ndarray) -> float:
    """Kullback-Leibler divergence in bits; 0 · log 0 is 0, and `middle` is above 0 where `p` is."""
    there = p > 0
    return float(np.sum(p[there] * np.log2(p[there] / middle[there])))
