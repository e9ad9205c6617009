import numpy as np
import pytest

from training_core.errors import DataError
from training_core.evaluation.predictions import Predictions
from training_core.evaluation.robustness import (
    AnswersByPattern,
    hide_at_random,
    hide_in_blocks,
    missing_rate_curve,
    picked,
)
from training_core.schema import TaskSpec
from training_core.seeding import generator

TASK = TaskSpec.classification("ab")
NAMES = ("first", "second", "third")


def said(right):
    """Predictions of class 0, right (sure) or wrong."""
    values = np.where(right[:, None], [0.9, 0.1], [0.2, 0.8])
    return Predictions(values, values.max(axis=1), np.ones(len(right), np.int64))


def needs_first(shown):
    return said(shown[:, 0])


def test_cells_are_hidden_at_the_rate_and_a_row_keeps_one():
    available = np.ones((20_000, 3), bool)
    left = hide_at_random(available, 0.5, generator(0, "t"))
    assert left.any(axis=1).all()
    assert left.mean() == pytest.approx(0.5 + 0.125 / 3, abs=0.01)
    assert left.mean(axis=0) == pytest.approx(np.full(3, left.mean()), abs=0.015)
    assert (hide_at_random(available, 0.0, generator(0, "t")) == available).all()


def test_what_is_not_there_stays_away_and_a_row_with_nothing_keeps_nothing():
    available = np.array([[True, False, False], [False, False, False], [False, True, True]] * 50)
    for hide in (hide_at_random, hide_in_blocks):
        left = hide(available, 0.9, generator(1, "t"))
        assert not (left & ~available).any()
        assert (left.any(axis=1) == available.any(axis=1)).all()


def test_outages_are_in_one_piece_and_as_long_as_asked():
    left = hide_in_blocks(np.ones((100, 3), bool), 0.3, generator(2, "t"))
    forced = left.sum(axis=1) == 1
    for column in left.T:
        changes = np.flatnonzero(np.diff(np.append(column, column[0]).astype(int)))
        assert len(changes) <= 2 + 2 * forced.sum()
    assert 0.3 * 300 - forced.sum() <= (~left).sum() <= 0.3 * 300


def test_the_curve_of_a_predictor_that_needs_one_modality_is_the_share_that_has_it():
    available = np.ones((4000, 3), bool)
    curve = missing_rate_curve(TASK, np.zeros(4000, int), available, needs_first, "p", rates=(0.3, 0.6), repeats=3)
    assert [point.rate for point in curve.points] == [0.0, 0.3, 0.6]
    for point in curve.points:
        expected = 1 - point.rate + point.rate**3 / 3  # hidden, unless it is the one that was kept
        assert point.score == pytest.approx(expected, abs=0.015)
        assert point.hidden == pytest.approx(point.rate - point.rate**3 / 3, abs=0.015)
    scores = [point.score for point in curve.points]
    area = (scores[0] + 2 * scores[1] + scores[2]) / 4
    assert curve.area == pytest.approx(area)
    assert curve.relative_area == pytest.approx(area / scores[0])
    assert (curve.num_rows, curve.repeats) == (4000, 3)


def test_a_predictor_that_does_not_care_keeps_all_its_score():
    curve = missing_rate_curve(
        TASK, np.zeros(50, int), np.ones((50, 3), bool), lambda shown: said(np.ones(50, bool)), "p", "block"
    )
    assert curve.relative_area == 1.0
    assert {point.std for point in curve.points} == {0.0}
    assert len(curve.points) == 10


def test_predictors_meet_the_same_masks_and_another_seed_other_ones():
    met = []

    def predict(shown):
        met.append(shown.copy())
        return needs_first(shown)

    for seed in (0, 0, 1):
        missing_rate_curve(
            TASK, np.zeros(40, int), np.ones((40, 3), bool), predict, "p", rates=(0.5,), repeats=2, seed=seed
        )
    first, second, third = met[:3], met[3:6], met[6:]
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    assert (first[1] != third[1]).any()
    assert (first[1] != first[2]).any()


def test_outages_run_through_rows_in_the_order_of_time():
    met = []

    def predict(shown):
        met.append(shown)
        return needs_first(shown)

    order = np.random.default_rng(0).permutation(60)
    available = np.ones((60, 2), bool)
    missing_rate_curve(TASK, np.zeros(60, int), available, predict, "p", "block", (0.2,), 1, order=order)
    gone = np.flatnonzero(~met[-1][order, 0])
    assert len(gone)
    assert min(((gone - start) % 60).max() for start in gone) < 12


def test_a_score_that_is_not_above_zero_has_no_relative_area():
    curve = missing_rate_curve(TASK, np.ones(20, int), np.ones((20, 3), bool), lambda s: said(np.ones(20, bool)), "p")
    assert curve.points[0].score == 0
    assert curve.relative_area is None


def test_no_rows_are_refused():
    with pytest.raises(DataError, match="no rows"):
        missing_rate_curve(TASK, np.zeros(0, int), np.ones((0, 3), bool), needs_first, "p")


def test_answers_by_pattern_ask_once_for_each_pattern_and_pick_by_row():
    asked = []

    def predict(pattern):
        asked.append(pattern)
        return said(np.full(6, "first" in pattern))

    answers = AnswersByPattern(NAMES, predict)
    shown = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 1], [0, 0, 0], [1, 0, 0], [0, 1, 1]], bool)
    for _ in range(3):
        assert (answers(shown).values[:, 0] > 0.5).tolist() == shown[:, 0].tolist()
    assert len(asked) == len(set(asked)) == 5
    assert frozenset() in asked
    assert frozenset(NAMES) in asked


def test_picking_keeps_every_column_that_all_answers_have():
    some = Predictions(
        np.zeros((3, 2)), np.zeros(3), np.zeros(3, int), std=np.zeros((3, 2)), sets=np.zeros((3, 2), bool)
    )
    more = Predictions(np.ones((3, 2)), np.ones(3), np.ones(3, int), sets=np.ones((3, 2), bool))
    found = picked([some, more], np.array([0, 1, 0]))
    assert found.std is None
    assert found.lower is None
    assert found.sets is not None
    assert found.sets[:, 0].tolist() == [False, True, False]
    assert found.confidence.tolist() == [0, 1, 0]
