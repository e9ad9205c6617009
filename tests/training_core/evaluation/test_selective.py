import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from training_core.errors import DataError
from training_core.evaluation.predictions import Predictions
from training_core.evaluation.selective import area_under, risk_coverage, row_risk, selective_score
from training_core.schema import TaskSpec

CLASSES = TaskSpec.classification("abc")


def predictions(values, confidence=None, std=None):
    sure = values.max(axis=1) if confidence is None else confidence
    return Predictions(values, sure, np.ones(len(values), np.int64), std=std)


def test_the_curve_is_the_mean_risk_of_the_surest_rows():
    draws = np.random.default_rng(0)
    risk, sure = draws.random(30), draws.random(30)
    order = np.argsort(-sure)
    expected = [risk[order[: k + 1]].mean() for k in range(30)]
    assert risk_coverage(risk, sure) == pytest.approx(expected)
    assert area_under(risk_coverage(risk, sure)) == pytest.approx(np.mean(expected))


def test_equally_sure_rows_count_as_in_any_order():
    risk = np.array([1.0, 0.0, 0.0, 1.0])
    sure = np.array([0.9, 0.9, 0.9, 0.1])
    assert risk_coverage(risk, sure) == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1 / 2])
    assert risk_coverage(risk[::-1], sure[::-1]) == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1 / 2])
    assert risk_coverage(risk, np.full(4, 0.5)) == pytest.approx(np.full(4, 0.5))


def test_telling_errors_is_scikit_learns_auroc():
    draws = np.random.default_rng(1)
    target = draws.integers(0, 3, 400)
    logits = draws.normal(size=(400, 3)) + 1.5 * np.eye(3)[target]
    values = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = selective_score(CLASSES, target, predictions(values))
    right = values.argmax(axis=1) == target
    assert found.error_auroc == pytest.approx(roc_auc_score(right, values.max(axis=1)))
    assert found.risk == pytest.approx(1 - right.mean())
    assert found.at(0.8).num_rows == 320
    assert found.at(0.8).risk < found.risk
    assert found.best_area <= found.area <= found.risk
    assert found.curve[-1] == pytest.approx((1.0, found.risk))


def test_the_best_order_is_reached_when_all_wrong_rows_are_least_sure():
    values = np.eye(3)[np.array([0, 0, 0, 1])] * 0.6 + 0.1
    found = selective_score(CLASSES, np.zeros(4, int), predictions(values, np.array([0.9, 0.8, 0.7, 0.2])))
    assert found.area == found.best_area
    assert found.error_auroc == 1.0


def test_without_an_error_there_is_nothing_to_tell():
    found = selective_score(CLASSES, np.zeros(3, int), predictions(np.eye(3)[np.zeros(3, int)]))
    assert found.error_auroc is None
    assert found.risk == found.area == 0
    assert selective_score(CLASSES, np.zeros(1, int), predictions(np.eye(3)[:1])).num_rows == 1


def test_labels_count_by_themselves_and_values_by_their_expected_error():
    labels = TaskSpec.multilabel("uv")
    target = np.array([[1, 0], [1, 1]], np.float32)
    assert row_risk(labels, target, np.array([[0.9, 0.8], [0.1, 0.2]])).tolist() == [0.5, 1.0]
    values = TaskSpec.regression()
    told = predictions(np.zeros((3, 1)), np.full(3, 0.5), std=np.array([[1.0], [3.0], [2.0]]))
    found = selective_score(values, np.array([[1.0], [3.0], [2.0]]), told)
    assert found.area == found.best_area
    assert found.error_auroc is None
    assert found.risk == pytest.approx(14 / 3)


def test_no_rows_are_refused():
    with pytest.raises(DataError, match="no rows"):
        risk_coverage(np.zeros(0), np.zeros(0))
