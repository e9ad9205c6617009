import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from training_core.data.preprocessing import Preprocessor
from training_core.data.views import HeldSamples
from training_core.engine.hooks import OnEpoch
from training_core.engine.loop import History
from training_core.engine.prepare import tolerated_modalities
from training_core.engine.train import train_learner
from training_core.engine.trained import TrainedLearner
from training_core.engine.training import TrainingConfig
from training_core.errors import DataError, DivergenceError, StorageError
from training_core.learners import FusionNetConfig, HistBoostingConfig, LearnerConfig, LinearConfig, TabularMLPConfig
from training_core.schema import ColumnSpec, DataSpec, ModalitySpec, Samples, TaskSpec
from training_core.variants import members

TASKS = [TaskSpec.classification(["a", "b", "c"]), TaskSpec.multilabel(["p", "q"]), TaskSpec.regression(["y"])]
LEARNERS = [member() for member in members(LearnerConfig)]
QUICK = TrainingConfig(epochs=4, batch_size=16)


def world(task: TaskSpec = TASKS[0], num_rows: int = 80, missing: float = 0.0) -> tuple[DataSpec, Samples]:
    """A vector, a table with a category and absent cells, a text and a picture, all telling of one hidden class."""
    rng = np.random.default_rng(0)
    hidden = np.arange(num_rows) % 3
    vec = rng.normal(size=(num_rows, 4)) * 0.2
    vec[:, 0] += hidden
    table = np.stack([hidden * 10.0 + rng.normal(size=num_rows), hidden.astype(float)], axis=1)
    table[::7, 0] = np.nan
    note = np.array([f"sample of {('red', 'green', 'blue')[k]} things" for k in hidden], dtype=object)
    picture = rng.normal(size=(num_rows, 1, 8, 8))
    picture[np.arange(num_rows), 0, hidden * 2] += 2.0
    clicks = rng.normal(size=(num_rows, 6, 2)) * 0.2
    clicks[np.arange(num_rows), hidden * 2, 0] += 1.0
    targets = {
        "classification": hidden.astype(np.int64),
        "multilabel": np.stack([hidden == 0, hidden > 1], axis=1).astype(np.float32),
        "regression": 100.0 + 20.0 * hidden[:, None].astype(np.float64),
    }
    columns = (ColumnSpec(name="size"), ColumnSpec(name="colour", categories=("r", "g", "b")))
    spec = DataSpec(
        modalities=(
            ModalitySpec(name="vec", kind="vector", shape=(4,)),
            ModalitySpec(name="table", kind="tabular", shape=(2,), columns=columns),
            ModalitySpec(name="note", kind="text"),
            ModalitySpec(name="picture", kind="image", shape=(1, 8, 8)),
            ModalitySpec(name="clicks", kind="sequence", shape=(6, 2)),
        ),
        task=task,
    )
    available = {name: rng.random(num_rows) >= missing for name in spec.names}
    ids = np.array([f"row-{i}" for i in range(num_rows)], dtype=object)
    inputs = {"vec": vec, "table": table, "note": note, "picture": picture, "clicks": clicks}
    return spec, Samples(inputs, available, ids, targets[task.kind])


def train_on(
    config: LearnerConfig,
    train: Samples,
    validation: Samples | None,
    spec: DataSpec,
    features: dict[str, tuple[int, ...]],
    training: TrainingConfig,
    seed: int,
    on_epoch: OnEpoch | None = None,
) -> tuple[TrainedLearner, History]:
    """Train on samples in memory."""
    judged = None if validation is None else HeldSamples(validation, spec)
    return train_learner(config, HeldSamples(train, spec), judged, spec, features, training, seed, on_epoch)


def modalities_for(config: LearnerConfig, spec: DataSpec) -> list[str]:
    """As many modalities as the learner takes."""
    fitting = [modality.name for modality in spec.modalities if modality.kind in config.modality_kinds]
    return fitting[: config.max_modalities]


def trained(
    config: LearnerConfig, task: TaskSpec = TASKS[0], seed: int = 1, missing: float = 0.0
) -> tuple[TrainedLearner, History, Samples]:
    spec, samples = world(task, missing=missing)
    own = spec.select(modalities_for(config, spec))
    train, validation = samples.take(np.arange(60)), samples.take(np.arange(60, 80))
    learner, history = train_on(config, train, validation, own, {}, QUICK, seed)
    return learner, history, samples


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
@pytest.mark.parametrize("config", LEARNERS, ids=lambda config: config.kind)
def test_saving_and_loading_changes_no_prediction(config: LearnerConfig, task: TaskSpec, tmp_path: Path) -> None:
    learner, _, samples = trained(config, task)
    learner.save(tmp_path)
    loaded = TrainedLearner.load(tmp_path)
    predicted = learner.predict(samples)
    assert predicted.dtype == np.float64
    assert predicted.shape == (80, task.num_outputs)
    assert np.isfinite(predicted).all()
    assert np.array_equal(loaded.predict(samples), predicted)
    assert loaded.config == config
    assert loaded.tolerates == learner.tolerates
    assert loaded.input_spec == learner.input_spec
    assert loaded.task == task


@pytest.mark.parametrize("config", LEARNERS, ids=lambda config: config.kind)
def test_same_seed_same_bits_and_torch_s_own_random_state_does_not_matter(config: LearnerConfig) -> None:
    torch.manual_seed(1)
    one, first, samples = trained(config)
    torch.manual_seed(2)
    np.random.seed(3)
    other, second, _ = trained(config)
    assert np.array_equal(one.predict(samples), other.predict(samples))
    assert first == second


def test_another_seed_gives_another_net() -> None:
    one, _, samples = trained(FusionNetConfig(), seed=1)
    other, _, _ = trained(FusionNetConfig(), seed=2)
    assert not np.array_equal(one.predict(samples), other.predict(samples))


def test_training_leaves_torch_s_random_state_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    trained(FusionNetConfig())
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("config", [TabularMLPConfig(), FusionNetConfig()], ids=lambda config: config.kind)
def test_a_net_learns_an_easy_world_in_every_pattern(config: LearnerConfig) -> None:
    spec, samples = world(num_rows=240)
    train, validation, test = (samples.take(np.arange(*rows)) for rows in ((0, 160), (160, 200), (200, 240)))
    training = TrainingConfig(epochs=30, patience=30)
    own = spec.select(["vec", "table", "note"])
    learner, history = train_on(config, train, validation, own, {}, training, seed=0)
    for absent in ([], ["vec"], ["table", "note"]):
        right = learner.predict(test.without(absent)).argmax(axis=1) == test.target
        assert right.mean() > 0.9, f"without {absent}"
    losses = dict(history.curve("validation/loss"))
    assert history.best_epoch is not None
    assert losses[history.best_epoch] == min(losses.values())


@pytest.mark.parametrize("config", [TabularMLPConfig(), LinearConfig()], ids=lambda config: config.kind)
def test_regression_values_come_back_in_their_own_units(config: LearnerConfig) -> None:
    spec, samples = world(TASKS[2])
    training = TrainingConfig(epochs=40)
    learner, _ = train_on(config, samples, None, spec.select(["vec", "table"]), {}, training, seed=0)
    assert samples.target is not None
    errors = learner.predict(samples) - samples.target
    assert np.sqrt(np.square(errors).mean()) < 4.0 < samples.target.std()


def test_without_validation_a_net_trains_for_all_epochs_and_keeps_the_last_weights() -> None:
    spec, samples = world()
    _, history = train_on(TabularMLPConfig(), samples, None, spec.select(["vec"]), {}, QUICK, seed=0)
    assert len(history.epochs) == 4
    assert history.best_epoch is None
    assert history.curve("validation/loss") == []


def test_progress_is_told_with_validation_and_once_for_an_estimator() -> None:
    spec, samples = world()
    own = spec.select(["vec"])
    told: list[tuple[int, dict[str, float]]] = []
    train_on(TabularMLPConfig(), samples, samples, own, {}, QUICK, 0, lambda *call: told.append(call))
    assert [epoch for epoch, _ in told] == [1, 2, 3, 4]
    assert all("validation/loss" in metrics for _, metrics in told)
    told.clear()
    train_on(LinearConfig(), samples, samples, own, {}, QUICK, 0, lambda *call: told.append(call))
    assert told == [(1, {})]


def test_only_the_chosen_columns_are_looked_at(tmp_path: Path) -> None:
    spec, samples = world()
    features = {"vec": (0, 2), "elsewhere": (1,)}
    learner, _ = train_on(TabularMLPConfig(), samples, None, spec.select(["vec"]), features, QUICK, seed=0)
    assert learner.input_spec["vec"].shape == (2,)
    learner.save(tmp_path)
    scrambled = samples.inputs["vec"].copy()
    scrambled[:, [1, 3]] = 1e6
    changed = dataclasses.replace(samples, inputs={**samples.inputs, "vec": scrambled})
    assert np.array_equal(TrainedLearner.load(tmp_path).predict(changed), learner.predict(samples))


def test_the_encoding_is_learned_from_the_training_rows_only() -> None:
    spec, samples = world()
    train = samples.take(np.arange(60))
    own = spec.select(["vec", "table"])
    learner, _ = train_on(LinearConfig(), train, samples.take(np.arange(60, 80)), own, {}, QUICK, seed=0)
    assert learner.preprocessor == Preprocessor.fit(train, own, "strings")


@pytest.mark.parametrize("config", [LinearConfig(), TabularMLPConfig()], ids=lambda config: config.kind)
def test_rows_without_any_of_the_modalities_are_left_out_of_training(config: LearnerConfig) -> None:
    spec, samples = world()
    own = spec.select(["vec"])
    present = np.arange(80) < 60
    partly = dataclasses.replace(samples, available={**samples.available, "vec": present})
    with_blanks, _ = train_on(config, partly, partly, own, {}, QUICK, seed=0)
    kept = partly.take(np.flatnonzero(present))
    without, _ = train_on(config, kept, kept, own, {}, QUICK, seed=0)
    assert np.array_equal(with_blanks.predict(samples), without.predict(samples))


def test_no_row_with_any_of_the_modalities_is_an_error_that_names_them() -> None:
    spec, samples = world()
    with pytest.raises(DataError, match=r"linear on vec\+table: none of its 80 training rows has any"):
        own = spec.select(["vec", "table"])
        train_on(LinearConfig(), samples.without(["vec", "table"]), None, own, {}, QUICK, seed=0)


def test_validation_rows_without_any_of_the_modalities_do_not_judge() -> None:
    spec, samples = world()
    blank = samples.without(["vec"])
    _, history = train_on(TabularMLPConfig(), samples, blank, spec.select(["vec"]), {}, QUICK, seed=0)
    assert history.best_epoch is None


def test_a_net_that_diverges_says_who_and_when() -> None:
    spec, samples = world(TASKS[2])
    wild = TrainingConfig(epochs=3, lr=1e30, clip_norm=0.0)
    with pytest.raises(DivergenceError, match=r"^tabular_mlp on vec: .* epoch 1.*lower `training.lr`"):
        train_on(TabularMLPConfig(), samples, samples, spec.select(["vec"]), {}, wild, seed=0)


def test_nets_with_modality_dropout_do_without_any_modality_when_they_have_several() -> None:
    spec, samples = world()
    both, one = spec.select(["vec", "table"]), spec.select(["vec"])
    still = QUICK.model_copy(update={"modality_dropout": 0.0})
    assert train_on(FusionNetConfig(), samples, None, both, {}, QUICK, 0)[0].tolerates == {"vec", "table"}
    assert train_on(FusionNetConfig(), samples, None, one, {}, QUICK, 0)[0].tolerates == frozenset()
    assert train_on(FusionNetConfig(), samples, None, both, {}, still, 0)[0].tolerates == frozenset()


@pytest.mark.parametrize(
    ("num_rows", "num_absent", "tolerated"), [(80, 9, False), (80, 10, True), (1000, 19, False), (1000, 20, True)]
)
def test_absences_met_often_enough_in_training_are_tolerated(num_rows: int, num_absent: int, tolerated: bool) -> None:
    spec, samples = world(num_rows=num_rows)
    absent = np.arange(num_rows) < num_absent
    rows = dataclasses.replace(samples, available={**samples.available, "vec": ~absent})
    assert tolerated_modalities(HeldSamples(rows, spec), 0.0) == ({"vec"} if tolerated else frozenset())
    repeated = rows.take(np.concatenate([np.arange(num_rows), np.repeat(0, 50)]))
    assert tolerated_modalities(HeldSamples(repeated, spec), 0.0) == tolerated_modalities(
        HeldSamples(rows, spec), 0.0
    ), "a repeat is no new absence"
    assert tolerated_modalities(HeldSamples(rows, spec), 0.3) == set(spec.names)


def test_an_estimator_answers_rows_that_lack_what_it_learned_to_lack() -> None:
    learner, _, samples = trained(HistBoostingConfig(), missing=0.5)
    assert learner.tolerates == {"vec", "table", "picture", "clicks"}
    predicted = learner.predict(samples)
    answered = samples.availability(["vec", "table", "picture", "clicks"]).any(axis=1)
    assert np.array_equal(np.isfinite(predicted).all(axis=1), answered)
    assert not answered.all()


def test_a_learner_is_silent_about_rows_that_lack_what_it_needs() -> None:
    learner, _, samples = trained(LinearConfig())
    assert learner.tolerates == frozenset()
    half = np.arange(80) % 2 == 0
    lacking = dataclasses.replace(samples, available={**samples.available, "table": half})
    assert np.array_equal(learner.usable(lacking.available), half)
    predicted = learner.predict(lacking)
    assert np.isnan(predicted[~half]).all()
    np.testing.assert_allclose(predicted[half], learner.predict(samples)[half], rtol=1e-12)
    assert np.isnan(learner.predict(samples.without(["vec"]))).all()


def test_usable_needs_one_modality_even_where_all_are_tolerated() -> None:
    learner, _, _ = trained(FusionNetConfig())
    patterns = np.array([[1, 1, 1, 1, 1], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]], dtype=bool)
    available = {name: patterns[:, i] for i, name in enumerate(learner.modalities)}
    assert learner.usable(available).tolist() == [True, True, False]


def test_values_where_a_modality_is_absent_change_nothing() -> None:
    learner, _, samples = trained(FusionNetConfig())
    absent = samples.without(["vec"])
    noise = np.full_like(samples.inputs["vec"], 1e6)
    noisy = dataclasses.replace(absent, inputs={**absent.inputs, "vec": noise})
    assert np.array_equal(learner.predict(noisy), learner.predict(absent))


def test_a_loaded_net_is_in_evaluation_mode_and_needs_no_target(tmp_path: Path) -> None:
    learner, _, samples = trained(FusionNetConfig())
    learner.save(tmp_path)
    loaded = TrainedLearner.load(tmp_path)
    assert isinstance(loaded.model, nn.Module)
    assert not loaded.model.training
    unlabelled = dataclasses.replace(samples, target=None)
    assert np.array_equal(loaded.predict(unlabelled), learner.predict(samples))


def test_predicting_nothing_gives_an_empty_table() -> None:
    learner, _, samples = trained(LinearConfig())
    assert learner.predict(samples.take(np.arange(0))).shape == (0, 3)


@pytest.mark.parametrize("config", [TabularMLPConfig(), LinearConfig()], ids=lambda config: config.kind)
def test_a_folder_that_is_not_whole_is_refused(config: LearnerConfig, tmp_path: Path) -> None:
    learner, _, _ = trained(config)
    learner.save(tmp_path)
    for path in sorted(tmp_path.iterdir()):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(StorageError):
            TrainedLearner.load(tmp_path)
        path.unlink()
        with pytest.raises(StorageError):
            TrainedLearner.load(tmp_path)
        path.write_bytes(whole)
    TrainedLearner.load(tmp_path)


def test_weights_of_another_net_are_refused(tmp_path: Path) -> None:
    learner, _, _ = trained(TabularMLPConfig())
    learner.save(tmp_path)
    path = tmp_path / "learner.json"
    description = json.loads(path.read_text())
    description["preprocessor"]["spec"]["modalities"][0]["shape"] = [3]
    path.write_text(json.dumps(description))
    with pytest.raises(StorageError, match=r"holds no learner that can be read \(RuntimeError: .*\); train it again"):
        TrainedLearner.load(tmp_path)


@pytest.mark.parametrize("text", ["[]", "{}", '{"config": "x"}', '{"config": {"kind": "gone"}}', ""])
def test_a_description_of_something_else_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "learner.json").write_text(text)
    with pytest.raises(StorageError, match="holds no learner that can be read"):
        TrainedLearner.load(tmp_path)


def test_many_rows_are_answered_as_few_are() -> None:
    learner, _, samples = trained(FusionNetConfig())
    many = samples.take(np.arange(1000) % 80)
    np.testing.assert_allclose(learner.predict(many), learner.predict(samples)[np.arange(1000) % 80], atol=1e-6)
