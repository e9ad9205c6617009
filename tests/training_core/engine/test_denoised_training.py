"""Trainings with denoising: alone and in stacks, its weights over the epochs, and what is left of it afterwards."""

import io
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from training_core.data.views import HeldSamples
from training_core.engine.alone import Trained, train_alone
from training_core.engine.cohort import training as cohort_training
from training_core.engine.cohort.grouping import share_out
from training_core.engine.cohort.training import Stack, open_stack
from training_core.engine.denoising import DenoisingWeights
from training_core.engine.loop import Hook, Snapshot, TrainingState
from training_core.engine.prepare import LearnerRequest, prepare
from training_core.engine.train import train_learners
from training_core.engine.training import TrainingConfig
from training_core.learners import FusionNetConfig, LearnerConfig, LinearConfig, TabularMLPConfig
from training_core.objectives.denoising import OBJECTIVES, DenoisedNet, DenoisingConfig, first_weights
from training_core.schema import DataSpec, ModalitySpec, Samples, TaskSpec

CLASSES = TaskSpec.classification("abc")
STILL = FusionNetConfig(width=8, num_heads=2, dropout=0.0)  # draws nothing: alone and together are comparable
QUICK = TrainingConfig(epochs=4, batch_size=16, stacking="always", patience=3, lr=0.01)
DRAWS_NOTHING = tuple(kind for kind in OBJECTIVES if kind != "information")


def world(num_rows: int, seed: int, task: TaskSpec = CLASSES) -> tuple[DataSpec, Samples]:
    draws = np.random.default_rng(seed)
    hidden = draws.integers(0, 3, num_rows)
    inputs = {"vec": draws.normal(size=(num_rows, 5)), "other": draws.normal(size=(num_rows, 4))}
    inputs["vec"][:, 0] += hidden
    inputs["other"][:, 1] -= hidden
    targets = {
        "classification": hidden.astype(np.int64),
        "multilabel": np.stack([hidden == 0, hidden > 1], axis=1).astype(np.float32),
        "regression": 10.0 + 3.0 * hidden[:, None].astype(np.float64),
    }
    spec = DataSpec(
        modalities=tuple(ModalitySpec(name=n, kind="vector", shape=v.shape[1:]) for n, v in inputs.items()), task=task
    )
    ids = np.array([f"row-{i}" for i in range(num_rows)], dtype=object)
    available = {"vec": draws.random(num_rows) > 0.1, "other": np.ones(num_rows, bool)}
    return spec, Samples(inputs, available, ids, targets[task.kind])


def ask(
    k: int,
    denoising: DenoisingConfig,
    config: LearnerConfig = STILL,
    training: TrainingConfig = QUICK,
    task: TaskSpec = CLASSES,
    names: Sequence[str] = ("vec", "other"),
) -> LearnerRequest:
    """The request of learner `k`: rows of its own, and not as many as the others have."""
    spec, samples = world(60 + 3 * k, k, task)
    _, judged = world(40, 100 + k, task)
    own = spec.select(names)
    train, validation = HeldSamples(samples, spec), HeldSamples(judged, spec)
    return LearnerRequest(config, train, validation, own, {}, training, seed=7 + k, denoising=denoising)


def on(*objectives: Any, **settings: Any) -> DenoisingConfig:
    return DenoisingConfig.model_validate({"enabled": True, "objectives": objectives or DRAWS_NOTHING, **settings})


def together(requests: Sequence[LearnerRequest]) -> list[Trained]:
    stack = open_stack([prepare(request) for request in requests])
    assert isinstance(stack, Stack), stack
    found = []
    for outcome in stack.train():
        assert isinstance(outcome, Trained), outcome
        found.append(outcome)
    return found


def assert_alike(one: Trained, other: Trained, tolerance: float = 1e-3) -> None:
    _, samples = world(50, 999)
    np.testing.assert_allclose(one.learner.predict(samples), other.learner.predict(samples), atol=tolerance)
    assert one.history.best_epoch == other.history.best_epoch
    for mine, theirs in zip(one.history.epochs, other.history.epochs, strict=True):
        assert mine.keys() == theirs.keys()
        np.testing.assert_allclose(list(mine.values()), [theirs[key] for key in mine], rtol=2e-3, atol=tolerance)


@pytest.mark.parametrize("strategy", ["fixed", "adaptive", "curriculum"])
def test_learners_of_a_stack_end_as_they_would_alone(strategy: Any) -> None:
    requests = [ask(k, on(strategy=strategy, weight=0.3, hardness=0.5)) for k in range(3)]
    for request, outcome in zip(requests, together(requests), strict=True):
        assert_alike(outcome, train_alone(prepare(request)))


def test_each_learner_of_a_stack_may_have_weights_and_a_rate_of_its_own() -> None:
    own = [(0.0, 0.9), (0.1, 0.5), (1.0, 0.0)]
    requests = [ask(k, on(weight=weight, modality_dropout=rate)) for k, (weight, rate) in enumerate(own)]
    for request, outcome in zip(requests, together(requests), strict=True):
        assert_alike(outcome, train_alone(prepare(request)))


@pytest.mark.parametrize("task", [TaskSpec.regression(("y",)), TaskSpec.multilabel("pq")], ids=lambda task: task.kind)
def test_other_tasks_are_denoised_in_stacks_too(task: TaskSpec) -> None:
    requests = [ask(k, on("consistency", "prediction"), task=task) for k in range(2)]
    for request, outcome in zip(requests, together(requests), strict=True):
        assert_alike(outcome, train_alone(prepare(request)), tolerance=5e-3)


def test_a_stack_with_a_bottleneck_trains() -> None:
    for outcome in together([ask(k, on("information")) for k in range(2)]):
        values = outcome.history.curve("training/denoising/information")
        assert len(values) == len(outcome.history.epochs) and values[-1][1] < values[0][1]


def test_every_term_is_in_the_history_of_every_epoch() -> None:
    trained = train_alone(prepare(ask(0, on(*OBJECTIVES))))
    for metrics in trained.history.epochs:
        for kind in OBJECTIVES:
            assert {
                f"training/denoising/{kind}",
                f"training/denoising/{kind}/vec",
                f"training/denoising/{kind}/other",
            } <= {*metrics}
        assert {"training/supervised/cross_entropy", "training/denoising/total", "validation/loss"} <= metrics.keys()
        whole = metrics["training/supervised/cross_entropy"] + metrics["training/denoising/total"]
        assert metrics["training/loss"] == pytest.approx(whole, rel=1e-5)


def test_denoising_hides_what_it_says_whatever_the_training_says() -> None:
    careless = QUICK.model_copy(update={"modality_dropout": 0.0})
    prepared = prepare(ask(0, on(modality_dropout=0.7), training=careless))
    assert (prepared.batching.modality_dropout, prepared.batching.dropout_schedule) == (0.7, "uniform")
    trained = train_alone(prepared)
    assert trained.learner.tolerates == {"vec", "other"}
    assert not prepare(ask(0, DenoisingConfig(), training=careless)).batching.modality_dropout


def test_nothing_of_it_is_left_in_the_net(tmp_path: Any) -> None:
    request = ask(0, on(*OBJECTIVES))
    trained = train_alone(prepare(request)).learner
    assert isinstance(trained.model, nn.Module) and not isinstance(trained.model, DenoisedNet)
    plain = STILL.build(trained.preprocessor.spec, 0)
    assert [*trained.model.state_dict()] == [*plain.state_dict()]
    trained.save(tmp_path)
    _, samples = world(20, 5)
    loaded = type(trained).load(tmp_path)
    np.testing.assert_array_equal(loaded.predict(samples), trained.predict(samples))


def test_switched_off_it_changes_no_bit() -> None:
    plain = train_alone(prepare(ask(0, DenoisingConfig())))
    off = train_alone(prepare(ask(0, DenoisingConfig(weight=9.0, objectives=OBJECTIVES))))
    assert plain.history == off.history
    _, samples = world(20, 5)
    np.testing.assert_array_equal(plain.learner.predict(samples), off.learner.predict(samples))


def test_a_weight_of_nothing_teaches_nothing_but_the_target() -> None:
    hiding = QUICK.model_copy(update={"modality_dropout": 0.6, "modality_dropout_schedule": "uniform"})
    plain = train_alone(prepare(ask(0, DenoisingConfig(), training=hiding)))
    weightless = train_alone(prepare(ask(0, on(weight=0.0, views=("shown",), modality_dropout=0.6))))
    _, samples = world(20, 5)
    np.testing.assert_allclose(plain.learner.predict(samples), weightless.learner.predict(samples), atol=1e-5)


@pytest.mark.parametrize(
    ("config", "names", "reason"),
    [
        (STILL, ("vec",), "vec only"),
        (TabularMLPConfig(width=8), ("vec",), "no latents"),
        (LinearConfig(), ("vec", "other"), "one step"),
    ],
    ids=["one modality", "a net without latents", "an estimator"],
)
def test_whom_it_does_not_concern_trains_without_and_says_why(
    config: LearnerConfig, names: Sequence[str], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        trained = train_alone(prepare(ask(0, on(), config, names=names)))
    assert "trains without denoising" in caplog.text and reason in caplog.text
    assert not any("denoising" in name for metrics in trained.history.epochs for name in metrics)


def test_learners_denoised_differently_do_not_share_a_stack() -> None:
    asked = [ask(0, on()), ask(1, on(weight=0.2)), ask(2, on(views=("shown",))), ask(3, DenoisingConfig())]
    units = share_out({k: prepare(request) for k, request in enumerate(asked)}, "cpu")
    assert [unit.members for unit in units] == [(0, 1), (2,), (3,)]


def test_schedules_of_dropout_may_differ_within_a_stack() -> None:
    def request(k: int) -> LearnerRequest:
        schedule = ("constant", "uniform", "linear")[k]
        own = QUICK.model_copy(update={"modality_dropout": 0.6, "modality_dropout_schedule": schedule})
        return ask(k, DenoisingConfig(), training=own)

    assert len(share_out({k: prepare(request(k)) for k in range(3)}, "cpu")) == 1
    for k, outcome in enumerate(together([request(k) for k in range(3)])):
        assert_alike(outcome, train_alone(prepare(request(k))))


class Weights(Hook):
    """Notes what the objectives weigh at the end of each epoch."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def on_epoch_end(self, state: TrainingState, model: nn.Module) -> None:
        self.seen.append(dict(model.named_buffers())["weights"].clone())


def test_a_curriculum_changes_the_weights_when_its_stages_say() -> None:
    from training_core.data.streams.choice import open_stream
    from training_core.engine.alone import build_objectives, build_update
    from training_core.engine.loop import fit

    config = on(
        "alignment",
        "consistency",
        strategy="curriculum",
        stages=({"epochs": 2, "objectives": ("alignment",)}, {"epochs": 1, "weight": 0.5}),
    )
    prepared = prepare(ask(0, config))
    net, watch = prepared.trained_net("cpu"), Weights()
    objective, _ = build_objectives(CLASSES, QUICK, None, denoised=True)
    stream = open_stream(prepared.rows, prepared.preprocessor, prepared.batching)
    fit(net, stream, build_update(QUICK, objective), [DenoisingWeights(config), watch], epochs=4)
    expected = [[0.1, 0.0], [0.1, 0.0], [0.5, 5.0], [0.5, 5.0]]
    assert [[round(value, 6) for value in weights.tolist()] for weights in watch.seen] == expected


def test_adaptive_weights_are_each_learners_own_in_a_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    stacks: list[Any] = []
    real = cohort_training.StackedModel
    monkeypatch.setattr(cohort_training, "StackedModel", lambda *given: stacks.append(real(*given)) or stacks[-1])
    endless = QUICK.model_copy(update={"patience": 99})
    together([ask(k, on(strategy="adaptive"), training=endless) for k in range(3)])
    weights = stacks[0].buffers["weights"]
    assert weights.shape == (3, len(DRAWS_NOTHING)) and len({tuple(row) for row in weights.tolist()}) == 3
    ratio = weights / torch.tensor(first_weights(on(strategy="adaptive")))
    assert ((ratio >= 1 / 4 - 1e-5) & (ratio <= 4 + 1e-5)).all()


class Keep(Hook):
    """Copies a snapshot after an epoch, and interrupts."""

    def __init__(self, epoch: int) -> None:
        self.epoch, self.kept = epoch, b""

    def on_epoch_end(self, state: TrainingState, model: Any) -> None:
        if state.epoch == self.epoch and state.snapshot is not None:
            buffer = io.BytesIO()
            torch.save(state.snapshot(), buffer)
            self.kept = buffer.getvalue()


def test_an_interrupted_training_goes_on_bit_for_bit() -> None:
    from training_core.data.streams.choice import open_stream
    from training_core.engine.alone import build_objectives, build_update
    from training_core.engine.loop import fit
    from training_core.seeding import torch_seeded

    config = on(*OBJECTIVES, strategy="adaptive")
    uniform = QUICK.model_copy(update={"modality_dropout": 0.6, "modality_dropout_schedule": "uniform"})

    def run(keep: Keep, resume: Snapshot | None = None) -> tuple[Any, list[torch.Tensor]]:
        prepared = prepare(ask(0, config, training=uniform))
        net = prepared.trained_net("cpu")
        objective, _ = build_objectives(CLASSES, uniform, None, denoised=True)
        stream = open_stream(prepared.rows, prepared.preprocessor, prepared.batching)
        hooks = [DenoisingWeights(config), keep]
        with torch_seeded(3, "training"):
            history = fit(net, stream, build_update(uniform, objective), hooks, epochs=4, resume=resume)
        return history, list(net.state_dict().values())

    keep = Keep(2)
    history, expected = run(keep)
    resumed, found = run(Keep(9), torch.load(io.BytesIO(keep.kept), weights_only=True))
    assert resumed == history
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


@pytest.mark.parametrize(
    "settings", [{"accumulation": 2}, {"precision": "bf16"}, {"ema_decay": 0.9}, {"gradient_checkpointing": True}]
)
def test_it_goes_with_the_other_settings_of_training(settings: dict[str, Any]) -> None:
    training = QUICK.model_copy(update={**settings, "stacking": "never"})
    (outcome,) = train_learners([ask(0, on(*OBJECTIVES), training=training)])
    assert isinstance(outcome, Trained), outcome
    losses = outcome.history.curve("training/denoising/total")
    assert losses[-1][1] < losses[0][1]
