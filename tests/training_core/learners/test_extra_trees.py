"""A forest sharpens its votes by rows that no tree has seen the like of."""

from dataclasses import replace

import numpy as np
import pytest

from training_core.learners import ExtraTreesConfig
from training_core.learners.extra_trees import ExtraTreesEstimator
from training_core.schema import DataSpec, ModalitySpec, Samples, TaskSpec

CLASSES = TaskSpec.classification(("a", "b", "c"))
LABELS = TaskSpec.multilabel(("p", "q"))
VALUES = TaskSpec.regression()
QUICK = ExtraTreesConfig(num_trees=60)


def spec(task: TaskSpec) -> DataSpec:
    return DataSpec(modalities=(ModalitySpec(name="v", kind="vector", shape=(4,)),), task=task)


def of_noise(task: TaskSpec, num_groups: int = 60, copies: int = 6) -> Samples:
    """Near-copies in groups, whose targets nothing tells."""
    rng = np.random.default_rng(0)
    values = np.repeat(rng.normal(size=(num_groups, 4)), copies, axis=0)
    values += 0.01 * rng.normal(size=values.shape)
    targets = {
        "classification": rng.integers(0, 3, num_groups),
        "multilabel": rng.integers(0, 2, (num_groups, 2)).astype(np.float32),
        "regression": rng.normal(size=(num_groups, 1)),
    }
    num_rows = num_groups * copies
    ids = np.arange(num_rows).astype(str).astype(object)
    groups = np.array([f"g{i // copies}" for i in range(num_rows)], object)
    return Samples({"v": values}, {"v": np.ones(num_rows, bool)}, ids, np.repeat(targets[task.kind], copies, 0), groups)


def fitted(task: TaskSpec, samples: Samples, config: ExtraTreesConfig = QUICK) -> ExtraTreesEstimator:
    return config.build(spec(task), 0).fit(samples)


@pytest.mark.parametrize("task", [CLASSES, LABELS, VALUES], ids=lambda task: task.kind)
def test_near_copies_do_not_sharpen_a_forest_when_their_group_is_given(task: TaskSpec) -> None:
    samples = of_noise(task)
    ungrouped = fitted(task, replace(samples, groups=None))
    grouped = fitted(task, samples)
    assert ungrouped.sharpness > 0.9, "copies tell each other's target"
    assert grouped.sharpness < 0.5
    for name, values in grouped._learnt()["trees"].items():
        assert np.array_equal(values, ungrouped._learnt()["trees"][name]), "the trees themselves are the same"


@pytest.mark.parametrize("task", [CLASSES, LABELS, VALUES], ids=lambda task: task.kind)
def test_groups_of_one_row_sharpen_about_as_rows_by_themselves(task: TaskSpec) -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(600, 4))
    targets = {
        "classification": np.digitize(values[:, 0], (-0.5, 0.5)),
        "multilabel": (values[:, :2] > 0).astype(np.float32),
        "regression": values[:, :1] + 0.1 * rng.normal(size=(600, 1)),
    }
    ids = np.arange(600).astype(str).astype(object)
    samples = Samples({"v": values}, {"v": np.ones(600, bool)}, ids, targets[task.kind])
    alone, grouped = fitted(task, samples).sharpness, fitted(task, replace(samples, groups=ids)).sharpness
    assert alone > 1.1
    assert grouped == pytest.approx(alone, rel=0.25)


def test_a_class_or_label_of_one_group_is_unknown_to_the_fold_that_leaves_it_out() -> None:
    for task in (CLASSES, LABELS):
        samples = of_noise(task)
        assert samples.target is not None and samples.groups is not None
        only = samples.groups == "g7"
        rare = np.where(only, 2, np.minimum(samples.target, 1) if task is CLASSES else 0)
        if task is LABELS:
            rare = np.stack([only, ~only], axis=1).astype(np.float32)  # one is never met, the other always, elsewhere
        found = fitted(task, replace(samples, target=rare))
        assert 0.25 <= found.sharpness <= 8.0
        assert np.isfinite(found.predict(samples)).all()


@pytest.mark.parametrize("num_groups", [3, 5])
def test_a_few_groups_do_not_sharpen_noise_and_a_single_one_leaves_the_votes_as_they_are(num_groups: int) -> None:
    samples = of_noise(CLASSES, num_groups=num_groups, copies=20)
    assert fitted(CLASSES, samples).sharpness < 0.5
    assert fitted(CLASSES, replace(samples, groups=None)).sharpness > 2
    assert fitted(CLASSES, replace(samples, groups=np.full(len(samples), "g", object))).sharpness == 1.0


def test_repeats_and_weights_are_taken_with_groups() -> None:
    samples = of_noise(VALUES)
    twice = samples.take(np.concatenate([np.arange(len(samples)), np.arange(90)]))
    weight = np.where(np.arange(len(samples)) < 90, 2.0, 1.0)
    repeated = fitted(VALUES, twice).predict(samples)
    weighted = QUICK.build(spec(VALUES), 0).fit(samples, weight).predict(samples)
    assert np.array_equal(repeated, weighted)
