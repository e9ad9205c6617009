import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from training_core.evaluation.calibration import apply_temperature, fit_temperature
from training_core.evaluation.metrics import loss
from training_core.schema import TaskSpec
from training_core.selection.temperatures import learner_temperatures, shrunk_temperature

CLASSES = TaskSpec.classification("abc")
LABELS = TaskSpec.multilabel(["x", "y"])


def told(num_rows, sharpness, seed=0):
    """Classes drawn from known probabilities, and those probabilities told too sharply."""
    draws = np.random.default_rng(seed)
    p = draws.dirichlet(np.ones(3), num_rows)
    target = (draws.random(num_rows)[:, None] > p.cumsum(axis=1)).sum(axis=1)
    return target, p**sharpness / (p**sharpness).sum(axis=1, keepdims=True)


@pytest.mark.parametrize("strength", [0.5, 10.0, 200.0])
def test_it_minimises_the_stated_objective(strength):
    target, p = told(150, 2.5)

    def objective(log_temperature):
        cost = loss(CLASSES, target, apply_temperature(CLASSES, p, float(np.exp(log_temperature)))).sum()
        return cost + strength / 2 * (log_temperature - np.log(1.3)) ** 2

    best = minimize_scalar(objective, bounds=(-1.3, 1.3), method="bounded", options={"xatol": 1e-7}).x
    found = shrunk_temperature(CLASSES, target, p, 1.3, strength)
    assert np.log(found) == pytest.approx(best, abs=1e-4)


def test_without_a_pull_it_is_the_plain_temperature():
    target, p = told(900, 2.0)
    assert shrunk_temperature(CLASSES, target, p, 1.0, 0.0) == pytest.approx(
        fit_temperature(CLASSES, target, p), rel=1e-4
    )


def test_labels_count_as_one_row_together():
    draws = np.random.default_rng(1)
    logits = draws.normal(size=(80, 2)) * 2
    target = (draws.random((80, 2)) < 1 / (1 + np.exp(-logits / 2))).astype(np.float32)
    p = 1 / (1 + np.exp(-logits))
    once = shrunk_temperature(LABELS, target, p, 1.0, 5.0)
    doubled = shrunk_temperature(TaskSpec.multilabel("wxyz"), np.tile(target, (1, 2)), np.tile(p, (1, 2)), 1.0, 5.0)
    assert 1.2 < once == pytest.approx(doubled, rel=1e-6)


def test_more_rows_than_are_looked_at_count_in_full():
    target, p = told(500, 2.5)
    many = shrunk_temperature(CLASSES, np.tile(target, 8), np.tile(p, (8, 1)), 1.0, 400.0)
    assert many == pytest.approx(shrunk_temperature(CLASSES, target, p, 1.0, 50.0), rel=0.02)


def test_few_rows_move_a_set_little_from_the_temperature_of_all_modalities():
    target, p = told(1000, 2.0)
    sharper = p**1.5 / (p**1.5).sum(axis=1, keepdims=True)
    few = np.where(np.arange(1000)[:, None] < 5, sharper, np.nan)
    nothing = np.full_like(p, np.nan)
    found = learner_temperatures(CLASSES, target, {"a": few, "b": nothing, "c": sharper, "a+b+c": p}, "a+b+c", 100.0)
    assert 1.5 < found["a+b+c"] < 2.0
    assert found["b"] == found["a+b+c"]
    assert found["c"] > 1.25 * found["a+b+c"]
    assert abs(np.log(found["a"] / found["a+b+c"])) < 0.3 * np.log(found["c"] / found["a+b+c"])


def test_extremes_stay_within_bounds_and_regression_has_none():
    wrong = np.tile([[0.98, 0.01, 0.01]], (40, 1))
    assert shrunk_temperature(CLASSES, np.ones(40, int), wrong, 1.0, 0.0) == 4.0
    assert shrunk_temperature(CLASSES, np.zeros(40, int), wrong, 1.0, 0.0) == 0.25
    assert shrunk_temperature(TaskSpec.regression(), np.zeros((3, 1)), np.ones((3, 1)), 2.0, 1.0) == 1.0
    assert shrunk_temperature(CLASSES, np.zeros(0, int), np.zeros((0, 3)), 1.7, 1.0) == 1.7
