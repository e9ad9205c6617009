import math

import numpy as np
import pytest

from training_core.schema import TaskSpec
from training_core.selection.conformal import (
    ConformalRule,
    class_scores,
    conformal_quantile,
    fit_conformal,
    prediction_intervals,
    prediction_sets,
)

CLASSES = TaskSpec.classification("abcd")
LABELS = TaskSpec.multilabel("vwxyz")
VALUES = TaskSpec.regression(["u", "v"])


def classified(num_rows, seed=0, sharpness=1.0):
    """Class codes drawn from known probabilities, told more or less sharply than they are."""
    draws = np.random.default_rng(seed)
    logits = draws.normal(size=(num_rows, 4)) * 1.5
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    target = (draws.random(num_rows)[:, None] > p.cumsum(axis=1)).sum(axis=1)
    told = p**sharpness / (p**sharpness).sum(axis=1, keepdims=True)
    return target, told


def labelled(num_rows, seed=0):
    draws = np.random.default_rng(seed)
    p = 1 / (1 + np.exp(-draws.normal(size=(num_rows, 5)) * 2 + 1))
    return (draws.random(p.shape) < p).astype(np.float32), p


def missed_share(target, sets):
    true = target > 0.5
    rows = true.any(axis=1)
    return ((true & ~sets)[rows].sum(axis=1) / true[rows].sum(axis=1)).mean()


@pytest.mark.parametrize(("num", "coverage", "rank"), [(9, 0.9, 9), (19, 0.9, 18), (99, 0.9, 90), (10, 0.5, 6)])
def test_the_quantile_is_the_right_order_statistic(num, coverage, rank):
    scores = np.random.default_rng(0).permutation(num).astype(float)
    assert conformal_quantile(scores, coverage) == rank - 1


def test_too_few_rows_promise_nothing():
    assert conformal_quantile(np.arange(8.0), 0.9) == math.inf
    assert conformal_quantile(np.zeros(0), 0.5) == math.inf
    few = fit_conformal(CLASSES, np.zeros(3, int), np.full((3, 4), 0.25), 0.9)
    assert prediction_sets(CLASSES, np.full((2, 4), 0.25), few).all()
    none = fit_conformal(LABELS, np.zeros((50, 5)), np.full((50, 5), 0.1), 0.9)
    assert none.num_rows == 0 and none.thresholds == (math.inf,)


def test_the_promise_holds_exactly_on_average_over_draws():
    """Coverage over many draws of 19 calibration rows is 18/20, as the theorem says, not 18/19."""
    draws = np.random.default_rng(1)
    inside = [draws.random() <= conformal_quantile(draws.random(19), 0.9) for _ in range(20_000)]
    assert np.mean(inside) == pytest.approx(0.9, abs=0.007)


@pytest.mark.parametrize("method", ["lac", "aps"])
@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_sets_hold_the_class_as_often_as_promised_however_wrong_the_probabilities(method, sharpness):
    rule = fit_conformal(CLASSES, *classified(4000, 0, sharpness), 0.9, method)
    target, told = classified(8000, 1, sharpness)
    sets = prediction_sets(CLASSES, told, rule)
    assert sets[np.arange(8000), target].mean() == pytest.approx(0.9, abs=0.012)
    assert sets.any(axis=1).all()


def test_least_ambiguous_sets_are_the_smaller_ones():
    calibration, fresh = classified(4000, 0), classified(4000, 1)
    sizes = [
        prediction_sets(CLASSES, fresh[1], fit_conformal(CLASSES, *calibration, 0.9, m)).sum() for m in ("lac", "aps")
    ]
    assert sizes[0] < sizes[1]


def test_scores_of_an_example_worked_by_hand():
    p = np.array([[0.2, 0.5, 0.3]])
    assert class_scores(p, "lac") == pytest.approx(np.array([[0.8, 0.5, 0.7]]))
    assert class_scores(p, "aps") == pytest.approx(np.array([[1.0, 0.5, 0.8]]))
    assert class_scores(np.array([[0.5, 0.5]]), "aps") == pytest.approx(np.array([[0.5, 1.0]]))


def test_the_likeliest_class_is_never_left_out():
    rule = ConformalRule(coverage=0.9, thresholds=(-1.0,))
    assert prediction_sets(CLASSES, np.array([[0.1, 0.2, 0.6, 0.1]]), rule).tolist() == [[False, False, True, False]]
    assert not prediction_sets(LABELS, np.full((1, 5), 0.9), rule).any()
    assert prediction_sets(CLASSES, np.zeros((0, 4)), rule).shape == (0, 4)


def test_many_equal_answers_stay_inside_in_either_precision():
    draws = np.random.default_rng(0)
    answers = np.array([[0.1, 0.2, 0.3, 0.4], [0.15, 0.25, 0.28, 0.32]])[draws.integers(0, 2, 4000)]
    target = (draws.random(4000)[:, None] > answers.cumsum(axis=1)).sum(axis=1)
    rule = fit_conformal(CLASSES, target, answers.astype(np.float32).astype(np.float64), 0.9)
    assert prediction_sets(CLASSES, answers, rule)[np.arange(4000), target].mean() >= 0.9


def test_few_enough_of_the_true_labels_are_missed():
    shares = []
    for seed in range(40):
        rule = fit_conformal(LABELS, *labelled(60, seed), 0.8)
        target, p = labelled(500, 1000 + seed)
        shares.append(missed_share(target, prediction_sets(LABELS, p, rule)))
    assert np.mean(shares) < 0.2
    assert np.mean(shares) > 0.16  # and no more labels than that needs


def test_the_threshold_for_labels_is_the_least_that_keeps_the_promise():
    target, p = labelled(80, 3)
    p = np.round(p, 1)  # many ties
    chosen = fit_conformal(LABELS, target, p, 0.85).thresholds[0]
    num = int((target > 0.5).any(axis=1).sum())

    def promised(threshold):
        rule = ConformalRule(coverage=0.85, thresholds=(threshold,))
        return num / (num + 1) * missed_share(target, prediction_sets(LABELS, p, rule)) + 1 / (num + 1) <= 0.15 + 1e-9

    grid = np.unique(1 - p[target > 0.5])
    assert promised(chosen)
    assert chosen == pytest.approx(next(t for t in grid if promised(t)))


def test_intervals_hold_the_value_as_often_as_promised_and_are_wide_where_it_is_hard():
    def world(seed):
        draws = np.random.default_rng(seed)
        std = np.exp(draws.normal(size=(4000, 2)) * 0.7) * [1.0, 50.0]
        values = draws.normal(size=(4000, 2))
        return values + std * draws.standard_t(4, size=std.shape), values, std

    target, values, std = world(0)
    rule = fit_conformal(VALUES, target, values, 0.9, std=std)
    target, values, std = world(1)
    lower, upper = prediction_intervals(values, std, rule)
    inside = (lower <= target) & (target <= upper)
    assert inside.mean(axis=0) == pytest.approx([0.9, 0.9], abs=0.015)
    hard = std[:, 0] > np.median(std[:, 0])
    assert inside[hard, 0].mean() == pytest.approx(inside[~hard, 0].mean(), abs=0.03)
    plain = fit_conformal(VALUES, *world(0)[:2], 0.9)
    assert plain.thresholds[1] > 20 * plain.thresholds[0]


def test_a_rule_survives_json_even_when_it_promises_nothing():
    rule = ConformalRule(coverage=0.9, thresholds=(math.inf, 1.5))
    assert ConformalRule.model_validate_json(rule.to_json()) == rule
