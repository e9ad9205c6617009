import numpy as np
import pytest
from scipy.optimize import minimize

from training_core.evaluation.calibration import expected_calibration_error
from training_core.evaluation.metrics import loss
from training_core.schema import TaskSpec
from training_core.selection.answering import calibrated_values, with_promise
from training_core.selection.combination import CombinationConfig, combine_pattern
from training_core.selection.evidence import Evidence
from training_core.selection.pooling import pool
from training_core.selection.stacking import Stacker, apply_stacker, fit_stacker, stretch_beside

CLASSES = TaskSpec.classification("abc")
LABELS = TaskSpec.multilabel(["x", "y"])
VALUES = TaskSpec.regression(["u", "v"])


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def errs_alike(num_rows, seed=0):
    """Two learners that share an error which the second has twice as much of: only a negative weight cancels it."""
    draws = np.random.default_rng(seed)
    target = draws.integers(0, 3, num_rows)
    truth, shared = 1.5 * np.eye(3)[target], draws.normal(size=(num_rows, 3)) * 1.5
    own = draws.normal(size=(2, num_rows, 3)) * 0.3
    return target, softmax(np.stack([truth + shared, truth * 0.3 + 2 * shared]) + own)


def stack(task, target, predictions, strength=1.0):
    weights = np.full(len(predictions), 1 / len(predictions))
    pooled = pool(predictions, weights).values
    names = tuple("ab"[: len(predictions)])
    found = fit_stacker(task, target, pooled, predictions, weights, names, strength, 0)
    return None if found is None else found[0], (pooled, predictions, weights, names)


def test_what_convex_weights_cannot_do_is_found_and_holds_on_fresh_rows():
    found, _ = stack(CLASSES, *errs_alike(600))
    assert found is not None and found.gain > 0.05
    assert found.coefficients["a"] > 0 > found.coefficients["b"]
    target, fresh = errs_alike(4000, 1)
    weights, names = np.full(2, 0.5), ("a", "b")
    pooled = pool(fresh, weights).values
    corrected = apply_stacker(CLASSES, found, pooled, fresh, weights, names)
    assert corrected.sum(axis=1) == pytest.approx(np.ones(4000))
    gain = loss(CLASSES, target, pooled).mean() - loss(CLASSES, target, corrected).mean()
    assert gain == pytest.approx(found.gain, rel=0.4)


@pytest.mark.parametrize("seed", range(6))
def test_a_pool_that_cannot_be_improved_is_left_alone(seed):
    """Independent learners of equal skill: whatever a stacker finds is noise."""
    draws = np.random.default_rng(seed)
    p = draws.dirichlet(np.ones(3), 300)
    target = (draws.random(300)[:, None] > p.cumsum(axis=1)).sum(axis=1)
    found, _ = stack(CLASSES, target, np.stack([p, p]), 10.0)
    assert found is None


def test_no_correction_is_the_pool_itself():
    target, predictions = errs_alike(50)
    _, (pooled, *rest) = stack(CLASSES, target, predictions)
    nothing = Stacker(coefficients={}, bias=(0.0, 0.0, 0.0), gain=0.0)
    assert apply_stacker(CLASSES, nothing, pooled, *rest) == pytest.approx(pooled, abs=1e-6)


def test_a_learner_that_does_not_speak_takes_no_part():
    target, predictions = errs_alike(600)
    found, (_, _, weights, names) = stack(CLASSES, target, predictions)
    assert found is not None
    silent = predictions.copy()
    silent[1] = np.nan
    pooled = pool(silent, weights).values
    alone = apply_stacker(CLASSES, found.model_copy(update={"bias": (0.0,) * 3}), pooled, silent, weights, names)
    assert alone == pytest.approx(predictions[0], abs=1e-5)


@pytest.mark.parametrize("task", [CLASSES, LABELS], ids=lambda task: task.kind)
def test_no_other_coefficients_are_better_by_the_stated_objective(task):
    target, predictions = errs_alike(400)
    if task is LABELS:
        target, predictions = np.eye(3)[target][:, :2], predictions[:, :, :2]
    found, (pooled, _, weights, names) = stack(task, target, predictions, 3.0)
    assert found is not None

    def objective(free):
        tried = Stacker(coefficients={"a": free[0], "b": free[1]}, bias=tuple(free[2:]), gain=0.0)
        return (
            loss(task, target, apply_stacker(task, tried, pooled, predictions, weights, names)).sum()
            + 1.5 * free @ free
        )

    at = np.array([found.coefficients["a"], found.coefficients["b"], *found.bias])
    assert minimize(objective, at, method="Nelder-Mead").fun == pytest.approx(objective(at), abs=1e-3)


def test_regression_agrees_with_least_squares():
    draws = np.random.default_rng(2)
    target = draws.normal(size=(400, 2)) * [1.0, 100.0]
    shared = draws.normal(size=(400, 2)) * [1.0, 100.0]
    noise = draws.normal(size=(2, 400, 2)) * [0.1, 10.0]
    predictions = np.stack([target + shared, target + 2 * shared]) + noise + [0.5, 50.0]
    found, (pooled, _, weights, names) = stack(VALUES, target, predictions, 1e-6)
    assert found is not None
    corrected = apply_stacker(VALUES, found, pooled, predictions, weights, names)
    scale = target.std(axis=0)
    steps = [((0.5 * (p - pooled)) / scale).ravel() for p in predictions]
    ones = [np.tile(unit, 400) for unit in np.eye(2)]
    design, residual = np.column_stack([*steps, *ones]), ((target - pooled) / scale).ravel()
    best = design @ np.linalg.lstsq(design, residual, rcond=None)[0]
    assert ((corrected - pooled) / scale).ravel() == pytest.approx(best, abs=1e-3)
    assert np.abs(corrected - target).mean() < 0.3 * np.abs(pooled - target).mean()


def test_labels_are_corrected_one_by_one():
    draws = np.random.default_rng(3)
    truth = draws.random((800, 2)) < 0.5
    odds = np.where(truth, 1.0, -1.0) + draws.normal(size=(800, 2)) + [2.0, -2.0]  # off by a constant
    p = np.stack([1 / (1 + np.exp(-odds))] * 2)
    found, (pooled, *rest) = stack(LABELS, truth.astype(np.float32), p)
    assert found is not None and found.bias[0] < -0.5 and found.bias[1] > 0.5
    corrected = apply_stacker(LABELS, found, pooled, *rest)
    assert ((corrected > 0) & (corrected < 1)).all()
    assert loss(LABELS, truth, corrected).mean() < loss(LABELS, truth, pooled).mean() - 0.05


def test_too_few_rows_are_not_stacked():
    target, predictions = errs_alike(90)
    assert stack(CLASSES, target, predictions)[0] is None


def faint(num_rows, seed):
    """Answers a third as strong as they should be, and too low; half of the rows hardly tell anything."""
    draws = np.random.default_rng(seed)
    silent = draws.random(num_rows) < 0.5
    odds = np.where(silent, -0.3, draws.normal(size=num_rows) * 1.5)
    target = (draws.random(num_rows) < 1 / (1 + np.exp(-odds))).astype(np.int64)
    said = 1 / (1 + np.exp(0.5 - odds / 3))
    return target, np.stack([1 - said, said], axis=1)[None]


def test_a_temperature_is_found_beside_the_bias_where_alone_it_cannot_help():
    task, weights, config = TaskSpec.classification("ab"), np.ones(1), CombinationConfig()
    target, predictions = faint(3000, 0)
    names, rows = ("a",), np.arange(len(target))
    learned = combine_pattern(task, target, predictions, names, config, 0, ("x",))
    promised = with_promise(task, learned, Evidence(rows, target, predictions, names, names), config, 0)
    assert promised.stacker is not None
    assert promised.temperature < 0.7 * learned.temperature
    target, fresh = faint(20_000, 1)
    plain = calibrated_values(task, learned, pool(fresh, weights), fresh, weights, names)
    found = calibrated_values(task, promised, pool(fresh, weights), fresh, weights, names)
    assert loss(task, target, found).mean() < loss(task, target, plain).mean() - 0.02
    error = [expected_calibration_error(p.max(axis=1), p.argmax(axis=1) == target) for p in (plain, found)]
    assert error[1] < 0.5 * error[0]


@pytest.mark.parametrize("task", [CLASSES, LABELS], ids=lambda task: task.kind)
def test_the_stretch_is_by_how_much_the_pool_was_flattened(task):
    draws = np.random.default_rng(0)
    scores = draws.normal(size=(4000, task.num_outputs)) * 2
    if task.kind == "classification":
        truth, flat = softmax(scores), softmax(scores / 2)
        target = (draws.random(4000)[:, None] > truth.cumsum(axis=1)).sum(axis=1)
    else:
        truth, flat = 1 / (1 + np.exp(-scores)), 1 / (1 + np.exp(-scores / 2))
        target = (draws.random(truth.shape) < truth).astype(np.float32)
    assert stretch_beside(task, target, flat, flat[None], np.ones(1), 1.0) == pytest.approx(2.0, rel=0.1)
    assert stretch_beside(task, target, truth, truth[None], np.ones(1), 1.0) == pytest.approx(1.0, abs=0.1)
    nothing = np.full_like(flat, 1 / task.num_outputs if task.kind == "classification" else 0.5)
    assert stretch_beside(task, target, nothing, nothing[None], np.ones(1), 1.0) == 1.0
    assert stretch_beside(VALUES, scores[:, :2], scores[:, :2], scores[None, :, :2], np.ones(1), 1.0) == 1.0
