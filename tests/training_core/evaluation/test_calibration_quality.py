import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss

from training_core.evaluation.calibration import expected_calibration_error
from training_core.evaluation.calibration_quality import (
    calibration_quality,
    classwise_errors,
    equal_width_error,
    region_quality,
)
from training_core.evaluation.predictions import Predictions
from training_core.schema import TaskSpec

CLASSES = TaskSpec.classification("abc")


def said(values, **more):
    return Predictions(values, values.max(axis=1), np.ones(len(values), np.int64), **more)


def calibrated(num_rows=3000, seed=0):
    draws = np.random.default_rng(seed)
    values = draws.dirichlet(np.ones(3), num_rows)
    target = (draws.random(num_rows)[:, None] > values.cumsum(axis=1)).sum(axis=1)
    return target, values


def test_bins_of_equal_width_by_hand():
    """Edges at 0, 1/2, 1: gaps |1/2 - .3| of two rows and |1 - .9| of one."""
    sure, right = np.array([0.2, 0.4, 0.9]), np.array([1, 0, 1])
    assert equal_width_error(sure, right, 2) == pytest.approx((2 * 0.2 + 1 * 0.1) / 3)
    assert equal_width_error(np.array([0.5, 1.0, 0.0]), np.array([1, 1, 0]), 2) == pytest.approx((0.5 * 1) / 3)


def test_probabilities_that_are_true_have_small_errors_and_sharpened_ones_large_ones():
    target, values = calibrated()
    good = calibration_quality(CLASSES, target, said(values))
    sharp = values**3 / (values**3).sum(axis=1, keepdims=True)
    bad = calibration_quality(CLASSES, target, said(sharp))
    for name in ("ece", "ece_width", "classwise_ece", "worst_class_ece", "log_loss", "brier"):
        assert getattr(good, name) < getattr(bad, name), name
    assert good.ece is not None
    assert good.ece < 0.03
    assert good.ece == expected_calibration_error(values.max(axis=1), values.argmax(axis=1) == target)
    assert sum(one.num_rows for one in good.bins) == 3000
    assert good.accuracy == pytest.approx((values.argmax(axis=1) == target).mean())


def test_loss_and_brier_are_scikit_learns():
    target, values = calibrated(300)
    found = calibration_quality(CLASSES, target, said(values))
    assert found.log_loss == pytest.approx(log_loss(target, values))
    labels = TaskSpec.multilabel("ab")
    truth = np.random.default_rng(0).integers(0, 2, (50, 2)).astype(np.float32)
    shown = np.random.default_rng(1).random((50, 2))
    expected = np.mean([brier_score_loss(truth[:, c], shown[:, c]) for c in range(2)])
    quality = calibration_quality(labels, truth, said(shown))
    assert quality.brier == pytest.approx(expected)
    assert sum(one.num_rows for one in quality.bins) == 100
    assert found.brier == pytest.approx(np.mean(((values - np.eye(3)[target]) ** 2).sum(axis=1)))


def test_class_wise_errors_are_those_of_each_column():
    target, values = calibrated(400)
    expected = [expected_calibration_error(values[:, c], target == c) for c in range(3)]
    assert classwise_errors(CLASSES, target, values) == pytest.approx(expected)


def test_sets_are_judged_by_how_often_they_hold_the_class_and_how_large_they_are():
    target = np.repeat([0, 1], 30)
    sets = np.zeros((60, 3), bool)
    sets[:, 0] = True
    sets[30:45, 1] = True
    found = region_quality(CLASSES, target, said(np.full((60, 3), 1 / 3), sets=sets), 0.9)
    assert found is not None
    assert found.coverage == pytest.approx(45 / 60)
    assert found.size == pytest.approx(75 / 60)
    assert found.worst_group == pytest.approx(0.5)
    assert (found.kind, found.source, found.asked) == ("sets", "conformal", 0.9)


def test_sets_of_labels_are_judged_by_the_share_of_true_labels_inside():
    labels = TaskSpec.multilabel("abc")
    truth = np.array([[1, 1, 0], [0, 0, 0], [1, 0, 0]], np.float32)
    sets = np.array([[True, False, True], [False, False, True], [True, False, False]])
    found = region_quality(labels, truth, said(np.full((3, 3), 0.5), sets=sets), 0.9)
    assert found is not None
    assert found.coverage == pytest.approx((0.5 + 1.0) / 2)
    assert (found.num_rows, found.worst_group) == (2, None)
    nothing = region_quality(labels, np.zeros((3, 3)), said(np.full((3, 3), 0.5), sets=sets))
    assert nothing is not None
    assert (nothing.coverage, nothing.num_rows) == (1.0, 0)


def test_an_expected_error_that_is_true_covers_as_often_as_a_gaussian_should():
    draws = np.random.default_rng(0)
    task, std = TaskSpec.regression(), draws.uniform(0.5, 2.0, (4000, 1))
    target = std * draws.normal(size=(4000, 1))
    found = calibration_quality(task, target, said(np.zeros((4000, 1)), std=std))
    assert found.ece is None
    assert found.bins == ()
    assert found.regions is not None
    assert found.regions.coverage == pytest.approx(0.9, abs=0.015)
    assert found.regions.size == pytest.approx(2 * 1.6449 * std.mean() / target.std(), rel=1e-3)
    assert (found.regions.source, found.regions.asked) == ("expected error", 0.9)


def test_intervals_of_the_predictors_own_go_first_and_without_any_nothing_is_said():
    task, target = TaskSpec.regression(), np.array([[0.0], [2.0]])
    own = said(np.zeros((2, 1)), std=np.ones((2, 1)), lower=np.full((2, 1), -1.0), upper=np.ones((2, 1)))
    found = region_quality(task, target, own, 0.8)
    assert found is not None
    assert (found.source, found.coverage, found.size, found.asked) == ("conformal", 0.5, 2.0, 0.8)
    assert region_quality(task, target, said(np.zeros((2, 1)))) is None
    assert region_quality(CLASSES, np.zeros(2, int), said(np.full((2, 3), 1 / 3))) is None
