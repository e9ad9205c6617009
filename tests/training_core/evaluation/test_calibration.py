import numpy as np
import pytest

from training_core.evaluation.calibration import (
    apply_temperature,
    confidence,
    expected_calibration_error,
    expected_error_if_calibrated,
    fit_temperature,
    reliability,
)
from training_core.evaluation.metrics import loss
from training_core.schema import TaskSpec

CLASSES = TaskSpec.classification("abc")
LABELS = TaskSpec.multilabel(["x", "y"])
VALUES = TaskSpec.regression()


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def calibrated_world(num_rows=20_000, seed=0):
    """Probabilities that are right, and classes drawn from them."""
    draws = np.random.default_rng(seed)
    p = softmax(draws.normal(size=(num_rows, 3)) * 1.5)
    y = (draws.random(num_rows)[:, None] > p.cumsum(axis=1)).sum(axis=1)
    return p, y


def test_calibration_error_of_an_example_worked_by_hand():
    sure = np.array([0.6, 0.6, 0.9, 0.9])
    right = np.array([1, 0, 1, 1])
    # two bins of two rows: |.5 - .6| and |1 - .9|, weighted one half each
    assert expected_calibration_error(sure, right, num_bins=2) == pytest.approx(0.1)


def test_bins_have_equal_mass():
    draws = np.random.default_rng(0)
    bins = reliability(draws.random(1500), draws.random(1500) < 0.5)
    assert len(bins.num_rows) == 15
    assert set(bins.num_rows) == {100}


def test_calibration_error_does_not_depend_on_the_order_of_rows():
    draws = np.random.default_rng(0)
    sure, right = np.round(draws.random(200), 1), draws.random(200) < 0.7
    order = draws.permutation(200)
    once, again = expected_calibration_error(sure, right), expected_calibration_error(sure[order], right[order])
    assert once == pytest.approx(again, abs=1e-12)


def test_right_probabilities_have_hardly_any_calibration_error():
    p, y = calibrated_world()
    assert expected_calibration_error(p.max(axis=1), p.argmax(axis=1) == y) < 0.01


@pytest.mark.parametrize(("num_rows", "beta"), [(600, (8, 2)), (600, (50, 1)), (3000, (8, 2)), (7, (2, 2))])
def test_confidences_that_are_all_true_show_the_error_that_was_foretold(num_rows, beta):
    draws = np.random.default_rng(0)
    sure = draws.beta(*beta, num_rows)
    seen = [expected_calibration_error(sure, draws.random(num_rows) < sure) for _ in range(300)]
    assert expected_error_if_calibrated(sure) == pytest.approx(np.mean(seen), rel=0.03, abs=3 * np.std(seen) / 300**0.5)


def test_nothing_is_foretold_of_confidences_that_leave_no_doubt():
    assert expected_error_if_calibrated(np.ones(50)) == pytest.approx(0.0, abs=1e-9)
    assert expected_error_if_calibrated(np.full(1, 0.5)) == pytest.approx(0.5)


@pytest.mark.parametrize("planted", [0.5, 1.0, 2.5])
def test_a_planted_temperature_is_found(planted):
    p, y = calibrated_world()
    distorted = p**planted
    distorted /= distorted.sum(axis=1, keepdims=True)
    assert fit_temperature(CLASSES, y, distorted) == pytest.approx(planted, rel=0.05)


def test_a_planted_temperature_is_found_for_labels():
    draws = np.random.default_rng(1)
    z = draws.normal(size=(20_000, 2)) * 1.5
    y = (draws.random(z.shape) < 1 / (1 + np.exp(-z))).astype(np.float32)
    assert fit_temperature(LABELS, y, 1 / (1 + np.exp(-2 * z))) == pytest.approx(2.0, rel=0.05)


def test_the_temperature_minimises_the_loss():
    p, y = calibrated_world(500)
    sharp = p**3 / (p**3).sum(axis=1, keepdims=True)
    best = fit_temperature(CLASSES, y, sharp)
    at = {t: loss(CLASSES, y, apply_temperature(CLASSES, sharp, t)).mean() for t in (best * 0.97, best, best * 1.03)}
    assert min(at, key=lambda t: at[t]) == best


def test_the_temperature_stays_within_its_bounds():
    p = np.tile([[0.98, 0.01, 0.01]], (40, 1))
    assert fit_temperature(CLASSES, np.ones(40, np.int64), p) == 4.0
    assert fit_temperature(CLASSES, np.zeros(40, np.int64), p) == 0.25


def test_no_rows_and_regression_leave_the_temperature_at_one():
    assert fit_temperature(CLASSES, np.zeros(0, np.int64), np.zeros((0, 3))) == 1.0
    assert fit_temperature(VALUES, np.zeros((3, 1)), np.ones((3, 1))) == 1.0


def test_a_temperature_keeps_the_order_of_classes_and_the_sum():
    p, _ = calibrated_world(100)
    for temperature in (0.25, 1.0, 4.0):
        cooled = apply_temperature(CLASSES, p, temperature)
        assert (cooled.argmax(axis=1) == p.argmax(axis=1)).all()
        assert cooled.sum(axis=1) == pytest.approx(np.ones(100))
    assert apply_temperature(CLASSES, p, 1.0) == pytest.approx(p, abs=1e-5)


def test_every_row_may_have_a_temperature_of_its_own():
    p, _ = calibrated_world(3)
    each = apply_temperature(CLASSES, p, np.array([0.5, 1.0, 3.0]))
    assert each == pytest.approx(
        np.concatenate([apply_temperature(CLASSES, p[i : i + 1], t) for i, t in enumerate([0.5, 1.0, 3.0])])
    )
    labels = apply_temperature(LABELS, p[:, :2], np.array([0.5, 1.0, 3.0]))
    assert labels[2] == pytest.approx(apply_temperature(LABELS, p[2:, :2], 3.0)[0])


def test_a_class_that_was_ruled_out_is_given_a_little():
    assert apply_temperature(CLASSES, np.array([[1.0, 0.0, 0.0]]), 1.0).min() > 0
    certain = apply_temperature(LABELS, np.array([[1.0, 0.0]]), 1.0)
    assert 0 < certain[0, 1] < certain[0, 0] < 1


def test_confidence_is_the_greatest_probability_or_the_share_explained():
    assert confidence(CLASSES, np.array([[0.2, 0.7, 0.1]])) == pytest.approx([0.7])
    assert confidence(LABELS, np.array([[0.2, 0.9]])) == pytest.approx([0.85])
    assert confidence(VALUES, np.zeros((2, 1)), 0.4) == pytest.approx([0.4, 0.4])
    assert confidence(VALUES, np.zeros((1, 1)), -3.0) == pytest.approx([0.0])
