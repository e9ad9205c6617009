"""What predictions depend on: of a predictor whose dependence is known, and against brute force."""

import math

import numpy as np
import pytest
from scipy import stats

from training_core.errors import DataError
from training_core.evaluation.importance import (
    association,
    feature_importance,
    importance_shares,
    modality_importance,
)
from training_core.schema import ColumnSpec, DataSpec, ModalitySpec, Samples, TaskSpec

TASK = TaskSpec.regression()
SPEC = DataSpec(
    modalities=(
        ModalitySpec(name="a", kind="vector", shape=(2,)),
        ModalitySpec(name="b", kind="tabular", shape=(2,), columns=(ColumnSpec(name="age"), ColumnSpec(name="height"))),
    ),
    task=TASK,
)


def rows(num_rows: int = 4000, seed: int = 0) -> Samples:
    draws = np.random.default_rng(seed)
    inputs = {name: draws.normal(size=(num_rows, 2)) for name in ("a", "b")}
    target = (3 * inputs["a"][:, 0] + inputs["b"][:, 1])[:, None]
    available = {name: np.ones(num_rows, bool) for name in inputs}
    return Samples(inputs, available, np.arange(num_rows).astype(str).astype(object), target, None)


def exact(samples: Samples) -> np.ndarray:
    return (3 * samples.inputs["a"][:, 0] + samples.inputs["b"][:, 1])[:, None]


def test_shuffling_costs_twice_the_variance_it_explained() -> None:
    found = {one.subject: one for one in modality_importance(exact, rows(), TASK, ("a", "b"))}
    for name, expected in (("a", 2 * 9), ("b", 2 * 1)):
        assert found[name].loss_increase == pytest.approx(expected, abs=4 * found[name].std_error)
        assert found[name].is_beyond_noise
    shares = importance_shares(list(found.values()))
    assert shares["a"] == pytest.approx(0.9, abs=0.02)
    assert sum(shares.values()) == pytest.approx(1)


def test_columns_are_named_and_ordered() -> None:
    found = feature_importance(exact, rows(), SPEC, ("a", "b"))
    assert [one.subject for one in found[:2]] == ["a.0", "b.height"]
    assert [one.loss_increase for one in found[2:]] == [0.0, 0.0]
    assert len(feature_importance(exact, rows(50), SPEC, ("a", "b"), max_features=3)) == 3


def test_rows_that_lack_a_modality_keep_lacking_it() -> None:
    samples = rows(200)
    samples.inputs["a"][:100] = np.nan
    samples.available["a"][:100] = False

    def predict(given: Samples) -> np.ndarray:
        return np.where(given.available["a"], given.inputs["a"][:, 0], np.nan)[:, None]

    found = feature_importance(predict, samples, SPEC, ("a",))
    assert {one.num_rows for one in found} == {100}


def test_a_rare_modality_is_shuffled_among_the_rows_that_have_it() -> None:
    samples = rows(300)
    samples.available["a"][6:] = False

    def predict(given: Samples) -> np.ndarray:
        return np.where(given.available["a"][:, None], exact(given), np.nan)

    (found,) = modality_importance(predict, samples, TASK, ("a",))
    assert found.num_rows == 6 and found.loss_increase > 0
    samples.available["a"][1:] = False
    assert modality_importance(predict, samples, TASK, ("a", "b")) == []
    assert feature_importance(predict, samples, SPEC, ("a", "b")) == []


def test_without_answers_nothing_is_measured_and_no_target_is_refused() -> None:
    silent = [modality_importance(lambda s: np.full((len(s), 1), np.nan), rows(n), TASK, ("a",)) for n in (10, 1)]
    assert silent == [[], []]
    assert modality_importance(exact, rows(10).take(np.arange(0)), TASK, ("a",)) == []
    blind = Samples(rows(10).inputs, rows(10).available, rows(10).ids)
    with pytest.raises(DataError, match="no target"):
        modality_importance(exact, blind, TASK, ("a",))


def test_association_is_the_mann_whitney_z_score() -> None:
    draws = np.random.default_rng(1)
    target = draws.integers(0, 2, 80)
    yes = draws.random(80) + 0.1 * target
    one = association(TaskSpec.classification(2), target, np.stack([1 - yes, yes], axis=1))
    found = one.strength / one.std_error
    exact_u = stats.mannwhitneyu(yes[target == 1], yes[target == 0]).statistic
    ones, zeros = int(target.sum()), int((1 - target).sum())
    expected = (exact_u - ones * zeros / 2) / math.sqrt(ones * zeros * 81 / 12)
    assert found == pytest.approx(expected)


def test_association_of_chance_stays_low_however_overconfident() -> None:
    draws = np.random.default_rng(2)
    scores = []
    for _ in range(200):
        target = draws.integers(0, 3, 120)
        wild = np.eye(3)[draws.integers(0, 3, 120)] * 0.998 + 0.001
        one = association(TaskSpec.classification(3), target, wild / wild.sum(axis=1, keepdims=True))
        scores.append(one.strength / one.std_error)
    assert np.mean(np.array(scores) > 3) < 0.02


def test_association_of_values_and_labels() -> None:
    draws = np.random.default_rng(3)
    target = draws.normal(size=(100, 1))
    exact = association(TASK, target, 5 + 0.001 * target)
    assert (exact.strength, exact.std_error) == pytest.approx((1.0, 1 / math.sqrt(99)))
    assert association(TASK, target, np.zeros((100, 1))).strength == 0.0
    labels = (draws.random((100, 2)) > 0.5).astype(np.float32)
    assert association(TaskSpec.multilabel(2), labels, labels.astype(float)).strength == 1.0
    with pytest.raises(DataError, match="all 100 rows have the same answer"):
        association(TaskSpec.multilabel(2), np.zeros((100, 2)), labels.astype(float))
