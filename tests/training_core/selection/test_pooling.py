import numpy as np
import pytest

from training_core.evaluation.calibration import fit_temperature
from training_core.schema import TaskSpec
from training_core.selection.pooling import concentration_of, expected_square, fit_temperature_line, pool

CLASSES = TaskSpec.classification("ab")


def test_weights_are_scaled_per_row_over_the_learners_that_speak():
    predictions = np.array([[[0.8, 0.2], [0.8, 0.2]], [[0.2, 0.8], [np.nan, np.nan]]])
    mixed = pool(predictions, np.array([0.25, 0.75]))
    assert mixed.values == pytest.approx(np.array([[0.35, 0.65], [0.8, 0.2]]))
    assert mixed.num_learners.tolist() == [2, 1]


def test_a_row_nobody_speaks_for_is_marked():
    mixed = pool(np.array([[[np.nan, np.nan], [0.5, 0.5]], [[0.1, 0.9], [0.1, 0.9]]]), np.array([1.0, 0.0]))
    assert mixed.covered.tolist() == [False, True]
    assert np.isnan(mixed.values[0]).all()


def test_concentration_is_one_over_the_number_of_equal_learners():
    mixed = pool(np.full((4, 1, 2), 0.5), np.ones(4))
    assert mixed.concentration == pytest.approx([0.25])
    assert concentration_of(np.ones(4)) == pytest.approx(0.25)
    assert concentration_of(np.array([0.0, 3.0])) == pytest.approx(1.0)


def test_a_row_is_answered_the_same_whatever_stands_beside_it():
    draws = np.random.default_rng(0)
    predictions = draws.dirichlet(np.ones(5), (7, 60))
    predictions[draws.random((7, 60)) < 0.3] = np.nan
    weights = draws.random(7)
    whole = pool(predictions, weights).values
    for rows in (np.arange(1), np.arange(17, 40), draws.permutation(60)):
        assert np.array_equal(pool(predictions[:, rows], weights).values, whole[rows], equal_nan=True)


def noisy_learners(num_learners, num_rows, seed=0):
    """Learners that each see the true log-odds through noise of their own."""
    draws = np.random.default_rng(seed)
    odds = draws.normal(size=num_rows) * 2
    target = (draws.random(num_rows) < 1 / (1 + np.exp(-odds))).astype(np.int64)
    seen = 1 / (1 + np.exp(-(odds + draws.normal(size=(num_learners, num_rows)) * 2)))
    return np.stack([1 - seen, seen], axis=2), target, draws


def test_a_pool_of_many_gets_the_temperature_many_need_though_few_spoke_out_of_bag():
    predictions, target, draws = noisy_learners(24, 6000)
    weights = np.full(24, 1 / 24)
    needed = fit_temperature(CLASSES, target, pool(predictions, weights).values)
    heard = np.where(draws.random((24, 6000, 1)) < 0.2, predictions, np.nan)
    few = pool(heard, weights)
    naive = fit_temperature(CLASSES, target[few.covered], few.values[few.covered])
    fitted = fit_temperature_line(CLASSES, target, few).at(concentration_of(weights))
    assert naive > needed * 1.3
    assert fitted == pytest.approx(needed, rel=0.1)


def test_when_all_rows_have_as_many_speakers_it_is_the_plain_temperature():
    predictions, target, _ = noisy_learners(5, 500)
    mixed = pool(predictions, np.ones(5))
    assert fit_temperature_line(CLASSES, target, mixed).at(0.2) == fit_temperature(CLASSES, target, mixed.values)


def test_the_error_of_a_pool_of_many_is_read_off_the_line():
    draws = np.random.default_rng(1)
    noise = draws.normal(size=(20, 8000, 1))
    heard = np.where(draws.random((20, 8000, 1)) < 0.25, noise, np.nan)
    mixed = pool(heard, np.ones(20))
    seen = mixed.values[mixed.covered]
    square = expected_square(seen, mixed, 1 / 20)
    assert seen.var() / 2 <= square[0] < seen.var() * 0.8
    at_each = expected_square(seen, mixed, np.array([1 / 20, 1.0]))
    assert at_each.shape == (2, 1)
    assert at_each[0, 0] == square[0] < at_each[1, 0]
