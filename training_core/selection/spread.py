"""How wrong a regression ensemble will be about this very row: an error to be expected per row, not only per pattern.

The logarithm of the squared error is linear in what is seen at prediction time: the predicted value, its square, and
how much the learners disagree (multiplicative heteroscedasticity, Harvey 1976, Econometrica 44(3)),

    log σ²(row) = log s² + a + B · φ(row)

with s² the mean squared error under the pattern and φ standardised. a and B maximise the Gaussian likelihood of the
errors out of bag, B pulled towards 0 as by `strength` rows. It is convex in both.
"""

import numpy as np

from training_core.config import Config
from training_core.selection.pooling import Pool, speaks
from training_core.selection.units import BEYOND_NOISE, dealt_folds, mean_error

_LEAST = 1e-12
_NUM_FOLDS = 5
_STEEPEST = 3.0
"""No row's expected error is more than e^(3/2) = 4.5 times larger or smaller than the pattern's, however far its
features lie from those seen."""


class SpreadModel(Config):
    """What makes errors large under one pattern; one entry per target column in every tuple."""

    centres: tuple[tuple[float, ...], ...]
    """Means of the features."""
    scales: tuple[tuple[float, ...], ...]
    """Their standard deviations."""
    intercept: tuple[float, ...]
    slopes: tuple[tuple[float, ...], ...]

    def factors(self, values: np.ndarray, disagreement: np.ndarray) -> np.ndarray:
        """By how much each value's expected error exceeds that of the pattern, [N, K]; 1 is the usual error.

        `values` [N, K] as predicted, `disagreement` [N, K] from `disagreement`; NaN counts as the usual one.
        """
        features, centres = _features(values, disagreement), np.array(self.centres)[:, None]
        standard = (np.where(np.isnan(features), centres, features) - centres) / np.array(self.scales)[:, None]
        logs = np.array(self.intercept)[:, None] + np.einsum("knf,kf->kn", standard, np.array(self.slopes))
        return np.exp(0.5 * np.clip(logs, -_STEEPEST, _STEEPEST)).T


def disagreement(predictions: np.ndarray, weights: np.ndarray, mixed: Pool) -> np.ndarray:
    """Variance between the learners that speak for a row, [N, K]; NaN where fewer than two do.

    Weighted, and divided by 1 - Σw²/(Σw)² so that its mean does not depend on how many speak.
    """
    per_row = weights if weights.ndim == 2 else weights[:, None]
    share = np.where(speaks(predictions), per_row, 0.0)
    share = share / np.maximum(share.sum(axis=0), _LEAST)
    away = np.where(share[..., None] > 0, predictions - mixed.values, 0.0)
    free = 1.0 - mixed.concentration
    alone = mixed.num_learners < 2
    variance = np.einsum("ln,lnk->nk", share, away**2) / np.where(alone, 1.0, free)[:, None]
    return np.where(alone[:, None], np.nan, variance)


def fit_spread(
    relative_error: np.ndarray,
    values: np.ndarray,
    disagreement: np.ndarray,
    strength: float,
    seed: int,
    units: np.ndarray | None = None,
) -> SpreadModel | None:
    """Learn what makes errors large, or nothing where equal errors are as likely on rows held out.

    Five folds are held out in turn; the gain in likelihood, mean over target columns, has to exceed two of its standard
    errors.

    Args:
        relative_error: [N, K] errors out of bag in units of the error expected for as many learners as spoke.
        values: [N, K] as predicted.
        disagreement: [N, K], from `disagreement`; NaN counts as the usual one.
        strength: rows of evidence that the preference for equal errors is worth.
        seed: of the draw of the folds.
        units: int64 [N], rows that belong together and are held out together; see `units.units_of`.
    """
    fold = dealt_folds(len(values), _NUM_FOLDS, seed, "spread", units)
    gains = np.zeros(len(values))
    for index in range(_NUM_FOLDS):
        held, rest = fold == index, fold != index
        if not held.any() or not rest.any():
            return None
        model = _fit(relative_error[rest], values[rest], disagreement[rest], strength)
        square = np.maximum(relative_error[held] ** 2, _LEAST)
        usual = np.maximum(np.mean(relative_error[rest] ** 2, axis=0), _LEAST)
        expected = model.factors(values[held], disagreement[held]) ** 2
        before, after = np.log(usual) + square / usual, np.log(expected) + square / expected
        gains[held] = 0.5 * np.mean(before - after, axis=1)
    if gains.mean() <= BEYOND_NOISE * mean_error(gains, units):
        return None
    return _fit(relative_error, values, disagreement, strength)


def _fit(relative_error: np.ndarray, values: np.ndarray, disagreement: np.ndarray, strength: float) -> SpreadModel:
    from scipy.optimize import minimize

    features = _features(values, disagreement)
    known = np.isfinite(features)
    centres = np.where(known, features, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    features = np.where(known, features, centres[:, None])
    scales = np.maximum(features.std(axis=1), 1e-9)
    standard = (features - centres[:, None]) / scales[:, None]
    intercept, slopes = [], []
    for error, column in zip(relative_error.T, standard, strict=True):
        square = np.maximum(error**2, _LEAST)

        def objective(free: np.ndarray, column: np.ndarray = column, square: np.ndarray = square):
            logs = free[0] + column @ free[1:]
            ratio = square * np.exp(-logs)
            by_logs = 0.5 * (1.0 - ratio)
            value = 0.5 * np.sum(logs + ratio) + 0.5 * strength * free[1:] @ free[1:]
            gradient = np.concatenate([[by_logs.sum()], column.T @ by_logs + strength * free[1:]])
            return value / len(square), gradient / len(square)

        start = np.zeros(1 + column.shape[1])
        start[0] = np.log(square.mean())
        found = minimize(objective, start, jac=True, method="L-BFGS-B").x
        intercept.append(float(found[0]))
        slopes.append(tuple(float(slope) for slope in found[1:]))
    return SpreadModel(
        centres=tuple(tuple(map(float, c)) for c in centres),
        scales=tuple(tuple(map(float, s)) for s in scales),
        intercept=tuple(intercept),
        slopes=tuple(slopes),
    )


def _features(values: np.ndarray, disagreement: np.ndarray) -> np.ndarray:
    """[K, N, 3]: value, its square, log of the disagreement."""
    return np.stack([values, values**2, np.log(disagreement + _LEAST)], axis=-1).transpose(1, 0, 2)
