"""Estimators choose their settings on rows that lie apart in time from those they learn from."""

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
from training_core.schema import Samples

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
