"""The test of losses row by row: agrees with Student's where that is right, and is not too sure of few units."""

import numpy as np
import pytest

from training_core.evaluation.statistics import compare_losses, resample
from training_core.schema import TaskSpec

TASK = TaskSpec(kind="regression", targets=("y",))


def losses(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A target and two predictions with these squared errors, [N, 1] each."""
    return np.zeros((len(first), 1)), np.sqrt(first)[:, None], np.sqrt(second)[:, None]


def test_many_rows_agree_with_students_test():
    from scipy.stats import ttest_rel

    random = np.random.default_rng(0)
    first = random.exponential(size=400)
    second = first * random.uniform(0.5, 1.7, size=400)
    found = compare_losses(TASK, *losses(first, second), resample(400))
    assert found.difference == pytest.approx((second - first).mean())
    wanted = ttest_rel(second, first).confidence_interval(0.95)
    reach = found.interval.high - found.interval.low
    assert reach == pytest.approx(wanted.high - wanted.low, rel=0.08)
    assert (found.p_value < 0.05) == (not found.interval.low <= 0 <= found.interval.high)
    swapped = compare_losses(TASK, *losses(second, first), resample(400))
    assert (swapped.difference, swapped.p_value) == (-found.difference, found.p_value)


def test_one_row_proves_nothing():
    found = compare_losses(TASK, *losses(np.array([0.0]), np.array([9.0])), resample(1))
    assert (found.p_value, found.interval.low, found.interval.high) == (1.0, -np.inf, np.inf)


@pytest.mark.parametrize("num", [2, 5])
def test_rows_that_all_say_the_same_are_only_as_sure_as_their_number(num):
    drawn = resample(num)
    better = compare_losses(TASK, *losses(np.zeros(num), np.full(num, 4.0)), drawn)
    assert better.p_value == 2.0 ** (1 - num)
    assert compare_losses(TASK, *losses(np.ones(num), np.ones(num)), drawn).p_value == 1.0


def test_rows_of_one_group_count_once():
    random = np.random.default_rng(0)
    worse = np.repeat(random.exponential(size=4) + 1, 50)
    groups = np.repeat(np.array(list("abcd"), object), 50)
    together = compare_losses(TASK, *losses(np.ones(200), worse), resample(200, groups=groups))
    alone = compare_losses(TASK, *losses(np.ones(200), worse), resample(200))
    assert (together.num_units, alone.num_units) == (4, 200)
    assert alone.p_value < 1e-6
    assert together.p_value > 0.01


@pytest.mark.parametrize("num", [6, 20])
def test_equal_models_are_rarely_told_apart(num):
    """Skewed differences of few rows, where a plain bootstrap would find something in a tenth of the draws."""
    random = np.random.default_rng(1)
    draws = resample(num, 400)
    found = 0
    for _ in range(300):
        first, second = random.exponential(size=(2, num))
        found += compare_losses(TASK, *losses(first, second), draws).p_value < 0.05
    assert found <= 24  # 15 expected; 24 or more in one of a hundred
