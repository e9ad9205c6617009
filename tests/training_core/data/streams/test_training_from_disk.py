import numpy as np
import pytest
from stream_world import some_dataset

from training_core.data.storage.dataset import Dataset
from training_core.data.streams import choice
from training_core.data.views import HeldSamples, RowSource
from training_core.engine.loop import History
from training_core.engine.train import train_learner
from training_core.engine.trained import TrainedLearner
from training_core.engine.training import TrainingConfig
from training_core.learners import LearnerConfig, LinearConfig, TabularMLPConfig

NAMES = ("vec", "facts")
TRAINING = TrainingConfig(epochs=3, batch_size=32)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return some_dataset(tmp_path_factory.mktemp("world"), (200, 100))


def trained(
    train: RowSource, validation: RowSource, config: LearnerConfig | None = None
) -> tuple[TrainedLearner, History]:
    features = {"vec": tuple(range(0, 2000, 100))}
    config = config or TabularMLPConfig(width=8)
    return train_learner(config, train, validation, train.spec.select(NAMES), features, TRAINING, seed=1)


def rows(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.default_rng(0)
    return draws.integers(0, 220, 250), np.arange(220, 300)


@pytest.mark.parametrize("config", [TabularMLPConfig(width=8), LinearConfig()], ids=lambda config: config.kind)
def test_rows_on_disk_train_the_same_bits_as_rows_in_memory(dataset: Dataset, config) -> None:
    fit, judge = rows(dataset)
    held = [HeldSamples(dataset.samples(part), dataset.spec) for part in (fit, judge)]
    one, first = trained(dataset.subset(fit), dataset.subset(judge), config)
    other, second = trained(*held, config)
    assert first == second
    assert one.preprocessor == other.preprocessor
    assert np.array_equal(one.predict(dataset.samples()), other.predict(dataset.samples()), equal_nan=True)


@pytest.mark.parametrize(("memory", "is_exact"), [(100_000, True), (20_000, False)])
def test_rows_larger_than_memory_are_trained_on(
    memory: int, is_exact: bool, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory-mapped rows train the same bits as rows in memory, chunk-shuffled ones nearly as well."""
    fit, judge = rows(dataset)
    one, first = trained(dataset.subset(fit), dataset.subset(judge))
    monkeypatch.setattr(choice, "available_memory", lambda: 20_000)
    monkeypatch.setattr(choice, "total_memory", lambda: memory)
    other, second = trained(dataset.subset(fit), dataset.subset(judge))
    assert (first == second) == is_exact
    assert not list(dataset.path.parent.glob(".unfinished-*"))
    losses = [history.epochs[-1]["validation/loss"] for history in (first, second)]
    assert losses[1] == pytest.approx(losses[0], rel=0.2)
    samples = dataset.samples()
    assert np.array_equal(one.predict(samples), other.predict(samples), equal_nan=True) == is_exact
