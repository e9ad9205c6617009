import numpy as np
import pytest

from training_core.selection.units import dealt_folds, mean_error, units_of


def test_units_are_groups_or_else_blocks_of_time_or_none():
    assert units_of(None, None) is None
    assert units_of(np.array(["b", "a", "b"]), np.arange(3)).tolist() == [1, 0, 1]
    assert units_of(None, np.array([5, 3, 4, 1, 2, 0, 7, 6])).tolist() == [2, 1, 2, 0, 1, 0, 3, 3]
    assert units_of(None, np.array([5])) is None


def test_the_error_of_a_mean_of_rows_alike_is_that_of_their_groups():
    values = np.random.default_rng(0).normal(size=50)
    assert mean_error(values) == pytest.approx(values.std() / np.sqrt(50))
    alone = mean_error(values, np.arange(50))
    assert alone == pytest.approx(values.std(ddof=1) / np.sqrt(50))
    assert mean_error(np.repeat(values, 8), np.repeat(np.arange(50), 8)) == pytest.approx(alone)
    assert mean_error(values, np.zeros(50, np.int64)) == np.inf


def test_the_error_of_a_mean_of_uneven_groups_is_what_resampling_groups_gives():
    random = np.random.default_rng(1)
    units = np.repeat(np.arange(40), random.integers(1, 9, 40))
    values = random.normal(size=40)[units] + 0.3 * random.normal(size=len(units))
    sums, sizes = np.bincount(units, values), np.bincount(units)
    drawn = random.integers(0, 40, (20_000, 40))
    resampled = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    assert mean_error(values, units) == pytest.approx(resampled.std(), rel=0.1)


def test_folds_keep_units_whole_and_are_the_old_ones_without():
    units = np.repeat(np.arange(20), 5)
    folds = dealt_folds(100, 5, 0, "stacking", units)
    assert all(len(set(folds[units == unit])) == 1 for unit in range(20))
    assert np.bincount(folds).tolist() == [20] * 5
    assert np.bincount(dealt_folds(100, 5, 0, "stacking")).tolist() == [20] * 5
