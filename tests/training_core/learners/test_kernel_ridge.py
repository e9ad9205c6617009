"""Kernel ridge regression: its closed forms against fits that really leave rows out, and against scikit-learn."""

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_digits
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from training_core.learners.kernel_ridge import (
    PENALTIES,
    SHARPNESSES,
    KernelRidgeConfig,
    KernelRidgeEstimator,
    _choose,
    _loss,
    groups_left_out,
    left_out,
    members_of,
)
from training_core.schema import DataSpec, ModalitySpec, Samples, TaskKind, TaskSpec


def samples_of(values: np.ndarray, target: np.ndarray, groups: np.ndarray | None = None) -> Samples:
    ids = np.arange(len(values)).astype(str)
    return Samples({"x": values}, {"x": np.ones(len(values), dtype=bool)}, ids, target, groups)


def spec_of(num_columns: int, task: TaskSpec) -> DataSpec:
    return DataSpec(modalities=(ModalitySpec(name="x", kind="vector", shape=(num_columns,)),), task=task)


def fitted(values: np.ndarray, target: np.ndarray, task: TaskSpec, **settings: int) -> KernelRidgeEstimator:
    estimator = KernelRidgeConfig(**settings).build(spec_of(values.shape[1], task), 0)
    return estimator.fit(samples_of(values, target))


@pytest.mark.parametrize("group_size", [1, 3])
def test_left_out_rows_are_answered_as_by_a_fit_without_them(group_size: int) -> None:
    rng = np.random.default_rng(0)
    values, goal = rng.normal(size=(24, 3)), rng.normal(size=(24, 2))
    distance = ((values[:, None] - values[None]) ** 2).sum(axis=2)
    kernel, penalty = np.exp(-0.3 * distance), 0.2
    inverse = np.linalg.inv(kernel + penalty * np.eye(24))
    groups = rng.permutation(np.arange(24) // group_size)
    members = members_of(groups)
    blocks = [inverse[np.ix_(rows, rows)] for rows in members]
    said = groups_left_out(goal, inverse @ goal, blocks, members)
    if group_size == 1:
        np.testing.assert_allclose(left_out(goal, inverse @ goal, np.diag(inverse)), said, rtol=1e-9)
    for group in np.unique(groups):
        inside, outside = np.flatnonzero(groups != group), np.flatnonzero(groups == group)
        own = kernel[np.ix_(inside, inside)] + penalty * np.eye(len(inside))
        expected = kernel[np.ix_(outside, inside)] @ np.linalg.solve(own, goal[inside])
        np.testing.assert_allclose(said[outside], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_the_choice_by_groups_is_that_of_the_whole_inverse(kind: TaskKind) -> None:
    rng = np.random.default_rng(5)
    values, weight = rng.normal(size=(60, 3)), rng.integers(1, 4, 60).astype(float)
    label = (values[:, 0] + 0.5 * rng.normal(size=60) > 0).astype(int)
    goal = np.eye(2)[label] - 0.5 if kind == "classification" else np.sin(values[:, :2]) + rng.normal(size=(60, 2))
    groups = rng.permutation(np.repeat(["a", "b", "c", "d", "e"], [30, 15, 9, 5, 1])).astype(object)
    distance = ((values[:, None] - values[None]) ** 2).sum(axis=2)
    tried = []
    for penalty in PENALTIES:
        said = np.empty_like(goal)
        inverse = np.linalg.inv(np.exp(-0.3 * distance) + penalty * np.diag(1 / weight))
        for group in np.unique(groups):
            rows = np.flatnonzero(groups == group)
            said[rows] = goal[rows] - np.linalg.solve(inverse[np.ix_(rows, rows)], (inverse @ goal)[rows])
        sharpnesses = SHARPNESSES if kind == "classification" else (1.0,)
        tried += [(_loss(kind, factor * said, goal, weight), penalty, factor) for factor in sharpnesses]
    found = _choose(kind, distance, 0.3, goal, weight, groups)
    assert (found.penalty, found.sharpness) == min(tried)[1:]
    assert found.loss == pytest.approx(min(tried)[0], rel=1e-8)


def test_values_are_those_of_scikit_learn_for_the_same_kernel_and_penalty() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(80, 4))
    target = np.sin(values[:, :1]) + 0.1 * rng.normal(size=(80, 1))
    estimator = fitted(values, target, TaskSpec.regression(("y",)))
    scaled = (values * estimator.scale).astype(np.float32)
    # What the search found is not kept; the penalty shows in the weights: (K + penalty) weights = target.
    kernel = np.exp(-estimator.width * ((scaled[:, None] - scaled[None]) ** 2).sum(axis=2, dtype=np.float64))
    rest = target - target.mean() - kernel @ estimator.weights
    penalty = float(np.median(rest / estimator.weights))
    reference = KernelRidge(alpha=penalty, kernel="rbf", gamma=estimator.width).fit(scaled, target - target.mean())
    ours = estimator.predict(samples_of(values[:9] + 0.3, target[:9]))
    theirs = reference.predict(((values[:9] + 0.3) * estimator.scale).astype(np.float32)) + target.mean()
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_a_row_met_twice_counts_as_two() -> None:
    rng = np.random.default_rng(2)
    values, target = rng.normal(size=(40, 3)), rng.integers(0, 3, 40)
    twice = np.r_[np.arange(40), np.arange(10)]
    weight = np.r_[np.full(10, 2.0), np.ones(30)]
    task = TaskSpec.classification(("a", "b", "c"))
    repeated = KernelRidgeConfig().build(spec_of(3, task), 0).fit(samples_of(values, target).take(twice))
    weighted = KernelRidgeConfig().build(spec_of(3, task), 0).fit(samples_of(values, target), weight)
    new = samples_of(rng.normal(size=(7, 3)), np.zeros(7, dtype=int))
    np.testing.assert_allclose(repeated.predict(new), weighted.predict(new), atol=1e-6)


def test_digits_are_told_apart_better_than_by_a_linear_model() -> None:
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    train, test = order[:600], order[600:]
    values = StandardScaler().fit(digits.data[train]).transform(digits.data)
    estimator = fitted(values[train], digits.target[train], TaskSpec.classification(tuple("0123456789")))
    said = estimator.predict(samples_of(values[test], digits.target[test]))
    assert (said.argmax(axis=1) == digits.target[test]).mean() > 0.965
    loss = -np.log(said[np.arange(len(test)), digits.target[test]]).mean()
    assert loss < 0.13, "its probabilities are honest"


def test_a_straight_line_is_learnt_about_as_well_as_by_ridge_regression() -> None:
    data = load_diabetes()
    values = StandardScaler().fit_transform(data.data)
    target = ((data.target - data.target.mean()) / data.target.std())[:, None]
    train, test = np.arange(0, 300), np.arange(300, 442)
    estimator = fitted(values[train], target[train], TaskSpec.regression(("y",)))
    error = ((estimator.predict(samples_of(values[test], target[test])) - target[test]) ** 2).mean()
    line = make_pipeline(RidgeCV(np.logspace(-2, 3, 20))).fit(values[train], target[train])
    assert error < 1.05 * ((line.predict(values[test]).reshape(-1, 1) - target[test]) ** 2).mean()


def test_columns_of_noise_do_not_drown_the_others() -> None:
    rng = np.random.default_rng(3)
    target = rng.integers(0, 2, 400)
    telling = np.where(target[:, None] == 1, 1.0, -1.0) + 0.7 * rng.normal(size=(400, 2))
    values = np.hstack([telling, rng.normal(size=(400, 60))])
    values = (values - values.mean(axis=0)) / values.std(axis=0)
    estimator = fitted(values[:200], target[:200], TaskSpec.classification(("no", "yes")))
    said = estimator.predict(samples_of(values[200:], target[200:]))
    assert (said.argmax(axis=1) == target[200:]).mean() > 0.95


def test_few_landmarks_answer_nearly_as_all_rows_do() -> None:
    rng = np.random.default_rng(4)
    values = rng.normal(size=(500, 2))
    target = np.sin(2 * values[:, :1]) + values[:, 1:] ** 2
    task, new = TaskSpec.regression(("y",)), samples_of(rng.normal(size=(100, 2)), np.zeros((100, 1)))
    every, few = fitted(values, target, task), fitted(values, target, task, max_landmarks=150)
    assert few.landmarks.shape == (150, 2)
    assert np.corrcoef(every.predict(new)[:, 0], few.predict(new)[:, 0])[0, 1] > 0.999


def test_constant_columns_and_two_rows_are_no_error() -> None:
    said = fitted(np.ones((2, 3)), np.array([0, 1]), TaskSpec.classification(("a", "b"))).predict(
        samples_of(np.ones((1, 3)), np.array([0]))
    )
    np.testing.assert_allclose(said, 0.5)
