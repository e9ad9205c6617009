import numpy as np
import pytest

from training_core.evaluation.calibration import confidence
from training_core.evaluation.patterns import pattern_table
from training_core.evaluation.predictions import Predictions
from training_core.schema import TaskSpec

CLASSES = TaskSpec.classification("ab")
VALUES = TaskSpec.regression()


def judged(task, values, sure=None):
    sure = confidence(task, values) if sure is None else sure
    return Predictions(values=values, confidence=sure, num_learners=np.ones(len(values), np.int64))


def test_the_table_has_a_row_per_pattern_with_the_full_set_first():
    y = np.array([0, 1, 1, 0])

    def predict(pattern):
        right = 0.9 if "pix" in pattern else 0.4
        p = np.full((4, 2), 1 - right)
        p[np.arange(4), y] = right
        return judged(CLASSES, p)

    table = pattern_table(CLASSES, predict, y, ["pix", "fou"])
    assert [row.available for row in table] == [("pix", "fou"), ("pix",), ("fou",)]
    assert [row.missing for row in table] == [(), ("fou",), ("pix",)]
    assert [row.score for row in table] == [1.0, 1.0, 0.0]
    assert [row.confidence for row in table] == pytest.approx([0.9, 0.9, 0.6])
    assert [row.ece for row in table] == pytest.approx([0.1, 0.1, 0.6])
    assert all(row.num_rows == 4 for row in table)


def test_regression_has_no_calibration_error():
    y = np.array([[1.0], [2.0], [4.0]])
    (row,) = pattern_table(VALUES, lambda _: judged(VALUES, y + 0.1, np.full(3, 0.8)), y, ["only"])
    assert row.ece is None
    assert row.confidence == pytest.approx(0.8)
    assert row.score == row.metrics["r2"] > 0.99


def test_many_modalities_are_judged_one_by_one():
    names = list("abcdef")
    p = np.array([[0.8, 0.2], [0.2, 0.8]])
    table = pattern_table(CLASSES, lambda _: judged(CLASSES, p), np.array([0, 1]), names)
    assert [len(row.missing) for row in table] == [0] + [1] * 6
