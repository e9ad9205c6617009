"""Whether whole arrays and texts moved: maximum mean discrepancy of a projection, by random Fourier features.

An array is standardised channel by channel and projected to a few numbers by feature hashing; a text is its hashed
tokens, projected likewise. The mean of the features of a Gaussian kernel is all that is kept of the rows, and the
eigenvalues of the features' covariance say how far that mean wanders by chance, for windows of any size.
"""

from collections.abc import Iterator
from typing import Any, Self

import numpy as np
from pydantic import model_validator

from training_core.data.text import MAX_TOKENS, VOCABULARY_SIZE, token_ids
from training_core.monitoring.tally import ArrayConfig, ArrayTally, Numbers
from training_core.monitoring.two_samples import weighted_chi_squared_tail
from training_core.schema import ModalitySpec

_BANDWIDTH_ROWS = 1000  # a median over half a million pairs is known to well within a percent


class ArrayScale(ArrayConfig):
    """How an array or text is measured."""

    num_projections: int
    mean: Numbers
    """Of each channel (of an image or a sequence) or element (of a vector), float64; empty for a text."""
    std: Numbers
    """Of the same; 1 where it is constant."""
    frequencies: Numbers
    """Of the random Fourier features, float32 [projections, frequencies]."""
    eigenvalues: Numbers
    """Of the covariance of the features over the reference, float64, descending, without those of rounding."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.frequencies.ndim != 2 or self.frequencies.shape[0] != self.num_projections:
            raise ValueError(f"frequencies are {self.frequencies.shape}, not [{self.num_projections}, frequencies]")
        if self.mean.shape != self.std.shape or (self.std <= 0).any() or (self.eigenvalues < 0).any():
            raise ValueError("means and standard deviations must be as many, and spreads not negative")
        return self

    def features(self, modality: ModalitySpec, values: np.ndarray) -> np.ndarray:
        """Random Fourier features of rows [N, …], float64 [N, 2 × frequencies], each of length 1."""
        return fourier_features(project(modality, values, self.mean, self.std, self.num_projections), self.frequencies)


class Moments:
    """Mean and standard deviation of every channel of an array, block by block (Chan, Golub and LeVeque 1983)."""

    def __init__(self) -> None:
        self._count: np.ndarray | float = 0.0
        self._mean: np.ndarray | float = 0.0
        self._squares: np.ndarray | float = 0.0

    def update(self, modality: ModalitySpec, values: np.ndarray) -> None:
        """Add rows [n, …]; elements that are not finite are left out."""
        flat = _by_channel(modality, values).astype(np.float64)  # [channel, everything else]
        known = np.isfinite(flat)
        count = known.sum(axis=1)
        mean = np.where(known, flat, 0.0).sum(axis=1) / np.maximum(count, 1)
        squares = np.where(known, flat - mean[:, None], 0.0).__pow__(2).sum(axis=1)
        total = self._count + count
        away = mean - self._mean
        self._mean = self._mean + away * count / np.maximum(total, 1)
        self._squares = self._squares + squares + away**2 * self._count * count / np.maximum(total, 1)
        self._count = total

    def found(self) -> tuple[np.ndarray, np.ndarray]:
        """Means and standard deviations [channel], 1 for what is constant."""
        std = np.sqrt(np.asarray(self._squares) / np.maximum(self._count, 1))
        return np.atleast_1d(self._mean), np.atleast_1d(np.where(std > 0, std, 1.0))


def project(
    modality: ModalitySpec, values: np.ndarray, mean: np.ndarray, std: np.ndarray, num_projections: int
) -> np.ndarray:
    """Rows as a few numbers, float64 [N, `num_projections`].

    Feature hashing (Weinberger et al. 2009, arXiv:0902.2206): each element, with the sign its place is given, is added
    to the number its place is given. No more elements than projections: each is a number of its own. Elements that are
    not finite count as the mean.
    """
    from scipy.sparse import csr_matrix

    if modality.kind == "text":
        ids = token_ids(values, MAX_TOKENS)
        rows, columns = np.nonzero(ids)
        tokens = csr_matrix((np.ones(len(rows)), (rows, ids[rows, columns])), (len(values), VOCABULARY_SIZE))
        lengths = np.sqrt(np.maximum(np.bincount(rows, minlength=len(values)), 1))
        hashed: Any = tokens @ _hashing(VOCABULARY_SIZE, num_projections)
        return hashed.toarray() / lengths[:, None]
    shape = (-1, *([1] * (values.ndim - 2))) if modality.kind == "image" else (-1,)
    scaled = (values - mean.reshape(shape)) / std.reshape(shape)
    flat = np.where(np.isfinite(scaled), scaled, 0.0).reshape(len(values), -1)
    width = flat.shape[1]
    if width <= num_projections:
        return np.pad(flat, ((0, 0), (0, num_projections - width)))
    return np.asarray(flat @ _hashing(width, num_projections)) / np.sqrt(width / num_projections)


def fourier_features(projected: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """Features [N, 2 D] whose inner products are about the Gaussian kernel: cos and sin of x·ω over √D.

    Rahimi and Recht 2007, Random features for large-scale kernel machines; the form without phases of Sutherland and
    Schneider 2015 (arXiv:1506.02785), in which every row has length 1.
    """
    angles = projected @ frequencies
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1) / np.sqrt(frequencies.shape[1])


def draw_frequencies(projected: np.ndarray, num_frequencies: int, random: np.random.Generator) -> np.ndarray:
    """Frequencies [projections, `num_frequencies`] of the Gaussian kernel whose width is the median distance of rows.

    The median heuristic of Gretton et al. 2012 (JMLR 13, §8), over at most 1,000 of the rows [N, projections].
    """
    from scipy.spatial.distance import pdist

    rows = projected
    if len(rows) > _BANDWIDTH_ROWS:
        rows = rows[np.sort(random.choice(len(rows), _BANDWIDTH_ROWS, replace=False))]
    distances = pdist(rows) if len(rows) > 1 else np.zeros(1)
    apart = distances[distances > 0]
    width = float(np.median(apart)) if len(apart) else 1.0
    return (random.standard_normal((projected.shape[1], num_frequencies)) / width).astype(np.float32)


def covariance_eigenvalues(features: Iterator[np.ndarray]) -> tuple[np.ndarray, np.ndarray, int]:
    """Mean [2 D], eigenvalues of the covariance (descending, those above rounding) and rows of blocks of features."""
    total, products, rows = 0.0, 0.0, 0
    for block in features:
        total, products, rows = total + block.sum(axis=0), products + block.T @ block, rows + len(block)
    if not rows:
        return np.empty(0), np.empty(0), 0
    mean = np.asarray(total) / rows
    covariance = np.asarray(products) / rows - np.outer(mean, mean)
    values = np.linalg.eigvalsh(covariance)[::-1]
    return mean, values[values > 1e-9], rows


def kernel_shift(scale: ArrayScale, reference: ArrayTally, window: ArrayTally) -> tuple[float, float]:
    """How far the mean of the features moved, in standard deviations of a row, and the p-value that it did not.

    The squared maximum mean discrepancy (Gretton et al. 2012, JMLR 13, lemma 6) is that of the two mean features. By
    chance it is Σ λ_i z_i² (1/n + 1/m) with the covariance's eigenvalues λ_i, which knows that the reference is a
    sample, too. The shift is the root of the squared discrepancy less its expectation over the variance Σ λ_i. A shift
    of every element by d standard deviations makes it about .9 d for small d.

    Returns:
        (shift, p-value); (0, 1) when the reference does not vary and nothing moved, (inf, 0) when something did.
    """
    variance = max(0.0, 1.0 - float(reference.mean @ reference.mean))  # features have length 1
    squared = float(np.sum((window.mean - reference.mean) ** 2))
    known = float(scale.eigenvalues.sum())
    if variance < 1e-9 or known <= 0:
        return (0.0, 1.0) if squared < 1e-9 else (float("inf"), 0.0)
    chance = 1 / reference.num_rows + 1 / window.num_rows
    weights = scale.eigenvalues * (variance / known) * chance  # those of the scale, as spread as this reference
    return float(np.sqrt(max(0.0, squared - variance * chance) / variance)), weighted_chi_squared_tail(squared, weights)


def _by_channel(modality: ModalitySpec, values: np.ndarray) -> np.ndarray:
    """Values [N, …] as [channel, rest]: channels of an image, features of a sequence, elements of a vector."""
    axis = 1 if modality.kind == "image" else -1
    return np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)


def _hashing(width: int, num_projections: int) -> Any:  # a sparse matrix, whose stubs promise less than it does
    """The sparse matrix [width, projections] that gives element i its sign and place, the same on every machine."""
    from scipy.sparse import csr_matrix

    mixed = np.arange(1, width + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # SplitMix64 (Steele et al. 2014)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    sign = np.where(mixed & np.uint64(1), 1.0, -1.0)
    place = (mixed >> np.uint64(1)) % np.uint64(num_projections)
    return csr_matrix((sign, (np.arange(width), place.astype(np.int64))), (width, num_projections))
