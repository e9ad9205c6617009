import numpy as np
import pytest
from scipy import stats

from training_core.errors import DataError
from training_core.monitoring.two_samples import (
    chi_squared_test,
    corrected_js_divergence,
    false_discovery_q_values,
    g_test,
    kolmogorov_smirnov,
    pool_small_bins,
    population_stability_index,
    share_test,
    wasserstein,
    weighted_chi_squared_tail,
    worse_mean_test,
    worse_share_test,
)

MIDPOINTS = (np.arange(200) + 0.5) / 200


def counts(seed=0, rows=500, bins=8):
    return np.random.default_rng(seed).multinomial(rows, np.full(bins, 1 / bins)).astype(np.int64)


def test_the_divergence_is_scipys_squared_less_its_bias():
    reference, window = counts(0, 4000), np.array([90, 40, 40, 40, 40, 40, 10, 0])
    p, q = reference / reference.sum(), window / window.sum()
    middle = (p + q) / 2
    raw = (stats.entropy(p, middle, base=2) + stats.entropy(q, middle, base=2)) / 2
    bias = 7 / (8 * np.log(2)) * (1 / reference.sum() + 1 / window.sum())
    assert corrected_js_divergence(reference, window) == pytest.approx(raw - bias, rel=1e-12)


def test_the_correction_removes_what_chance_adds():
    random = np.random.default_rng(1)
    shares = np.full(10, 0.1)
    raw = []
    for _ in range(400):
        reference, window = random.multinomial(20_000, shares), random.multinomial(100, shares)
        p, q = reference / 20_000, window / 100
        middle = (p + q) / 2
        raw.append((stats.entropy(p, middle, base=2) + stats.entropy(q, middle, base=2)) / 2)
    bias = 9 / (8 * np.log(2)) * (1 / 20_000 + 1 / 100)
    assert np.mean(raw) == pytest.approx(bias, rel=0.1)


def test_equal_histograms_are_not_apart_and_disjoint_ones_a_bit():
    assert corrected_js_divergence(np.array([100, 100]), np.array([50, 50])) == 0
    assert corrected_js_divergence(np.array([10**6, 0]), np.array([0, 10**6])) == pytest.approx(1, abs=1e-5)


def test_psi_is_both_relative_entropies_together():
    reference, window = counts(0, 10_000_000, 4), np.array([1_000_000, 2_000_000, 3_000_000, 4_000_000])
    p, q = reference / reference.sum(), window / window.sum()
    assert population_stability_index(reference, window) == pytest.approx(
        stats.entropy(p, q) + stats.entropy(q, p), rel=1e-5
    )
    assert np.isfinite(population_stability_index(np.array([100, 0]), np.array([0, 100])))


@pytest.mark.parametrize("seed", range(5))
def test_contingency_tests_are_scipys(seed):
    reference, window = counts(seed, 4000), np.random.default_rng(seed).integers(0, 40, 8)
    reference[3] = window[3] = 0  # a bin nobody has does not count
    table = np.vstack([reference, window])[:, [0, 1, 2, 4, 5, 6, 7]]
    for found, name in ((g_test, "log-likelihood"), (chi_squared_test, "pearson")):
        expected = stats.chi2_contingency(table, correction=False, lambda_=name)
        one = found(reference, window)
        assert (one.statistic, one.p_value) == pytest.approx((expected[0], expected[1]), rel=1e-9)
        assert one.degrees_of_freedom == expected[2]


def test_one_bin_is_no_test():
    assert g_test(np.array([5, 0]), np.array([7, 0])).p_value == 1


def test_shares_are_compared_as_fisher_would():
    assert share_test((30, 100), (5, 100)) == pytest.approx(stats.fisher_exact([[30, 70], [5, 95]])[1])
    assert worse_share_test((90, 100), (30, 40)) == pytest.approx(
        stats.fisher_exact([[90, 10], [30, 10]], alternative="greater")[1]
    )
    assert share_test((0, 100), (0, 50)) == 1
    assert share_test((3, 3), (0, 0)) == 1


def test_losses_are_compared_as_welch_would():
    random = np.random.default_rng(0)
    first, second = random.exponential(1.0, 300), random.exponential(1.3, 80)
    expected = stats.ttest_ind(second, first, equal_var=False, alternative="greater").pvalue
    reference = float(first.mean()), float(first.std(ddof=1)), 300
    window = float(second.mean()), float(second.std(ddof=1)), 80
    assert worse_mean_test(reference, window) == pytest.approx(expected)


def test_constant_losses_differ_or_not():
    assert worse_mean_test((1.0, 0.0, 9), (1.0, 0.0, 9)) == 1
    assert worse_mean_test((1.0, 0.0, 9), (1.5, 0.0, 9)) == 0


def quantiles(values):
    return np.quantile(values, MIDPOINTS, method="inverted_cdf")


@pytest.mark.parametrize("shift", [0.0, 0.4, 1.5])
def test_distances_from_quantiles_are_nearly_those_from_rows(shift):
    random = np.random.default_rng(3)
    first, second = random.normal(size=4000), random.normal(size=700) + shift
    exact = stats.ks_2samp(first, second)
    found = kolmogorov_smirnov(quantiles(first), quantiles(second), 4000, 700)
    assert found.statistic == pytest.approx(exact.statistic, abs=0.01)
    assert found.p_value >= exact.pvalue * 0.9  # the steps of the quantiles are on the safe side
    assert wasserstein(quantiles(first), quantiles(second)) == pytest.approx(
        stats.wasserstein_distance(first, second), abs=0.02
    )


def test_the_kolmogorov_smirnov_p_value_is_smirnovs_limit():
    first = np.arange(200.0)
    found = kolmogorov_smirnov(first, first + 20, 1000, 1000)
    assert found.statistic == pytest.approx(0.1)
    assert found.p_value == pytest.approx(stats.kstwobign.sf((0.1 - 1 / 200) * np.sqrt(500)))


def test_equal_weights_are_a_chi_squared_tail_exactly():
    assert weighted_chi_squared_tail(2.0 * 9, np.full(5, 2.0)) == pytest.approx(stats.chi2.sf(9, 5), rel=1e-12)


def test_unequal_weights_are_near_a_simulation():
    weights = np.array([1.0, 0.5, 0.2, 0.1, 0.05])
    draws = (np.random.default_rng(0).normal(size=(400_000, 5)) ** 2) @ weights
    for level in (0.9, 0.99):
        value = float(np.quantile(draws, level))
        assert weighted_chi_squared_tail(value, weights) == pytest.approx(1 - level, rel=0.1)
    assert weighted_chi_squared_tail(0.0, weights) == pytest.approx(1, abs=0.02)
    assert weighted_chi_squared_tail(1.0, np.zeros(3)) == 0


def test_q_values_are_benjamini_and_hochbergs():
    assert false_discovery_q_values(np.array([0.01, 0.02, 0.9])) == pytest.approx([0.03, 0.03, 0.9])
    assert false_discovery_q_values(np.empty(0)).shape == (0,)


def test_small_bins_are_put_together_but_new_ones_stay():
    reference = np.array([1000, 1000, 10, 10, 1000, 0])
    assert pool_small_bins(reference, np.array([20, 20, 0, 0, 20, 0])).tolist() == [0, 1, 2, 2, 2, 2]
    assert pool_small_bins(reference, np.array([0, 0, 0, 0, 0, 60])).tolist()[-1] == 3
    assert set(pool_small_bins(np.array([3, 2]), np.array([1, 1]))) == {0}
    with pytest.raises(DataError, match="without rows"):
        pool_small_bins(np.array([0, 0]), np.array([1, 2]))
