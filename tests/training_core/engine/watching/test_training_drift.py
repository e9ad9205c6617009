"""Drift between samples, against SciPy and against what is known beforehand."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from training_core.engine.watching.drift import histograms, js_divergence, measure_drift
from training_core.errors import ConfigError, DataError


@pytest.mark.parametrize("seed", range(20))
def test_the_divergence_is_the_square_of_scipy_s_distance(seed: int) -> None:
    draws = np.random.default_rng(seed)
    p, q = draws.random(12) * (draws.random(12) < 0.7), draws.random(12) * (draws.random(12) < 0.7)
    assert js_divergence(p, q) == pytest.approx(jensenshannon(p, q, base=2) ** 2, abs=1e-12)


def test_the_divergence_is_0_for_equal_1_for_disjoint_and_symmetric() -> None:
    p, q = np.array([3, 0, 1]), np.array([0, 5, 0])
    assert js_divergence(p, 7 * p) == 0
    assert js_divergence(p, q) == 1
    assert js_divergence(p, p + q) == pytest.approx(js_divergence(p + q, p))


def test_half_of_the_mass_moved_has_a_closed_form() -> None:
    """p = (1, 0), q = (½, ½): ½ log2(4/3) + ½ (½ log2(2/3) + ½ log2 2)."""
    expected = 0.5 * math.log2(4 / 3) + 0.5 * (0.5 * math.log2(2 / 3) + 0.5)
    assert js_divergence(np.array([1, 0]), np.array([1, 1])) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("p", "q", "message"),
    [([1, 2], [1, 2, 3], "no common bins"), ([0, 0], [1, 1], "at least one above"), ([-1, 2], [1, 1], "at least 0")],
)
def test_histograms_that_cannot_be_compared_are_refused(p: list[int], q: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        js_divergence(np.array(p), np.array(q))


@pytest.mark.parametrize("num_values", [10, 50, 400, 5000])
def test_samples_of_one_distribution_are_healthy_also_when_small(num_values: int) -> None:
    draws = np.random.default_rng(0)
    found = [
        measure_drift({"a": draws.normal(size=num_values)}, {"a": draws.normal(size=num_values)}).js_divergence
        for _ in range(100)
    ]
    assert np.mean(found) == pytest.approx(0.36 / math.sqrt(num_values), rel=0.6)
    assert np.mean([value >= 0.2 for value in found]) <= 0.2 * (num_values < 50)


def test_a_shifted_feature_is_affected_and_the_others_are_not() -> None:
    draws = np.random.default_rng(1)
    reference = {name: draws.normal(size=500) for name in "abc"}
    current = {"a": draws.normal(size=300), "b": 3 + draws.normal(size=300), "c": 1.0 + draws.normal(size=300)}
    drift = measure_drift(reference, current)
    assert drift.status == "critical"
    assert drift.affected_features == ["b", "c"]
    assert drift.js_divergence == drift.details["b"] > 0.2 > drift.details["c"] > 0.1 > drift.details["a"]


def test_an_outlier_hides_no_shift() -> None:
    draws = np.random.default_rng(2)
    reference = np.append(draws.normal(size=500), 1e9)
    assert measure_drift({"a": reference}, {"a": 3 + draws.normal(size=500)}).status == "critical"


def test_few_distinct_values_have_a_bin_each_and_missing_ones_too() -> None:
    reference = np.array([0.0] * 60 + [1.0] * 40)
    current = np.array([0.0] * 20 + [2.0] * 70 + [math.nan] * 5 + [math.inf] * 5)
    before, after = histograms(reference, current)
    assert before[before + after > 0].tolist() == [60, 40, 0, 0]
    assert after[before + after > 0].tolist() == [20, 0, 70, 10]


def test_a_constant_feature_does_not_drift_and_a_new_constant_does() -> None:
    assert measure_drift({"a": np.ones(20)}, {"a": np.ones(20)}).js_divergence == 0
    assert measure_drift({"a": np.ones(20)}, {"a": np.full(20, 2.0)}).js_divergence == 1
    assert measure_drift({"a": np.ones(20)}, {"a": np.full(20, math.nan)}).js_divergence == 1


def test_of_too_few_values_nothing_is_said() -> None:
    drift = measure_drift({"a": np.zeros(9), "b": np.zeros(10)}, {"a": np.ones(9), "b": np.zeros(10)})
    assert math.isnan(drift.details["a"])
    assert (drift.js_divergence, drift.status, drift.affected_features) == (0.0, "healthy", [])


def test_tensors_lists_and_arrays_are_taken_and_features_of_one_side_left_out() -> None:
    drift = measure_drift(
        {"a": torch.zeros(10), "b": [0] * 10, "gone": [1] * 10}, {"b": np.zeros((5, 2)), "a": [0.0] * 10, "new": []}
    )
    assert drift.details == {"a": 0.0, "b": 0.0}


def test_nothing_in_common_is_refused_with_what_there_is() -> None:
    with pytest.raises(DataError, match="the reference has a, the current sample no feature"):
        measure_drift({"a": [1]}, {})


def test_thresholds_out_of_order_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"drift thresholds are 0\.3 \(warning\) and 0\.2 \(critical\)"):
        measure_drift({"a": [1]}, {"a": [1]}, warning=0.3)
