"""Estimators choose their settings on rows that lie apart in time, and choose them however few the times are."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from training_core.data.ingestion.in_memory import create_dataset_from_arrays
from training_core.data.storage.store import Dataset
from training_core.data.views import HeldSamples, RowSource
from training_core.engine.alone import _in_units
from training_core.engine.train import train_learner
from training_core.engine.trained import TrainedLearner
from training_core.engine.training import TrainingConfig
from training_core.learners import (
    ExtraTreesConfig,
    HistBoostingConfig,
    KernelRidgeConfig,
    LearnerConfig,
    LightGBMConfig,
)
from training_core.learners.estimator import EstimatorConfig
from training_core.learners.extra_trees import ExtraTreesEstimator
from training_core.schema import DataSpec, ModalitySpec, Samples, TaskKind, TaskSpec
from training_core.variants import kind_of, members, parse_variant

NUM_CLUSTERS, COPIES = 60, 8


def clusters(seed: int, num_clusters: int = NUM_CLUSTERS) -> tuple[np.ndarray, np.ndarray]:
    """Clusters of near-copies, one after the other, of a label that their place tells only in part."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(num_clusters, 6))
    label = (centres[:, 0] + 1.5 * rng.normal(size=num_clusters) > 0).astype(np.int64)
    values = np.repeat(centres, COPIES, axis=0) + 0.02 * rng.normal(size=(num_clusters * COPIES, 6))
    return values.astype(np.float32), np.repeat(label, COPIES)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    """The same rows as data sets: with times, with groups, and with neither."""
    values, label = clusters(1)
    place = np.arange(len(label))
    order = np.random.default_rng(1).permutation(place)  # as they lie on the disk, not as they came
    known = {"times": {"times": place.astype(float)[order]}, "groups": {"groups": (place // COPIES)[order]}, "rows": {}}
    folder: Path = tmp_path_factory.mktemp("stored")
    return {
        name: create_dataset_from_arrays(
            name,
            {"v": values[order]},
            label[order],
            task="classification",
            store=folder,
            ids=[f"s{i}" for i in order],
            **more,
        )
        for name, more in known.items()
    }


def trained(config: LearnerConfig, train: RowSource) -> TrainedLearner:
    return train_learner(config, train, None, train.spec, {}, TrainingConfig(), seed=0)[0]


def held(dataset: Dataset, groups: np.ndarray | None = None, times: np.ndarray | None = None) -> HeldSamples:
    return HeldSamples(replace(dataset.samples(), groups=groups), dataset.spec, times)


@pytest.mark.parametrize(
    "config",
    [HistBoostingConfig(), LightGBMConfig(), KernelRidgeConfig(), ExtraTreesConfig(num_trees=60)],
    ids=lambda config: config.kind,
)
def test_near_copies_in_time_do_not_flatter_an_estimator(config: LearnerConfig, stored: dict[str, Dataset]) -> None:
    values, label = clusters(2, 200)
    ids = np.arange(len(label)).astype(str).astype(object)
    new = Samples({"v": values}, {"v": np.ones(len(label), bool)}, ids)

    def log_loss(dataset: Dataset) -> float:
        predicted = trained(config, dataset.subset()).predict(new)
        return float(-np.log(predicted[np.arange(len(label)), label]).mean())

    losses = {name: log_loss(dataset) for name, dataset in stored.items()}
    assert losses["times"] < losses["groups"] + 0.15
    assert losses["times"] < losses["rows"] - 0.15


def test_groups_stay_what_they_are_where_rows_have_times_too(stored: dict[str, Dataset]) -> None:
    dataset = stored["times"]
    groups, times = np.array([f"g{i % 40}" for i in range(len(dataset))], object), dataset.times()
    rows = dataset.samples()
    by_group = trained(HistBoostingConfig(), held(dataset, groups)).predict(rows)
    assert np.array_equal(trained(HistBoostingConfig(), held(dataset, groups, times)).predict(rows), by_group)


def test_rows_of_a_single_time_stand_for_themselves(stored: dict[str, Dataset]) -> None:
    dataset = stored["times"]
    rows = dataset.samples()
    single = trained(HistBoostingConfig(), held(dataset, times=np.zeros(len(dataset)))).predict(rows)
    assert np.array_equal(single, trained(HistBoostingConfig(), held(dataset)).predict(rows))


def test_rows_drawn_more_than_once_make_no_blocks_of_their_own(stored: dict[str, Dataset]) -> None:
    rows = stored["times"].subset()
    often = np.concatenate([np.arange(len(rows)), np.repeat(np.arange(40), 20)])
    once, repeated = (_in_units(source) for source in (rows, rows.subset(often)))
    assert once.groups is not None and repeated.groups is not None
    assert len(set(once.groups)) == 20
    assert repeated.groups.tolist() == once.groups[often].tolist()


ESTIMATORS = [member for member in members(LearnerConfig) if issubclass(member, EstimatorConfig)]
WORDS = np.array([f"word{i}" for i in range(40)])


def world(num_rows: int, seed: int, task: TaskKind, with_text: bool) -> tuple[Samples, DataSpec]:
    """Columns that bend, and a text of words of which some tell; rows are alike at every time."""
    rng = np.random.default_rng(seed)
    values, said = rng.normal(size=(num_rows, 6)), rng.integers(0, 40, (num_rows, 8))
    truth = (
        np.sin(2 * values[:, 0]) * 2 + values[:, 1] ** 2 + values[:, 2] * values[:, 3] + 0.3 * rng.normal(size=num_rows)
    )
    truth += 0.5 * with_text * (said < 12).sum(axis=1)
    inputs = {"v": values.astype(np.float32)}
    modalities = [ModalitySpec(name="v", kind="vector", shape=(6,))]
    if with_text:
        inputs["t"] = np.array([" ".join(WORDS[row]) for row in said], object)
        modalities.append(ModalitySpec(name="t", kind="text"))
    regression = task == "regression"
    what = TaskSpec.regression(("y",)) if regression else TaskSpec.classification(("low", "high"))
    target = truth[:, None] if regression else (truth > 1 + 1.2 * with_text).astype(np.int64)
    available = {name: np.ones(num_rows, bool) for name in inputs}
    ids = np.array([f"s{i}" for i in range(num_rows)], object)
    return Samples(inputs, available, ids, target), DataSpec(modalities=tuple(modalities), task=what)


@pytest.mark.parametrize("task", ["regression", "classification"])
@pytest.mark.parametrize("member", ESTIMATORS, ids=kind_of)
def test_a_few_times_leave_an_estimator_as_good_as_without_times(member: type[LearnerConfig], task: TaskKind) -> None:
    config = parse_variant(LearnerConfig, {"kind": kind_of(member)}, "test")
    with_text = "text" in member.modality_kinds
    rows, spec = world(800, 0, task, with_text)
    new = world(800, 1, task, with_text)[0]
    assert new.target is not None

    def loss(times: np.ndarray | None) -> float:
        said = trained(config, HeldSamples(rows, spec, times)).predict(new)
        if task == "regression":
            return float(((said - new.target) ** 2).mean())
        return float(-np.log(said[np.arange(len(new)), new.target]).mean())

    few = {num_times: loss(np.sort(np.arange(800) % num_times)) for num_times in (12, 3, 2)}
    without = loss(None)
    assert max(few.values()) < 1.15 * without, (few, without)
    assert few[2] == without, "two times make no folds, so rows do"


@pytest.mark.parametrize("num_rows", [30, 60])
def test_small_tables_with_times_are_split_as_well(num_rows: int) -> None:
    rows, spec = world(num_rows, 0, "regression", False)
    times = np.arange(num_rows)
    forest = ExtraTreesConfig(num_trees=50)
    for source in (HeldSamples(rows, spec, times), HeldSamples(rows, spec, times // 15)):
        estimator = trained(forest, source).model
        assert isinstance(estimator, ExtraTreesEstimator) and estimator.sharpness != 1.0


def test_rows_of_mostly_one_time_or_of_two_times_stand_for_themselves(stored: dict[str, Dataset]) -> None:
    dataset = stored["rows"]
    place = np.arange(len(dataset))
    for times in (place // 240, np.maximum(place - 300, 0)):
        assert _in_units(held(dataset, times=times)).groups is None
    assert len(set(_in_units(held(dataset, times=np.maximum(place - 230, 0))).groups)) > 3  # pyright: ignore[reportArgumentType]
    groups = np.where(place < 300, "a", "b").astype(object)
    assert np.array_equal(_in_units(held(dataset, groups, place)).groups, groups)  # pyright: ignore[reportArgumentType]
