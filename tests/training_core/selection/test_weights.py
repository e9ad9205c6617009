import numpy as np
import pytest

from training_core.schema import TaskSpec
from training_core.selection.combination import (
    CombinationConfig,
    best_single,
    combine_pattern,
    drawn_rows,
    select_weights,
)
from training_core.selection.greedy import greedy_weights
from training_core.selection.pooling import pool
from training_core.selection.stacking import fit_stacker
from training_core.selection.units import units_of
from training_core.selection.weighting import likelihood_weights

CLASSES = TaskSpec.classification("abc")
LABELS = TaskSpec.multilabel(["x", "y"])
VALUES = TaskSpec.regression()
METHODS = ["likelihood", "greedy"]


def hide(predictions, share, seed):
    """Leave each learner out of bag on a `share` of the rows."""
    return np.where(np.random.default_rng(seed).random(predictions.shape[:2])[..., None] < share, predictions, np.nan)


def world(skills, num_rows=600, num_classes=3, out_of_bag=0.3, seed=0):
    """Classifiers that know the truth as well as their skill; the higher the better, 0 knows nothing."""
    draws = np.random.default_rng(seed)
    target = draws.integers(0, num_classes, num_rows)
    logits = draws.normal(size=(len(skills), num_rows, num_classes))
    logits += np.array(skills)[:, None, None] * np.eye(num_classes)[target]
    p = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    return hide(p, out_of_bag, seed + 1), target


def regression_world(noises, num_rows=600, out_of_bag=0.3, seed=0):
    """Regressors whose errors are independent and as large as their noise."""
    draws = np.random.default_rng(seed)
    target = draws.normal(size=(num_rows, 1)) * 10
    p = target + draws.normal(size=(len(noises), num_rows, 1)) * np.array(noises)[:, None, None]
    return hide(p, out_of_bag, seed + 1), target


@pytest.mark.parametrize("method", METHODS)
def test_weights_are_a_convex_combination(method):
    for task, (predictions, target) in [(CLASSES, world([2, 1, 0, 1])), (VALUES, regression_world([1, 5, 9, 2]))]:
        weights = select_weights(task, target, predictions, CombinationConfig(method=method), seed=0)
        assert (weights >= 0).all()
        assert weights.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("method", METHODS)
def test_a_perfect_learner_gets_nearly_everything(method):
    predictions, target = world([0, 0, 0, 0, 0])
    predictions[3] = np.where(np.isnan(predictions[3]), np.nan, np.eye(3)[target] * 0.997 + 0.001)
    config = CombinationConfig(method=method, evenness=0, selection_bags=0)
    assert select_weights(CLASSES, target, predictions, config, seed=0)[3] > 0.9


@pytest.mark.parametrize("method", METHODS)
def test_a_useless_learner_gets_hardly_anything(method):
    predictions, target = world([3, 3, 0, 3], num_rows=2000)
    config = CombinationConfig(method=method, selection_bags=0)
    weights = select_weights(CLASSES, target, predictions, config, seed=0)
    assert weights[2] < 0.05


def test_regression_weights_approach_the_inverse_of_the_variance():
    predictions, target = regression_world([1.0, 2.0], num_rows=20_000, out_of_bag=1.0)
    weights = likelihood_weights(VALUES, target, predictions, evenness=1.0, dropped_below=0.0)
    assert weights == pytest.approx([0.8, 0.2], abs=0.02)  # 1 : 1/4


def test_the_unit_of_a_target_changes_no_weight():
    predictions, target = regression_world([1.0, 2.0, 4.0])
    once = likelihood_weights(VALUES, target, predictions, evenness=10.0, dropped_below=0.0)
    again = likelihood_weights(VALUES, target * 1e3, predictions * 1e3, evenness=10.0, dropped_below=0.0)
    assert again == pytest.approx(once, abs=1e-4)


def test_few_rows_leave_the_weights_nearly_equal():
    predictions, target = world([3, 2, 1, 0], num_rows=6, out_of_bag=0.8)
    config = CombinationConfig(evenness=100)
    weights = select_weights(CLASSES, target, predictions, config, seed=0)
    assert weights == pytest.approx(np.full(4, 0.25), abs=0.06)


@pytest.mark.parametrize("task", [CLASSES, LABELS, VALUES], ids=lambda task: task.kind)
def test_no_nearby_weights_are_more_likely(task):
    """The gradient is right: the optimum of the stated objective beats every small step away from it."""
    draws = np.random.default_rng(3)
    if task.kind == "classification":
        predictions, target = world([2, 1, 1, 0], num_rows=400)
    elif task.kind == "regression":
        predictions, target = regression_world([1, 2, 3, 4], num_rows=400)
    else:
        target = draws.integers(0, 2, (400, 2)).astype(np.float32)
        skill = np.array([2, 1, 1, 0])[:, None, None]
        predictions = hide(1 / (1 + np.exp(-draws.normal(size=(4, 400, 2)) - skill * (target - 0.5))), 0.4, 1)
    weights = likelihood_weights(task, target, predictions, evenness=5.0, dropped_below=0.0)

    from training_core.evaluation.calibration import apply_temperature, fit_temperature
    from training_core.evaluation.metrics import loss

    spoken = np.isfinite(predictions).all(axis=2)
    rows = spoken.any(axis=0)
    plain = pool(predictions, np.ones(4)).values[rows]
    scale = 2 * np.mean((plain - target[rows]) ** 2) if task.kind == "regression" else 1.0

    def objective(w):
        mixed = pool(predictions, w).values[rows]
        if task.kind != "regression":
            mixed = apply_temperature(task, mixed, fit_temperature(task, target[rows], mixed))
        value = loss(task, target[rows], mixed).mean() / scale
        return value - 5.0 / rows.sum() * np.mean(np.log(4 * w))

    best = objective(weights)
    for _ in range(40):
        step = weights * np.exp(draws.normal(size=4) * 0.05)
        assert objective(step / step.sum()) > best - 1e-6


def test_greedy_takes_only_the_best_when_the_others_add_nothing():
    target = np.array([0, 1, 2, 0])
    truth = np.eye(3)[target] * 0.97 + 0.01
    predictions = np.stack([np.full((4, 3), 1 / 3), truth])
    assert greedy_weights(CLASSES, target, predictions, 20, 0, 0).tolist() == [0.0, 1.0]


def test_greedy_scores_rows_nobody_chosen_speaks_for_by_the_plain_mean():
    """Learner 0 is right on the easy half, learner 1 wrong on the hard half: each must be judged on all rows."""
    target = np.zeros(4, np.int64)
    good, bad = [0.8, 0.1, 0.1], [0.1, 0.8, 0.1]
    gone = [np.nan] * 3
    predictions = np.array([[good, good, gone, gone], [bad, bad, gone, gone], [gone, gone, bad, bad]])
    weights = greedy_weights(CLASSES, target, predictions, 10, 0, 0)
    # learner 2 alone speaks for the last rows: choosing it or not changes nothing there, and it costs nothing
    assert weights[0] == pytest.approx(1.0)


def test_bagged_selection_draws_the_same_halves_for_the_same_seed():
    predictions, target = world([1, 1, 1, 1, 1, 1], num_rows=200)
    once = greedy_weights(CLASSES, target, predictions, 20, 6, seed=1)
    assert np.array_equal(once, greedy_weights(CLASSES, target, predictions, 20, 6, seed=1))
    assert not np.array_equal(once, greedy_weights(CLASSES, target, predictions, 20, 6, seed=2))


def test_learners_are_compared_on_the_rows_they_share_with_the_rest():
    """Learner 0 is out of bag on easy rows and looks good; relative to others on the same rows it is the worse one."""
    easy, hard = np.tile([0.9, 0.05, 0.05], (50, 1)), np.tile([0.5, 0.25, 0.25], (50, 1))
    gone = np.full((50, 3), np.nan)
    predictions = np.stack(
        [
            np.concatenate([np.tile([0.85, 0.075, 0.075], (50, 1)), gone]),
            np.concatenate([gone, np.tile([0.6, 0.2, 0.2], (50, 1))]),
            np.concatenate([easy, hard]),
        ]
    )
    draws = np.random.default_rng(0)
    target = np.concatenate([draws.choice(3, 50, p=[0.9, 0.05, 0.05]), draws.choice(3, 50, p=[0.6, 0.2, 0.2])])
    assert best_single(CLASSES, target, predictions).index != 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(4))
def test_the_combination_is_never_worse_than_the_best_single_learner_beyond_noise(method, seed):
    skills = np.random.default_rng(seed).uniform(0, 3, 8)
    predictions, target = world(skills, num_rows=150, seed=seed)
    found = combine_pattern(CLASSES, target, predictions, tuple("abcdefgh"), CombinationConfig(method=method), seed)
    assert found.loss is not None and found.best_single_loss is not None
    assert found.loss <= found.best_single_loss + 0.1
    if found.single_shipped:
        assert found.weights == {found.best_single: 1.0}


def test_the_single_learner_is_shipped_when_mixing_only_hurts():
    """One learner is nearly perfect, a forced even mixture with poor ones is far from it."""
    predictions, target = world([0.7] * 6, num_rows=800, out_of_bag=1.0)
    predictions[2] = np.eye(3)[target] * 0.97 + 0.01
    config = CombinationConfig(evenness=1e6)
    found = combine_pattern(CLASSES, target, predictions, tuple("abcdef"), config, 0)
    assert found.single_shipped
    assert found.weights == {"c": 1.0}


def test_a_learner_that_is_right_on_all_of_few_rows_is_not_shipped_for_that():
    """Calibrated on eighty rows without a mistake it looks infinitely sure; the mixture, wrong on two, does not."""
    predictions, target = world([3.0] * 6, num_rows=80, out_of_bag=1.0)
    perfect = np.full((80, 3), 0.1)
    perfect[np.arange(80), target] = 0.8
    predictions[0] = perfect
    predictions[1:, :2] = 0.98 * np.eye(3)[(target[:2] + 1) % 3] + 0.02 / 3
    found = combine_pattern(CLASSES, target, predictions, tuple("abcdef"), CombinationConfig(evenness=1e3), 0)
    assert found.best_single == "a" and found.best_single_loss < 0.01
    assert not found.single_shipped


def test_learners_that_know_nothing_get_no_weight_at_all():
    predictions, target = world([2.0, 0.0, 0.0, 0.0, 1.0], num_rows=900)
    found = combine_pattern(CLASSES, target, predictions, tuple("abcde"), CombinationConfig(evenness=1e6), 0)
    assert found.weights == pytest.approx({"a": 0.5, "e": 0.5}, abs=1e-3)


def test_a_pattern_that_tells_nothing_is_found_out_only_where_it_may_be():
    predictions, target = world([0.0, 0.0, 0.0], num_rows=900)
    given = (CLASSES, target, predictions, tuple("abc"), CombinationConfig(), 0)
    found = combine_pattern(*given, may_be_uninformed=True)
    assert (
        found.uninformed and found.weights == {} and found.num_rows == np.isfinite(predictions).any(axis=(0, 2)).sum()
    )
    assert found.loss == pytest.approx(np.log(3), abs=0.02)
    assert len(combine_pattern(*given).weights) == 3


def test_a_mixture_beats_its_members_on_fresh_rows():
    skills = [1.5, 1.2, 1.0, 0.8, 0.2, 0.0]
    predictions, target = world(skills, num_rows=500, out_of_bag=0.25)
    found = combine_pattern(CLASSES, target, predictions, tuple("abcdef"), CombinationConfig(), 0)
    fresh, truth = world(skills, num_rows=4000, out_of_bag=1.0, seed=99)
    weights = np.array([found.weights.get(n, 0.0) for n in "abcdef"])
    right = (pool(fresh, weights).values.argmax(axis=1) == truth).mean()
    assert right > max((p.argmax(axis=1) == truth).mean() for p in fresh) + 0.02
    assert right > (pool(fresh, np.ones(6)).values.argmax(axis=1) == truth).mean()


def test_too_few_rows_are_not_used_for_a_temperature():
    predictions, target = world([3, 2], num_rows=40, out_of_bag=1.0)
    assert combine_pattern(CLASSES, target, predictions, ("a", "b"), CombinationConfig(), 0).temperature == 1.0
    predictions, target = world([3, 2], num_rows=400, out_of_bag=1.0)
    assert combine_pattern(CLASSES, target, predictions, ("a", "b"), CombinationConfig(), 0).temperature != 1.0


def test_regression_reports_its_error_and_the_share_explained():
    predictions, target = regression_world([3.0, 3.0, 3.0, 3.0], num_rows=4000, out_of_bag=1.0)
    found = combine_pattern(VALUES, target, predictions, tuple("abcd"), CombinationConfig(), 0)
    assert found.error_std == pytest.approx([1.5], rel=0.05)  # 3 / sqrt(4)
    assert found.explained == pytest.approx(1 - 1.5**2 / 100, abs=0.01)


def test_learners_that_never_speak_get_no_weight():
    predictions, target = world([1, 1, 1])
    predictions[1] = np.nan
    found = combine_pattern(CLASSES, target, predictions, ("a", "b", "c"), CombinationConfig(), 0)
    assert "b" not in found.weights
    assert combine_pattern(CLASSES, target, predictions * np.nan, ("a", "b", "c"), CombinationConfig(), 0).weights == {}


def test_many_rows_are_thinned_out_by_the_seed():
    rows, config = np.arange(100_000), CombinationConfig()
    drawn = drawn_rows(rows, 100_000, 10, 10, config, seed=0)
    assert len(drawn) == len(np.unique(drawn)) == 5000
    assert np.array_equal(drawn, drawn_rows(rows, 100_000, 10, 10, config, seed=0))
    assert len(drawn_rows(rows, 100_000, 100, 1000, config, seed=0)) == 500
    assert np.array_equal(drawn_rows(rows[:5000], 100_000, 10, 10, config, seed=0), rows[:5000])
    most = rows[np.random.default_rng(1).random(100_000) < 0.9]
    assert np.isin(drawn_rows(most, 100_000, 10, 10, config, seed=0), drawn).mean() > 0.85  # patterns can be compared


def test_rows_of_a_group_are_one_piece_of_evidence():
    """A correction by learners that know nothing: ten rows alike look like ten times the evidence, groups do not."""
    task, names, equal = TaskSpec.classification("ab"), ("a", "b", "c", "d"), np.full(4, 0.25)
    by_rows, by_groups, informed = 0, 0, 0
    for seed in range(12):
        random = np.random.default_rng(seed)
        target = np.repeat(random.integers(0, 2, 60), 10)
        sure = np.repeat(np.clip(0.5 + 0.1 * random.normal(size=(4, 60)), 0.02, 0.98), 10, axis=1)
        said = np.stack([1 - sure, sure], axis=2)
        units = units_of(np.repeat(np.arange(60), 10), None)
        pooled = said.mean(axis=0)
        by_rows += fit_stacker(task, target, pooled, said, equal, names, 10.0, 0) is not None
        by_groups += fit_stacker(task, target, pooled, said, equal, names, 10.0, 0, units=units) is not None
        found = combine_pattern(task, target, said, names, CombinationConfig(), 0, ("m",), True, units=units)
        informed += not found.uninformed
    assert by_rows >= 6
    assert by_groups <= 1 and informed == 0
