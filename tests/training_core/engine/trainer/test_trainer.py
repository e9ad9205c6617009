"""The trainer: every form of data, every part of the engine, and what it refuses."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader
from trainer_world import FORMS, QUICK, TASK, Blobs, Endless, blobs, net, raw_rows

from training_core.data.ingestion.in_memory import create_dataset_from_arrays
from training_core.data.views import HeldSamples
from training_core.engine.loop import Hook, TrainingState
from training_core.engine.trainer.builder import TrainingConfigBuilder
from training_core.engine.trainer.config import TrainerConfig
from training_core.engine.trainer.data import RawRows
from training_core.engine.trainer.trainer import Trainer
from training_core.engine.training import Stage
from training_core.engine.watching.training_hooks import TrainingHooks
from training_core.errors import ConfigError, DataError
from training_core.learners import LinearConfig, TabularMLPConfig
from training_core.schema import DataSpec, ModalitySpec, Samples, TaskSpec


@pytest.mark.parametrize("form", FORMS)
def test_data_of_every_form_is_learned_and_predicted(form: str) -> None:
    torch.manual_seed(1)
    trainer = Trainer(net(), QUICK, TASK)
    results = trainer.train(FORMS[form](), blobs(60))
    assert results.best_val_loss is not None and results.best_val_loss < 0.1
    assert trainer.evaluate(blobs(60))["loss"] == pytest.approx(results["best_val_loss"], rel=1e-5)
    x, y = blobs(60)
    answers = trainer.predict(x)
    assert answers.shape == (60, 3) and answers.dtype == np.float64
    assert np.allclose(answers.sum(axis=1), 1) and (answers.argmax(axis=1) == y.numpy()).mean() > 0.95


def test_raw_rows_are_encoded_by_what_the_training_rows_teach_and_build_their_net() -> None:
    config = TrainerConfig(training=QUICK, model=TabularMLPConfig(width=16))
    trainer = Trainer(None, config, TASK)
    results = trainer.train(raw_rows())
    assert results.best_val_loss is not None and results.best_val_loss < 0.2
    assert (trainer.predict(raw_rows()).argmax(axis=1) == blobs()[1].numpy()).mean() > 0.95
    again = Trainer(TabularMLPConfig(width=16), config, TASK).train(raw_rows())
    assert again.history == results.history


def test_results_tell_the_best_epoch_its_metrics_and_every_epochs_time() -> None:
    results = Trainer(net(), QUICK, TASK).train(blobs())
    losses = [loss for _, loss in results.history.curve("validation/loss")]
    assert results.best_val_loss == min(losses) == results["final_metrics"]["validation/loss"]
    assert results["best_epoch"] == 1 + losses.index(min(losses))
    assert len(results.epochs) == len(losses) and results.total_time >= sum(
        epoch.epoch_duration_seconds for epoch in results.epochs
    )
    with pytest.raises(KeyError, match="no result 'loss'; there is best_epoch, best_val_loss"):
        results["loss"]


def test_the_same_seed_gives_the_same_training_and_another_does_not() -> None:
    def history(seed: int) -> Any:
        return Trainer(net(0.2), TrainerConfig(training=QUICK, seed=seed), TASK).train(blobs()).history

    assert history(0) == history(0) and history(0) != history(1)


def test_without_validation_rows_the_last_weights_are_kept() -> None:
    results = Trainer(net(), QUICK.model_copy(update={"validation_fraction": 0.0}), TASK).train(blobs())
    assert results.best_val_loss is None and results.best_epoch == 8
    assert set(results.final_metrics) == {"training/loss", "training/gradient_norm"}


def test_hooks_hear_of_everything_and_see_validation() -> None:
    heard: list[str] = []

    class Listener(Hook):
        def on_training_start(self, state: TrainingState, model: nn.Module) -> None:
            heard.append("start")

        def on_epoch_end(self, state: TrainingState, model: nn.Module) -> None:
            heard.append(f"{state.epoch} {'validation/loss' in state.metrics}")

    Trainer(net(), QUICK.model_copy(update={"epochs": 2}), TASK, hooks=Listener()).train(blobs())
    assert heard == ["start", "1 True", "2 True"]


def test_hooks_of_the_plain_form_are_told_numbers() -> None:
    heard: list[Any] = []

    class Plain(TrainingHooks):
        def on_validation_end(self, metrics: dict[str, float]) -> None:
            heard.append(sorted(metrics))

        def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
            heard.append(epoch)

    Trainer(net(), QUICK.model_copy(update={"epochs": 2}), TASK, hooks=[Plain()]).train(blobs())
    assert heard == [["loss"], 1, ["loss"], 2]


def test_all_parts_of_the_engine_work_together() -> None:
    training = QUICK.model_copy(
        update={
            "epochs": 12,
            "schedule": "one_cycle",
            "warmup_epochs": 1.0,
            "accumulation": 2,
            "ema_decay": 0.8,
            "precision": "bf16",
            "clip_value": 0.5,
            "class_weights": "balanced",
            "label_smoothing": 0.05,
            "stages": (Stage(epochs=2, frozen=("0",)), Stage(epochs=1, lr_multiplier=0.5)),
            "gradient_checkpointing": True,
        }
    )
    trainer = Trainer(net(0.1), training, TASK)
    results = trainer.train(blobs())
    x, y = blobs(60)
    assert (trainer.predict(x).argmax(axis=1) == y.numpy()).mean() > 0.95
    rates = [epoch.learning_rate for epoch in results.epochs]
    assert len(set(rates)) == len(rates) == 12


X, Y = blobs(12)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (3, DataError, "got int as data; give an encoded Batch"),
        ("rows.csv", DataError, "got str as data"),
        ([], DataError, "the data has 0 items"),
        ((X, Y[:5]), DataError, "different numbers of rows"),
        ((X, Y + 1), DataError, "class codes go from 1 to 3; the task has 3 classes"),
        ((X, Y + 0.5), DataError, "float32 with fractions"),
        ((X,), DataError, "no target"),
        ((X.repeat(1, 2), Y), RuntimeError, "mat1 and mat2"),
        ((X, torch.zeros(12, 3)), DataError, r"expected logits float \[B, C\] and class codes int64 \[B\]"),
        (iter([(X, Y)]), DataError, "can be read only once"),
        (["a", "b"], DataError, "the first item is str"),
        (DataLoader(Endless(), batch_size=4), DataError, "this DataLoader has no length"),
    ],
)
def test_data_that_cannot_be_trained_on_is_refused(data: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Trainer(net(), QUICK, TASK).train(data, blobs(12))


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="nothing to train"):
        Trainer(None, QUICK, TASK)
    for ask in (Trainer.predict, Trainer.evaluate):
        with pytest.raises(ConfigError, match="so train first"):
            ask(Trainer(TabularMLPConfig(), QUICK, TASK), raw_rows())
    with pytest.raises(ConfigError, match="a tabular_mlp is built from raw rows"):
        Trainer(TabularMLPConfig(), QUICK, TASK).train(blobs())
    with pytest.raises(ConfigError, match="a linear is fitted in one step"):
        Trainer(LinearConfig(), QUICK, TASK).train(raw_rows())
    with pytest.raises(ConfigError, match=r"`hardware\.devices` is 2, but 1 processes"):
        Trainer(net(), TrainingConfigBuilder().with_hardware(devices=2).build(), TASK).train(blobs())
    with pytest.raises(ConfigError, match="schedule 'linear' needs to know"):
        Trainer(net(), QUICK.model_copy(update={"schedule": "linear"}), TASK).train(Endless())
    with pytest.raises(ConfigError, match="targets that can be counted"):
        Trainer(net(), QUICK.model_copy(update={"class_weights": "balanced"}), TASK).train(Blobs())
    with pytest.raises(ConfigError, match="squared_error is for regression; this task is classification"):
        Trainer(net(), QUICK.model_copy(update={"loss": "regression"}), TASK).train(blobs())
    with pytest.raises(ConfigError, match="unknown loss 'hinge'"):
        Trainer(net(), QUICK.model_copy(update={"loss": "hinge"}), TASK).train(blobs())


def test_one_row_is_enough() -> None:
    results = Trainer(net(), QUICK.model_copy(update={"epochs": 2}), TASK).train(blobs(1))
    assert results.best_epoch == 2 and results.best_val_loss is None


def test_groups_are_not_split_by_validation() -> None:
    rows = raw_rows().samples()
    groups = np.array([str(row // 10) for row in range(120)], object)
    source = HeldSamples(Samples(rows.inputs, rows.available, rows.ids, rows.target, groups), raw_rows().spec)
    parts = RawRows(source).split(0.25, seed=1)
    assert parts is not None
    rest, share = (set(part.source.groups().tolist()) for part in parts)  # pyright: ignore[reportOptionalMemberAccess]
    assert len(share) == 3 and len(rest) == 9 and not rest & share


def test_whole_blocks_of_time_are_held_back_for_validation(tmp_path: Path) -> None:
    times = np.random.default_rng(0).permutation(120)
    everything = {"store": tmp_path, "times": times, "task": "classification"}
    rows = create_dataset_from_arrays("dated", {"vec": blobs()[0].numpy()}, blobs()[1].numpy(), **everything).subset()
    for fraction, num_blocks in ((0.25, 5), (0.1, 2)):  # of 20
        parts = RawRows(rows).split(fraction, seed=1)
        assert parts is not None
        rest, share = (np.asarray(part.source.times()).astype(int) // 6 for part in parts)
        assert len(np.unique(share)) == num_blocks and not set(rest) & set(share)
        assert len(share) == 6 * num_blocks and len(rest) == 120 - len(share)
    assert Trainer(net(), QUICK, TASK).train(rows).best_val_loss is not None


def split_of(fraction: float, seed: int, **known: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The places of the rows that are trained on and held back, of rows with `groups` or `times`."""
    num_rows = len(next(iter(known.values())))
    place = np.arange(num_rows, dtype=np.float32)[:, None]
    ids = np.array([str(row) for row in range(num_rows)], object)
    spec = DataSpec(modalities=(ModalitySpec(name="v", kind="vector", shape=(1,)),), task=TaskSpec.regression())
    samples = Samples({"v": place}, {"v": np.ones(num_rows, bool)}, ids, place, known.get("groups"))
    parts = RawRows(HeldSamples(samples, spec, known.get("times"))).split(fraction, seed)
    if parts is None:
        return None
    rest, share = (np.sort(part.source.samples().ids.astype(int)) for part in parts)
    assert sorted([*rest, *share]) == list(range(num_rows))
    return rest, share


@pytest.mark.parametrize("seed", range(6))
def test_no_more_than_about_the_share_asked_for_is_held_back(seed: int) -> None:
    two_days, years = np.repeat([0.0, 1.0], [900, 100]), np.repeat([0.0, 1.0, 2.0], 333)
    parts = split_of(0.1, seed, times=two_days)
    assert parts is not None and parts[1].tolist() == list(range(900, 1000)), "the day that is as large"
    parts = split_of(0.1, seed, times=years)
    assert parts is not None and len(parts[1]) == 100, "a year is too much: rows of any"
    assert len(np.unique(years[parts[1]])) == 3
    parts = split_of(0.3, seed, times=years)
    assert parts is not None and len(np.unique(years[parts[1]])) == 1 and len(parts[1]) == 333
    parts = split_of(0.01, seed, times=np.arange(1000.0))
    assert parts is not None and np.ptp(parts[1]) == 9 and len(parts[1]) == 10, "one block, finer than a twentieth"


def test_a_single_time_is_no_reason_to_stop_by_one_row() -> None:
    assert split_of(0.01, 0, times=np.zeros(30)) is None
    parts = split_of(0.2, 0, times=np.zeros(30))
    assert parts is not None and len(parts[1]) == 6


@pytest.mark.parametrize("seed", range(6))
def test_groups_of_any_size_are_held_back_whole_or_not_at_all(seed: int) -> None:
    sizes = [10] * 30 + [100] * 5 + [200]
    groups = np.repeat([f"g{number}" for number in range(len(sizes))], sizes).astype(object)
    parts = split_of(0.2, seed, groups=groups)
    assert parts is not None and 150 <= len(parts[1]) <= 250
    assert not set(groups[parts[0]]) & set(groups[parts[1]])
    assert split_of(0.1, seed, groups=np.repeat(["a", "b", "c"], 333).astype(object)) is None
    assert split_of(0.8, seed, groups=np.repeat(["a"], 30).astype(object)) is None
    parts = split_of(0.9, seed, groups=np.repeat(["a", "b"], 50).astype(object))
    assert parts is not None and len(parts[0]) == len(parts[1]) == 50


def test_a_model_with_other_outputs_than_the_task_has_is_refused() -> None:
    with pytest.raises(DataError, match=r"the model gives 5 outputs per sample.*wants 3"):
        Trainer(nn.Linear(4, 5), QUICK, TASK).train(blobs())


def test_rows_that_cannot_be_held_back_are_said(caplog: pytest.LogCaptureFixture) -> None:
    results = Trainer(net(), QUICK, TASK).train(DataLoader(Blobs(), batch_size=16))
    assert results.best_val_loss is None
    assert "no rows are held back for validation" in caplog.text


def test_raw_rows_are_perturbed_and_data_of_other_forms_refused() -> None:
    def trained(**more: float) -> tuple[float, float]:
        settings = QUICK.model_copy(update={"epochs": 1, "lr": 1e-12, "weight_decay": 0.0, **more})
        config = TrainerConfig(training=settings, model=TabularMLPConfig(width=8, dropout=0.0))
        results = Trainer(None, config, TASK).train(raw_rows(), raw_rows())
        epoch = results.history.epochs[0]
        return epoch["training/loss"], epoch["validation/loss"]

    plain, noisy, hidden = trained(), trained(input_noise=1.0), trained(feature_dropout=0.5)
    assert plain[1] == pytest.approx(noisy[1], abs=1e-6) and plain[1] == pytest.approx(hidden[1], abs=1e-6)
    assert abs(plain[0] - noisy[0]) > 1e-3 and abs(plain[0] - hidden[0]) > 1e-3
    with pytest.raises(ConfigError, match="need raw rows"):
        Trainer(net(), QUICK.model_copy(update={"input_noise": 0.1}), TASK).train(blobs())
    with pytest.raises(ConfigError, match="is for the nets of ensembles"):
        Trainer(net(), QUICK.model_copy(update={"mixup": 0.1}), TASK).train(blobs())
