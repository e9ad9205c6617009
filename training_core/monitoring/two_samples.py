"""How far two samples are apart and whether chance would do it: distances, tests and corrections of known source.

Everything is reckoned from counts, quantiles and moments, so that none of the rows has to be there any more.
"""

from dataclasses import dataclass

import numpy as np

from training_core.engine.watching.drift import js_divergence
from training_core.errors import DataError

_FEWEST_EXPECTED = 5.0  # Cochran 1954: below it the chi-squared approximation of a bin's count is not good


@dataclass(frozen=True)
class Significance:
    """A statistic, its degrees of freedom, and how often chance would make it as large."""

    statistic: float
    degrees_of_freedom: int
    p_value: float


def corrected_js_divergence(reference: np.ndarray, window: np.ndarray) -> float:
    """Jensen-Shannon divergence, base 2, of two histograms less what chance alone adds to it; in [0, 1].

    To first order two samples of n and m rows of one distribution over B bins are (B - 1) / (8 ln 2) · (1/n + 1/m)
    apart (8 ln 2 times the divergence is a chi-squared statistic; Lin 1991, doi:10.1109/18.61115; Grosse et al. 2002,
    Phys. Rev. E 65, 041905, eq. 12). It is the *divergence*, whose square root is the distance.

    Args:
        reference: counts [bin], not all 0.
        window: counts [bin], not all 0.

    Raises:
        DataError: the histograms differ in length, or one of them is empty or negative.
    """
    raw = js_divergence(reference, window)
    num_bins = int(np.sum((reference + window) > 0))
    bias = (num_bins - 1) / (8 * np.log(2)) * (1 / reference.sum() + 1 / window.sum())
    return max(0.0, raw - float(bias))


def population_stability_index(reference: np.ndarray, window: np.ndarray) -> float:
    """Σ (p - q) ln(p / q) over bins; by custom .1 is a moderate and .25 a large change (Siddiqi 2006, ch. 6).

    The two Kullback-Leibler divergences added up. Half a row is added to each bin of counts [bin], which else would
    make it infinite where one side has none.
    """
    p = (reference + 0.5) / (reference + 0.5).sum()
    q = (window + 0.5) / (window + 0.5).sum()
    return float(np.sum((p - q) * np.log(p / q)))


def g_test(reference: np.ndarray, window: np.ndarray) -> Significance:
    """Whether counts [bin] of two samples come from one distribution: G = 2 Σ o ln(o / e) (Wilks 1938)."""
    observed, expected = _expected(reference, window)
    there = observed > 0
    statistic = 2 * np.sum(observed[there] * np.log(observed[there] / expected[there]))
    return _chi_squared(float(statistic), observed.shape[1])


def chi_squared_test(reference: np.ndarray, window: np.ndarray) -> Significance:
    """Whether counts [bin] of two samples come from one distribution: Pearson's Σ (o - e)² / e, without correction."""
    observed, expected = _expected(reference, window)
    return _chi_squared(float(np.sum((observed - expected) ** 2 / expected)), observed.shape[1])


def share_test(reference: tuple[int, int], window: tuple[int, int]) -> float:
    """Two-sided p-value that two shares, (rows that have it, rows), are one: Fisher's exact test; 1 without rows."""
    from scipy.stats import fisher_exact

    if not reference[1] or not window[1] or reference[0] + window[0] in {0, reference[1] + window[1]}:
        return 1.0
    table = [[reference[0], reference[1] - reference[0]], [window[0], window[1] - window[0]]]
    return float(np.asarray(fisher_exact(table))[1])


def worse_share_test(reference: tuple[int, int], window: tuple[int, int]) -> float:
    """One-sided p-value that the window's share of (hits, rows) is not lower: Fisher's exact test."""
    from scipy.stats import hypergeom

    hits, rows = reference[0] + window[0], reference[1] + window[1]
    return float(hypergeom.cdf(window[0], rows, hits, window[1]))


def worse_mean_test(reference: tuple[float, float, int], window: tuple[float, float, int]) -> float:
    """One-sided p-value that the window's mean loss is not higher, from (mean, standard deviation, rows): Welch's t.

    1 where neither side varies and the means are equal, 0 where they differ.
    """
    from scipy.special import stdtr

    parts = [(std**2 / rows, rows) for _, std, rows in (reference, window)]
    variance = sum(part for part, _ in parts)
    difference = window[0] - reference[0]
    if variance == 0:
        return 0.0 if difference > 0 else 1.0
    freedom = variance**2 / sum(part**2 / (rows - 1) for part, rows in parts if rows > 1)  # Welch 1947
    return float(stdtr(freedom, -difference / np.sqrt(variance)))


def kolmogorov_smirnov(reference: np.ndarray, window: np.ndarray, num_reference: int, num_window: int) -> Significance:
    """The greatest distance of two distribution functions, given by quantiles at the midpoints (i + ½) / K.

    Quantiles are steps of 1 / K, so the statistic is known to within 1 / K. The p-value is Kolmogorov's limit with
    n·m / (n + m) rows (Smirnov 1948), which is conservative where values are tied.

    Args:
        reference: quantiles [K], ascending.
        window: quantiles [K], ascending.
        num_reference: rows the quantiles were taken of.
        num_window: the same of the window.
    """
    from scipy.special import kolmogorov

    points = np.concatenate([reference, window])
    below = np.searchsorted(reference, points, "right") / len(reference)
    other = np.searchsorted(window, points, "right") / len(window)
    statistic = float(np.abs(below - other).max())
    rows = num_reference * num_window / (num_reference + num_window)
    return Significance(statistic, 0, float(kolmogorov(max(statistic - 1 / len(reference), 0.0) * np.sqrt(rows))))


def wasserstein(reference: np.ndarray, window: np.ndarray) -> float:
    """Mean distance of two distributions' quantiles [K] at the same midpoints: the Wasserstein-1 distance, in units.

    ∫ |F⁻¹(u) - G⁻¹(u)| du (Vallender 1974) by the midpoint rule; what lies beyond the outermost quantiles is not seen.
    """
    return float(np.mean(np.abs(reference - window)))


def weighted_chi_squared_tail(value: float, weights: np.ndarray) -> float:
    """P(Σ w_i z_i² ≥ value) for independent standard normal z_i, w_i ≥ 0: a gamma tail of the same three cumulants.

    Buckley and Eagleson 1988 (Austral. J. Statist. 30A), after Hall 1983; exact when all weights are equal.
    """
    from scipy.special import chdtrc

    first, second, third = (float(np.sum(weights**power)) for power in (1, 2, 3))
    if second <= 0:
        return 1.0 if value <= 0 else 0.0
    freedom = second**3 / third**2
    return float(chdtrc(freedom, max(0.0, freedom + (value - first) * np.sqrt(freedom / second))))


def false_discovery_q_values(p_values: np.ndarray) -> np.ndarray:
    """p-values [k] adjusted so that alarms at q ≤ a are false to at most a share a (Benjamini and Hochberg 1995)."""
    from scipy.stats import false_discovery_control

    return np.asarray(false_discovery_control(p_values)) if len(p_values) else np.empty(0)


def pool_small_bins(reference: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Which of fewer bins each bin goes to, so that few rows do not make the tests wrong; int64 [bin], ascending.

    Neighbours are put together until the smaller sample is expected to have 5 rows in each, by the reference's shares,
    or has them: a bin which the reference never met but the window did is what drift looks like, and stays.

    Raises:
        DataError: a histogram is empty.
    """
    if not reference.sum() or not window.sum():
        raise DataError("a histogram without rows cannot be compared; give both samples at least one row")
    fewer = min(reference.sum(), window.sum())
    holds = np.maximum(reference / reference.sum(), window / window.sum()) * fewer
    places = np.zeros(len(reference), np.int64)
    place, held = 0, 0.0
    for index, amount in enumerate(holds):
        places[index] = place
        held += amount
        if held >= _FEWEST_EXPECTED:
            place, held = place + 1, 0.0
    if held < _FEWEST_EXPECTED and place:  # what is left at the end goes to the last full bin
        places[places == place] = place - 1
    return places


def _expected(reference: np.ndarray, window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts [2, bin] of the bins that are not empty, and what is expected of them if both samples are of one kind."""
    table = np.vstack([reference, window]).astype(np.float64)
    table = table[:, table.sum(axis=0) > 0]
    return table, np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()


def _chi_squared(statistic: float, num_bins: int) -> Significance:
    from scipy.special import chdtrc

    if num_bins < 2:
        return Significance(0.0, 0, 1.0)
    return Significance(statistic, num_bins - 1, float(chdtrc(num_bins - 1, max(statistic, 0.0))))
