"""What is kept of some rows once they were measured: counts, quantiles and moments. They can be pooled; no row is kept.

Whatever was measured has a name that says what it is about: `input/facts.size`, `missing/facts.size`, `array/photo`,
`pattern/available`, `prediction/class`, `prediction/confidence`, `target/class`, `performance/accuracy`.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, ConfigDict, PlainSerializer

from training_core.config import Config
from training_core.errors import DataError
from training_core.quantities import NonNegativeFloat, NonNegativeInt, PositiveInt, UnitInterval

NUM_QUANTILES = 200
"""Quantiles kept of a number, at the midpoints (i + ½) / 200: a distance of distribution functions to within .005."""


def _as_array(value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        raise ValueError("must be an array of finite numbers")
    return array


Numbers = Annotated[
    np.ndarray, BeforeValidator(_as_array), PlainSerializer(np.ndarray.tolist, return_type=list, when_used="json")
]
"""An array of finite numbers as a field; a list in JSON."""


class ArrayConfig(Config):
    """A value with arrays in it."""

    model_config = ConfigDict(arbitrary_types_allowed=True)


class NumberTally(ArrayConfig):
    """A number in some rows; those in which it is missing or not finite are left out of everything but `missing`."""

    counts: Numbers
    """Rows per bin of the scale, int64 [bin]."""
    missing: NonNegativeInt
    quantiles: Numbers
    """Float64 [200]; empty without rows."""
    mean: float
    std: NonNegativeFloat

    @property
    def num_rows(self) -> int:
        """Rows that have it."""
        return int(self.counts.sum())


class CategoryTally(ArrayConfig):
    """A category in some rows."""

    counts: Numbers
    """Rows per category of the scale, int64 [category]; the last is any other."""
    missing: NonNegativeInt

    @property
    def num_rows(self) -> int:
        """Rows that have one."""
        return int(self.counts.sum())


class ShareTally(Config):
    """How many of some rows have a property."""

    hits: NonNegativeInt
    num_rows: NonNegativeInt

    @property
    def share(self) -> float:
        """Hits per row; 0 without rows."""
        return self.hits / max(1, self.num_rows)


class ArrayTally(ArrayConfig):
    """An array or a text in the rows that have it: the mean of its random Fourier features."""

    mean: Numbers
    """Float64 [2 × frequencies]; zeros without rows."""
    num_rows: NonNegativeInt


class PerformanceTally(Config):
    """How well rows of known target were predicted."""

    score: float
    """The headline score of the task."""
    loss: float
    """Mean over rows: 1 - right for classification, binary cross-entropy, or squared error."""
    loss_std: NonNegativeFloat
    hits: NonNegativeInt | None
    """Rows whose class is right; None for other tasks."""
    confidence: UnitInterval
    """Mean confidence of the same rows."""
    num_rows: PositiveInt


class Tally(Config):
    """All that is kept of some rows, by name."""

    scale: str
    """SHA-256 of the scales it was measured with; others cannot be compared with it."""
    num_rows: NonNegativeInt
    """Rows there were."""
    measured_rows: NonNegativeInt
    """Rows that were looked at."""
    numbers: Mapping[str, NumberTally]
    categories: Mapping[str, CategoryTally]
    shares: Mapping[str, ShareTally]
    arrays: Mapping[str, ArrayTally]
    performance: PerformanceTally | None = None


def tally_number(values: np.ndarray, edges: np.ndarray) -> NumberTally:
    """The tally of numbers [N], NaN where missing, over the bins between `edges` (a value on an edge is above it)."""
    finite = np.sort(values[np.isfinite(values)])
    counts = np.bincount(np.searchsorted(edges, finite, side="right"), minlength=len(edges) + 1)
    levels = (np.arange(NUM_QUANTILES) + 0.5) / NUM_QUANTILES
    return NumberTally(
        counts=counts.astype(np.int64),
        missing=len(values) - len(finite),
        quantiles=np.quantile(finite, levels, method="inverted_cdf") if len(finite) else np.empty(0),
        mean=float(finite.mean()) if len(finite) else 0.0,
        std=float(finite.std()) if len(finite) else 0.0,
    )


def tally_category(codes: np.ndarray, num_categories: int) -> CategoryTally:
    """The tally of codes int64 [N], -1 where missing; from `num_categories` on they count as another category."""
    known = codes[codes >= 0]
    counts = np.bincount(np.minimum(known, num_categories), minlength=num_categories + 1)
    return CategoryTally(counts=counts.astype(np.int64), missing=len(codes) - len(known))


def pool(tallies: Sequence[Tally]) -> Tally:
    """The tally of all the rows of several together.

    Counts and means are exact; quantiles are those of the mixture of the parts' quantiles. The score of a performance
    is the mean over rows of the parts' scores, which is exact for classification.

    Raises:
        DataError: there are none, or they were measured with different scales.
    """
    if not tallies:
        raise DataError("there is no window to pool; measure at least one")
    if len({tally.scale for tally in tallies}) > 1:
        raise DataError("these windows were measured with different profiles; measure them again with one of them")
    first = tallies[0]
    judged = [tally.performance for tally in tallies if tally.performance is not None]
    return Tally(
        scale=first.scale,
        num_rows=sum(tally.num_rows for tally in tallies),
        measured_rows=sum(tally.measured_rows for tally in tallies),
        numbers={
            name: _pool_numbers([tally.numbers[name] for tally in tallies])
            for name in first.numbers
            if all(name in tally.numbers for tally in tallies)
        },
        categories={
            name: CategoryTally(
                counts=np.sum([tally.categories[name].counts for tally in tallies], axis=0),
                missing=sum(tally.categories[name].missing for tally in tallies),
            )
            for name in first.categories
            if all(name in tally.categories for tally in tallies)
        },
        shares={
            name: ShareTally(
                hits=sum(tally.shares[name].hits for tally in tallies),
                num_rows=sum(tally.shares[name].num_rows for tally in tallies),
            )
            for name in first.shares
            if all(name in tally.shares for tally in tallies)
        },
        arrays={
            name: _pool_arrays([tally.arrays[name] for tally in tallies])
            for name in first.arrays
            if all(name in tally.arrays for tally in tallies)
        },
        performance=_pool_performance(judged) if len(judged) == len(tallies) else None,
    )


def _pool_numbers(parts: Sequence[NumberTally]) -> NumberTally:
    rows = np.array([part.num_rows for part in parts])
    missing = sum(part.missing for part in parts)
    counts = np.sum([part.counts for part in parts], axis=0)
    if not rows.sum():
        return NumberTally(counts=counts, missing=missing, quantiles=np.empty(0), mean=0.0, std=0.0)
    mean, std = _pooled_moments([part.mean for part in parts], [part.std for part in parts], rows)
    filled = [part for part in parts if part.num_rows]
    points = np.concatenate([part.quantiles for part in filled])
    weights = np.repeat([part.num_rows / NUM_QUANTILES for part in filled], NUM_QUANTILES)
    order = np.argsort(points, kind="stable")
    below = np.cumsum(weights[order]) / weights.sum()
    levels = (np.arange(NUM_QUANTILES) + 0.5) / NUM_QUANTILES
    places = np.minimum(np.searchsorted(below, levels - 1e-12), len(points) - 1)  # an ulp of a sum is no step
    return NumberTally(counts=counts, missing=missing, quantiles=points[order][places], mean=mean, std=std)


def _pool_arrays(parts: Sequence[ArrayTally]) -> ArrayTally:
    rows = sum(part.num_rows for part in parts)
    total = np.sum([part.mean * part.num_rows for part in parts], axis=0)
    return ArrayTally(mean=total / max(1, rows), num_rows=rows)


def _pool_performance(parts: Sequence[PerformanceTally]) -> PerformanceTally:
    rows = np.array([part.num_rows for part in parts])
    loss, std = _pooled_moments([part.loss for part in parts], [part.loss_std for part in parts], rows)
    hits = [part.hits for part in parts if part.hits is not None]
    return PerformanceTally(
        score=float(np.average([part.score for part in parts], weights=rows)),
        loss=loss,
        loss_std=std,
        hits=sum(hits) if len(hits) == len(parts) else None,
        confidence=float(np.average([part.confidence for part in parts], weights=rows)),
        num_rows=int(rows.sum()),
    )


def _pooled_moments(means: Sequence[float], stds: Sequence[float], rows: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of parts together: variance within the parts and between their means."""
    mean = float(np.average(means, weights=rows))
    within = np.square(stds) + np.square(np.asarray(means) - mean)
    return mean, float(np.sqrt(np.average(within, weights=rows)))
