"""Paired differences, against SciPy's interval of the mean."""

import numpy as np
import pytest
from scipy import stats

from training_core.errors import DataError
from training_core.evaluation.impact import paired_difference, paired_impact


def test_the_interval_of_independent_pairs_is_students() -> None:
    values = np.random.default_rng(0).normal(0.3, 1.0, 12)
    found = paired_difference(values)
    low, high = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx((low, high))
    assert found.mean == pytest.approx(values.mean())
    assert found.num_pairs == 12


def test_pairs_that_share_rows_are_less_sure() -> None:
    values = [0.1, 0.2, 0.3, 0.2]
    alone, shared = paired_difference(values), paired_difference(values, test_to_train=0.25)
    assert alone.std_error is not None and shared.std_error is not None
    assert shared.std_error / alone.std_error == pytest.approx(np.sqrt((1 / 4 + 0.25) / (1 / 4)))
    assert alone.is_beyond_noise


def test_one_pair_has_no_interval() -> None:
    found = paired_difference([0.5])
    assert (found.mean, found.std_error, found.interval, found.is_beyond_noise) == (0.5, None, None, False)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")]])
def test_what_cannot_be_compared_is_refused(values: list[float]) -> None:
    with pytest.raises(DataError, match="at least one pair of finite numbers"):
        paired_difference(values)


def test_only_learners_with_both_scores_are_pairs() -> None:
    found = paired_impact({"a": 0.9, "b": 0.8, "c": None, "d": 1.0}, {"a": 0.8, "b": 0.8, "c": 0.1})
    assert found is not None
    assert (found.num_pairs, found.mean) == (2, pytest.approx(0.05))
    assert paired_impact({"a": 0.9}, {"b": 0.8}) is None
