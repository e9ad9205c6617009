import numpy as np
import pytest
import sklearn.metrics as sk

from training_core.errors import DataError
from training_core.evaluation.metrics import LOWER_IS_BETTER, auroc, loss, metrics, score
from training_core.schema import TaskSpec

CLASSES = TaskSpec.classification("abcd")
LABELS = TaskSpec.multilabel(["x", "y", "z"])
VALUES = TaskSpec.regression(["u", "v"])


def probabilities(num_rows, num_classes, seed=0):
    draws = np.random.default_rng(seed)
    return np.round(draws.dirichlet(np.full(num_classes, 0.7), num_rows), 2) * 0.96 + 0.01


def test_classification_metrics_agree_with_scikit_learn():
    draws = np.random.default_rng(1)
    p = probabilities(200, 4)
    p /= p.sum(axis=1, keepdims=True)
    y = np.where(draws.random(200) < 0.6, p.argmax(axis=1), draws.integers(0, 4, 200))
    found = metrics(CLASSES, y, p)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(y, p.argmax(axis=1)))
    assert found["f1"] == pytest.approx(sk.f1_score(y, p.argmax(axis=1), average="macro"))
    assert found["auroc"] == pytest.approx(sk.roc_auc_score(y, p, multi_class="ovr", average="macro"))
    assert found["log_loss"] == pytest.approx(sk.log_loss(y, p))
    assert found["brier"] == pytest.approx(np.mean(np.sum((p - np.eye(4)[y]) ** 2, axis=1)))
    assert score(CLASSES, y, p) == found["accuracy"]


def test_multilabel_metrics_agree_with_scikit_learn():
    draws = np.random.default_rng(2)
    p = np.round(draws.random((150, 3)), 1)  # rounded: many ties
    y = (draws.random((150, 3)) < 0.3 + 0.4 * p).astype(np.float32)
    found = metrics(LABELS, y, p)
    assert found["mean_average_precision"] == pytest.approx(sk.average_precision_score(y, p, average="macro"))
    assert found["hamming"] == pytest.approx(sk.hamming_loss(y, p > 0.5))
    assert found["f1"] == pytest.approx(sk.f1_score(y, p > 0.5, average="macro"))
    assert found["log_loss"] == pytest.approx(np.mean([sk.log_loss(y[:, c], p[:, c]) for c in range(3)]))


def test_regression_metrics_agree_with_scikit_learn():
    draws = np.random.default_rng(3)
    y = draws.normal(size=(80, 2)) * [1, 50]
    p = y + draws.normal(size=(80, 2)) * [0.3, 20]
    found = metrics(VALUES, y, p)
    assert found["r2"] == pytest.approx(sk.r2_score(y, p))
    assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(y, p))
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(y, p))


def test_ties_in_a_ranking_count_half():
    assert auroc(np.array([True, False]), np.array([0.5, 0.5])) == 0.5
    truth, ranking = np.array([True, False, True, False]), np.array([0.9, 0.9, 0.4, 0.1])
    assert auroc(truth, ranking) == pytest.approx(sk.roc_auc_score(truth, ranking))


def test_a_metric_these_rows_do_not_define_is_left_out():
    found = metrics(CLASSES, np.zeros(5, np.int64), probabilities(5, 4))
    assert "auroc" not in found
    assert all(np.isfinite(value) for value in found.values())


def test_an_absent_class_does_not_spoil_the_others():
    y = np.array([0, 1, 0, 1, 2])
    p = np.array([[0.7, 0.1, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1]] * 2 + [[0.1, 0.1, 0.7, 0.1]])
    assert metrics(CLASSES, y, p)["auroc"] == 1.0
    assert metrics(CLASSES, y, p)["f1"] == 1.0


def test_a_constant_target_has_an_r2_of_nought_unless_met_exactly():
    y = np.full((4, 2), 3.0)
    assert score(VALUES, y, y + 1) == 0.0
    assert score(VALUES, y, y) == 1.0


def test_the_loss_of_a_certain_mistake_is_finite():
    assert np.isfinite(loss(CLASSES, np.array([1]), np.array([[1.0, 0, 0, 0]]))).all()
    assert np.isfinite(loss(LABELS, np.array([[1, 0, 1]]), np.array([[0.0, 1.0, 0.5]]))).all()


def test_loss_is_one_number_per_row():
    assert loss(CLASSES, np.array([2, 0]), np.full((2, 4), 0.25)) == pytest.approx(np.log([4, 4]))
    assert loss(VALUES, np.array([[1.0, 3.0]]), np.array([[2.0, 1.0]])) == pytest.approx([2.5])


def test_no_rows_or_another_shape_is_refused():
    with pytest.raises(DataError, match="no rows"):
        metrics(CLASSES, np.zeros(0, np.int64), np.zeros((0, 4)))
    with pytest.raises(DataError, match="do not fit"):
        score(CLASSES, np.zeros(3, np.int64), np.zeros((3, 2)))


def test_every_metric_says_which_way_is_better():
    draws = np.random.default_rng(4)
    y = draws.integers(0, 4, 300)
    good = np.full((300, 4), 0.02)
    good[np.arange(300), y] = 0.94
    bad = draws.dirichlet(np.ones(4), 300)
    for name, value in metrics(CLASSES, y, good).items():
        better = (
            value < metrics(CLASSES, y, bad)[name]
            if name in LOWER_IS_BETTER
            else value > metrics(CLASSES, y, bad)[name]
        )
        assert better, name
