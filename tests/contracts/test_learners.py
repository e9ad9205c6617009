"""What every learner promises, net or estimator: one checklist for all members of the union."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from training_core.config import Config
from training_core.errors import ConfigError, DataError, StorageError
from training_core.learners import Estimator, LearnerConfig, LearnerSettings
from training_core.objectives import Supervised
from training_core.schema import Batch, ColumnSpec, DataSpec, ModalitySpec, Samples, TaskSpec
from training_core.variants import kind_of, members, to_variant

pytestmark = pytest.mark.filterwarnings("error")  # no warning may reach the screen

VECTOR = ModalitySpec(name="shape", kind="vector", shape=(5,))
TABLE = ModalitySpec(
    name="record",
    kind="tabular",
    shape=(5,),
    columns=tuple(ColumnSpec(name=n) for n in ("age", "size", "size is missing", "colour", "town")),
    cardinalities=(3, 4),
)
IMAGE = ModalitySpec(name="photo", kind="image", shape=(1, 8, 8))
SEQUENCE = ModalitySpec(name="trace", kind="sequence", shape=(12, 2))
STRINGS = ModalitySpec(name="note", kind="text", columns=(ColumnSpec(name="note"),))
TOKENS = STRINGS.model_copy(update={"shape": (6,), "vocabulary_size": 40})

CLASSES = TaskSpec.classification(("ash", "elm", "oak"))
LABELS = TaskSpec.multilabel(("tall", "green"))
VALUES = TaskSpec.regression(("height", "girth"))
TASKS = pytest.mark.parametrize("task", [CLASSES, LABELS, VALUES], ids=lambda task: task.kind)

QUICK: dict[str, dict[str, Any]] = {
    "extra_trees": {"num_trees": 25},
    "hist_boosting": {"max_rounds": 12},
    "tabular_mlp": {"width": 32},
    "image_cnn": {"channels": 8},
    "fusion_net": {"width": 16},
}
CONFIGS = [member.parse(QUICK.get(kind_of(member), {}), "test") for member in members(LearnerConfig)]
NETS = [config for config in CONFIGS if config.family == "net"]
ESTIMATORS = [config for config in CONFIGS if config.family == "estimator"]


def kind(config: Config) -> str:
    return kind_of(type(config))


every_learner = pytest.mark.parametrize("config", CONFIGS, ids=kind)
every_net = pytest.mark.parametrize("config", NETS, ids=kind)
every_estimator = pytest.mark.parametrize("config", ESTIMATORS, ids=kind)


def spec_for(config: Any, task: TaskSpec) -> DataSpec:
    """One modality of every kind the learner takes, encoded, up to as many as it takes."""
    text = TOKENS if config.text_input == "tokens" else STRINGS
    every = [m for m in (VECTOR, TABLE, IMAGE, SEQUENCE, text) if m.kind in config.modality_kinds]
    return DataSpec(modalities=tuple(every[: config.max_modalities]), task=task)


def samples_for(spec: DataSpec, num_rows: int = 90, seed: int = 0) -> Samples:
    """Rows whose every modality tells the target; about one in eight modalities is absent, and its values noise."""
    rng = np.random.default_rng(seed)
    hidden = rng.integers(0, 3, num_rows)
    words = np.array(["bark grey rough", "leaf green smooth", "acorn brown small"], dtype=object)
    inputs: dict[str, np.ndarray] = {}
    for modality in spec.modalities:
        if modality.kind == "text":
            tokens = 1 + 10 * hidden[:, None] + rng.integers(0, 10, (num_rows, 6))
            inputs[modality.name] = tokens if modality.vocabulary_size else words[hidden]
        else:
            pattern = np.random.default_rng(99).normal(size=(3, *modality.shape))
            inputs[modality.name] = pattern[hidden] + 0.5 * rng.normal(size=(num_rows, *modality.shape))
        if modality.kind == "tabular":
            inputs[modality.name][:, 2:] = np.stack([hidden == 0, hidden % 3, rng.integers(0, 4, num_rows)], axis=1)
    available = {name: rng.random(num_rows) > 0.12 for name in spec.names}
    if len(spec.modalities) == 1:
        available = {name: np.ones(num_rows, dtype=bool) for name in spec.names}
    target: np.ndarray = hidden.astype(np.int64)
    if spec.task.kind == "multilabel":
        target = np.stack([hidden > 0, hidden == 1], axis=1).astype(np.float32)
    if spec.task.kind == "regression":
        target = np.stack([hidden - 1.0, 1.0 - hidden**2], axis=1) + 0.01 * rng.normal(size=(num_rows, 2))
    ids = np.array([f"row {i}" for i in range(num_rows)], dtype=object)
    return Samples(inputs, available, ids, target)


def to_batch(samples: Samples, spec: DataSpec) -> Batch:
    inputs = {n: torch.as_tensor(v, dtype=torch.int64 if v.dtype.kind == "i" else torch.float32)
              for n, v in samples.inputs.items()}  # fmt: skip
    target = torch.as_tensor(samples.target, dtype=torch.int64 if spec.task.kind == "classification" else torch.float32)
    return Batch(inputs, torch.as_tensor(samples.availability(spec.names)), target)


def spoil_absent(samples: Samples) -> Samples:
    """The same samples with other values where a modality is absent, wild ones at that."""
    inputs = {}
    for name, values in samples.inputs.items():
        spoilt = values.copy()
        there = samples.available[name]
        spoilt[~there] = "acorn acorn leaf" if values.dtype == object else 7 if values.dtype.kind == "i" else np.nan
        inputs[name] = spoilt
    return replace(samples, inputs=inputs)


def score(task: TaskSpec, predicted: np.ndarray, target: np.ndarray) -> float:
    """Accuracy, or R²."""
    if task.kind == "classification":
        return float((predicted.argmax(axis=1) == target).mean())
    if task.kind == "multilabel":
        return float(((predicted > 0.5) == (target > 0.5)).mean())
    return 1 - float(((predicted - target) ** 2).mean() / target.var(axis=0).mean())


def answer(net: nn.Module, batch: Batch) -> Tensor:
    with torch.no_grad():
        return net.eval()(batch.inputs, batch.available)


# every learner


@every_learner
def test_config_survives_json(config: Any) -> None:
    assert to_variant(LearnerConfig, config.to_json()) == config


@every_learner
def test_settings_have_a_section_of_its_kind(config: Any) -> None:
    assert isinstance(getattr(LearnerSettings(), kind(config)), type(config))


@every_learner
def test_it_says_what_it_does_not_support(config: Any) -> None:
    spec = spec_for(config, CLASSES)
    assert config.supports(spec) is None
    nothing = spec.model_copy(update={"modalities": ()})
    assert config.supports(nothing)
    with pytest.raises(ConfigError, match=f"learner '{kind(config)}' cannot learn"):
        config.build(nothing, 0)
    for modality in (VECTOR, TABLE, IMAGE, SEQUENCE, TOKENS):
        if modality.kind not in config.modality_kinds:
            reason = config.supports(spec.model_copy(update={"modalities": (modality,)}))
            assert modality.name in reason and modality.kind in reason


@every_learner
def test_cost_grows_with_rows_and_is_known_before_encoding(config: Any) -> None:
    spec = spec_for(config, CLASSES)
    raw = [m.model_copy(update={"cardinalities": (), "vocabulary_size": 0}) for m in spec.modalities]
    raw = [m.model_copy(update={"shape": ()}) if m.kind == "text" else m for m in raw]
    for known in (spec, spec.model_copy(update={"modalities": tuple(raw)})):
        work, memory = config.estimate_cost(known, 1_000, 10)
        more_work, more_memory = config.estimate_cost(known, 10_000, 10)
        assert 0 < work < more_work and 0 < memory <= more_memory


# nets


@every_net
def test_same_seed_same_weights(config: Any) -> None:
    spec = spec_for(config, CLASSES)
    torch.manual_seed(1)
    first = config.build(spec, 5).state_dict()
    torch.manual_seed(2)
    second, other = config.build(spec, 5).state_dict(), config.build(spec, 6).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@TASKS
@every_net
def test_gradients_reach_every_parameter(config: Any, task: TaskSpec) -> None:
    spec = spec_for(config, task)
    net = config.build(spec, 0)
    Supervised(task)(net, to_batch(samples_for(spec), spec)).total.backward()
    idle = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    # A single modality is never dropped in training, so nothing stands in for it.
    assert idle == []


@TASKS
@every_net
def test_it_overfits_eight_samples(config: Any, task: TaskSpec) -> None:
    spec = spec_for(config, task)
    net = config.build(spec, 0)
    batch = to_batch(samples_for(spec, 8), spec)
    objective, optimizer = Supervised(task), torch.optim.Adam(net.parameters(), lr=1e-2)
    first = float(objective(net.eval(), batch).total)
    net.train()
    torch.manual_seed(0)
    for _ in range(80):
        optimizer.zero_grad()
        objective(net, batch).total.backward()
        optimizer.step()
    assert float(objective(net.eval(), batch).total) < 0.05 * first


@every_net
def test_state_round_trip_gives_equal_answers(config: Any, tmp_path: Path) -> None:
    spec = spec_for(config, CLASSES)
    batch = to_batch(samples_for(spec), spec)
    net = config.build(spec, 0)
    torch.save(net.state_dict(), tmp_path / "state")
    other = config.build(spec, 1)
    other.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert torch.equal(answer(net, batch), answer(other, batch))


@every_net
def test_values_where_a_modality_is_absent_do_not_matter(config: Any) -> None:
    spec = spec_for(config, CLASSES)
    samples = samples_for(spec)
    samples = replace(samples, available={name: np.arange(90) % 3 != 0 for name in spec.names})
    net = config.build(spec, 0)
    clean = answer(net, to_batch(samples, spec))
    assert torch.isfinite(clean).all()
    assert torch.equal(clean, answer(net, to_batch(spoil_absent(samples), spec)))


@every_net
def test_gradients_stay_finite_when_absent_values_are_not(config: Any) -> None:
    spec = spec_for(config, CLASSES)
    samples = samples_for(spec)
    samples = replace(samples, available={name: np.arange(90) % 3 != 0 for name in spec.names})
    net = config.build(spec, 0)
    Supervised(CLASSES)(net, to_batch(spoil_absent(samples), spec)).total.backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


@every_net
def test_which_modality_is_absent_matters(config: Any) -> None:
    spec = spec_for(config, CLASSES)
    samples = samples_for(spec)
    net = config.build(spec, 0)
    full = answer(net, to_batch(replace(samples, available={n: np.ones(90, dtype=bool) for n in spec.names}), spec))
    for name in spec.names:
        mask = {n: np.full(90, n != name) for n in spec.names}
        assert not torch.allclose(full, answer(net, to_batch(replace(samples, available=mask), spec)))


@every_net
def test_an_answer_does_not_depend_on_the_other_samples(config: Any) -> None:
    spec = spec_for(config, CLASSES)
    samples = samples_for(spec)
    net = config.build(spec, 0)
    whole, part = answer(net, to_batch(samples, spec)), answer(net, to_batch(samples.take(np.arange(5)), spec))
    assert torch.allclose(whole[:5], part, atol=1e-5)


@TASKS
@every_net
def test_a_stack_of_nets_trains_like_each_of_them(config: Any, task: TaskSpec) -> None:
    spec = spec_for(config, task)
    batch = to_batch(samples_for(spec, 16), spec)
    nets = [config.build(spec, seed).eval() for seed in (1, 2)]
    parameters, buffers = stack_module_state(nets)

    def loss_of(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        def model(inputs: dict[str, Tensor], available: Tensor) -> Tensor:
            return functional_call(nets[0], (parameters, buffers), (inputs, available))

        return Supervised(task)(model, batch).total  # pyright: ignore[reportArgumentType]

    gradients = torch.func.vmap(torch.func.grad(loss_of))(parameters, buffers)
    for i, net in enumerate(nets):
        Supervised(task)(net, batch).total.backward()
        for name, parameter in net.named_parameters():
            assert parameter.grad is not None
            assert torch.allclose(gradients[name][i], parameter.grad, atol=1e-5), name


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 15, 9), (3, 32, 32), (1, 64, 64)])
def test_images_of_many_sizes_fit(shape: tuple[int, ...]) -> None:
    image = ModalitySpec(name="photo", kind="image", shape=shape)
    spec = DataSpec(modalities=(image,), task=CLASSES)
    for section in ("image_cnn", "fusion_net"):
        net = getattr(LearnerSettings(), section).build(spec, 0)
        out = net({"photo": torch.randn(2, *shape)}, torch.ones(2, 1, dtype=torch.bool))
        assert out.shape == (2, 3)


def test_an_image_too_small_for_convolutions_is_refused() -> None:
    spec = DataSpec(modalities=(ModalitySpec(name="dot", kind="image", shape=(1, 2, 9)),), task=CLASSES)
    assert "too small" in str(LearnerSettings().image_cnn.supports(spec))


def test_heads_that_do_not_share_the_width_are_refused() -> None:
    with pytest.raises(ConfigError, match="multiple of `num_heads`"):
        type(LearnerSettings().fusion_net).parse({"width": 10, "num_heads": 4}, "test")


# estimators


def fitted(config: Any, spec: DataSpec, samples: Samples, seed: int = 0, **how: Any) -> Estimator:
    return config.build(spec, seed).fit(samples, **how)


@TASKS
@every_estimator
def test_it_learns_and_answers_in_the_tasks_terms(config: Any, task: TaskSpec) -> None:
    spec = spec_for(config, task)
    train, test = samples_for(spec, 150), samples_for(spec, 60, seed=1)
    predicted = fitted(config, spec, train).predict(test)
    assert predicted.shape == (60, task.num_outputs) and predicted.dtype == np.float64
    assert test.target is not None and score(task, predicted, test.target) > 0.85
    if task.kind != "regression":
        assert (predicted > 0).all() and (predicted < 1).all()
    if task.kind == "classification":
        np.testing.assert_allclose(predicted.sum(axis=1), 1)


@TASKS
@every_estimator
def test_save_and_load_give_equal_predictions_without_pickle(config: Any, task: TaskSpec, tmp_path: Path) -> None:
    spec = spec_for(config, task)
    samples = samples_for(spec)
    estimator = fitted(config, spec, samples)
    estimator.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["estimator.skops"]
    loaded = config.build(spec, 1).load(tmp_path)
    assert np.array_equal(loaded.predict(samples), estimator.predict(samples))


@every_estimator
def test_a_file_with_a_foreign_type_is_refused(config: Any, tmp_path: Path) -> None:
    import functools

    import skops.io

    (tmp_path / "estimator.skops").write_bytes(skops.io.dumps({"learnt": functools.partial(print, "harm")}))
    with pytest.raises(StorageError, match="never saves"):
        config.build(spec_for(config, CLASSES), 0).load(tmp_path)


@every_estimator
@pytest.mark.parametrize("content", [b"", b"not a zip file", None])
def test_a_file_that_cannot_be_read_is_refused(config: Any, content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "estimator.skops").write_bytes(content)
    with pytest.raises(StorageError, match="train it again"):
        config.build(spec_for(config, CLASSES), 0).load(tmp_path)


@every_estimator
def test_same_seed_same_predictions(config: Any) -> None:
    spec = spec_for(config, CLASSES)
    samples = samples_for(spec)
    np.random.seed(1)  # noqa: NPY002 - the global generator must not matter
    first = fitted(config, spec, samples, seed=3).predict(samples)
    np.random.seed(2)  # noqa: NPY002
    assert np.array_equal(first, fitted(config, spec, samples, seed=3).predict(samples))


@TASKS
@every_estimator
def test_absent_values_do_not_matter_to_fitting_or_answering(config: Any, task: TaskSpec) -> None:
    spec = spec_for(config, task)
    train, test = samples_for(spec), samples_for(spec, 30, seed=1)
    clean = fitted(config, spec, train).predict(test)
    assert np.array_equal(clean, fitted(config, spec, spoil_absent(train)).predict(spoil_absent(test)))


@TASKS
@every_estimator
def test_it_survives_every_missing_modality(config: Any, task: TaskSpec) -> None:
    spec = spec_for(config, task)
    estimator = fitted(config, spec, samples_for(spec))
    test = samples_for(spec, 20, seed=1)
    for missing in [*([name] for name in spec.names), list(spec.names)]:
        assert np.isfinite(estimator.predict(test.without(missing))).all()


@TASKS
@every_estimator
def test_a_modality_that_no_training_row_has_is_no_obstacle(config: Any, task: TaskSpec) -> None:
    spec = spec_for(config, task)
    train, test = samples_for(spec), samples_for(spec, 20, seed=1)
    for name in spec.names:
        assert np.isfinite(fitted(config, spec, train.without([name])).predict(test)).all()
    assert np.isfinite(fitted(config, spec, train.without(spec.names)).predict(test)).all()


@every_estimator
def test_a_class_no_training_row_has_is_unlikely_and_not_impossible(config: Any) -> None:
    spec = spec_for(config, CLASSES)
    train = samples_for(spec)
    assert train.target is not None
    predicted = fitted(config, spec, train.take(np.flatnonzero(train.target != 1))).predict(train)
    assert predicted.shape == (90, 3)
    assert (predicted[:, 1] > 0).all() and (predicted[:, 1] < 0.01).all()
    assert score(CLASSES, predicted[train.target != 1], train.target[train.target != 1]) > 0.85


@every_estimator
def test_a_single_class_is_learnt_as_a_constant(config: Any, tmp_path: Path) -> None:
    spec = spec_for(config, CLASSES)
    train = samples_for(spec)
    assert train.target is not None
    estimator = fitted(config, spec, train.take(np.flatnonzero(train.target == 2)))
    assert (estimator.predict(train)[:, 2] > 0.9).all()
    estimator.save(tmp_path)
    assert np.array_equal(config.build(spec, 0).load(tmp_path).predict(train), estimator.predict(train))


@every_estimator
def test_labels_that_never_vary_are_learnt_as_constants(config: Any) -> None:
    spec = spec_for(config, LABELS)
    train = samples_for(spec)
    assert train.target is not None
    always = replace(train, target=np.stack([train.target[:, 0], np.ones(90, dtype=np.float32)], axis=1))
    predicted = fitted(config, spec, always).predict(train)
    assert (predicted[:, 1] > 0.9).all() and score(LABELS, predicted[:, :1], train.target[:, :1]) > 0.85


@every_estimator
def test_a_row_drawn_twice_counts_like_a_row_of_weight_two(config: Any) -> None:
    spec = spec_for(config, CLASSES)
    train = samples_for(spec)
    drawn = np.random.default_rng(0).integers(0, 90, 90)
    rows, counts = np.unique(drawn, return_counts=True)
    twice = fitted(config, spec, train.take(np.sort(drawn))).predict(train)
    weighted = fitted(config, spec, train.take(rows), weight=counts.astype(np.float64)).predict(train)
    assert np.array_equal(twice, weighted)


@every_estimator
def test_weights_matter(config: Any) -> None:
    spec = spec_for(config, VALUES)
    train = samples_for(spec)
    assert train.target is not None
    heavy = np.where(train.target[:, 0] > 0, 1.0, 1e-3)
    plain, pulled = fitted(config, spec, train).predict(train), fitted(config, spec, train, weight=heavy).predict(train)
    assert not np.allclose(plain, pulled)


@TASKS
@every_estimator
@pytest.mark.parametrize("num_rows", [2, 3, 7])
def test_a_handful_of_rows_is_enough(config: Any, task: TaskSpec, num_rows: int) -> None:
    spec = spec_for(config, task)
    predicted = fitted(config, spec, samples_for(spec, num_rows)).predict(samples_for(spec, 5, seed=1))
    assert predicted.shape == (5, task.num_outputs) and np.isfinite(predicted).all()


@TASKS
@every_estimator
def test_constant_columns_are_no_obstacle(config: Any, task: TaskSpec) -> None:
    spec = spec_for(config, task)
    train = samples_for(spec)
    constant = {n: np.full_like(v, "the") if v.dtype == object else np.zeros_like(v) for n, v in train.inputs.items()}
    assert np.isfinite(fitted(config, spec, replace(train, inputs=constant)).predict(train)).all()


@every_estimator
def test_no_rows_are_refused_to_fit_and_fine_to_predict(config: Any) -> None:
    spec = spec_for(config, CLASSES)
    train = samples_for(spec)
    nothing = train.take(np.zeros(0, dtype=np.int64))
    with pytest.raises(DataError, match="got 0 rows"):
        fitted(config, spec, nothing)
    with pytest.raises(DataError, match="target"):
        fitted(config, spec, replace(train, target=None))
    assert fitted(config, spec, train).predict(nothing).shape == (0, 3)


@every_estimator
def test_groups_are_taken_into_account_without_changing_the_shape(config: Any) -> None:
    spec = spec_for(config, CLASSES)
    train = replace(samples_for(spec), groups=np.array([f"g{i // 3}" for i in range(90)], dtype=object))
    assert score(CLASSES, fitted(config, spec, train).predict(train), np.asarray(train.target)) > 0.85


@every_estimator
def test_a_single_column_is_enough(config: Any) -> None:
    if "vector" not in config.modality_kinds or kind(config) == "tfidf_linear":
        pytest.skip("this learner needs a text")
    spec = DataSpec(modalities=(VECTOR.model_copy(update={"shape": (1,)}),), task=CLASSES)
    samples = samples_for(spec)
    assert np.isfinite(fitted(config, spec, samples).predict(samples)).all()


@every_estimator
def test_too_many_columns_are_a_reason_not_to(config: Any) -> None:
    huge = ModalitySpec(name="photo", kind="image", shape=(3, 64, 64))
    spec = spec_for(config, CLASSES)
    reason = config.supports(spec.model_copy(update={"modalities": (*spec.modalities, huge)}))
    assert "too many" in reason


def test_text_is_asked_for_where_it_is_needed() -> None:
    spec = DataSpec(modalities=(VECTOR,), task=CLASSES)
    assert "text" in str(LearnerSettings().tfidf_linear.supports(spec))


def test_no_warning_is_swallowed_by_default_filters() -> None:
    with pytest.raises(UserWarning):
        warnings.warn("filters of this module turn warnings into errors", UserWarning, stacklevel=1)
