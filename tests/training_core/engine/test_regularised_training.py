"""Noise, hidden features and mixed rows in training: alone and in stacks, interrupted, and nowhere but in training."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from training_core.data.views import HeldSamples
from training_core.engine import alone
from training_core.engine.alone import Trained, train_alone
from training_core.engine.cohort import training as cohort_training
from training_core.engine.cohort.grouping import share_out
from training_core.engine.cohort.training import Stack, open_stack
from training_core.engine.loop import Hook, TrainingState
from training_core.engine.prepare import LearnerRequest, prepare
from training_core.engine.soft_targets import loss_of_mixed
from training_core.engine.training import TrainingConfig
from training_core.errors import ConfigError
from training_core.learners import FusionNetConfig, HistBoostingConfig, LearnerConfig
from training_core.objectives import Supervised
from training_core.objectives.denoising import DenoisingConfig
from training_core.schema import Batch, ColumnSpec, DataSpec, ModalitySpec, Samples, TaskSpec

CLASSES = TaskSpec.classification(("a", "b", "c"))
LABELS = TaskSpec.multilabel(("p", "q"))
VALUES = TaskSpec.regression(("y",))
STILL = FusionNetConfig(width=8, num_heads=2, dropout=0.0)  # draws nothing by itself: alone and together are comparable
QUICK = TrainingConfig(epochs=4, batch_size=16, stacking="always", lr=0.01)
EVERYTHING: dict[str, Any] = {"input_noise": 0.2, "feature_dropout": 0.1, "mixup": 0.3}


def world(num_rows: int, seed: int, task: TaskSpec = CLASSES) -> tuple[DataSpec, Samples]:
    """A vector and a table of numbers, some of them missing, that tell of one hidden class."""
    source = np.random.default_rng(seed)
    hidden = source.integers(0, 3, num_rows)
    vec, table = source.normal(size=(num_rows, 5)), source.normal(size=(num_rows, 3))
    vec[:, 0] += hidden
    table[:, 1] -= hidden
    table[source.random(num_rows) < 0.2, seed % 3] = np.nan
    targets = {
        "classification": hidden.astype(np.int64),
        "multilabel": np.stack([hidden == 0, hidden > 1], axis=1).astype(np.float32),
        "regression": 10.0 + 3.0 * hidden[:, None].astype(np.float64),
    }
    columns = tuple(ColumnSpec(name=name) for name in ("x", "y", "z"))
    modalities = (
        ModalitySpec(name="vec", kind="vector", shape=(5,)),
        ModalitySpec(name="table", kind="tabular", shape=(3,), columns=columns),
    )
    ids = np.array([f"row-{i}" for i in range(num_rows)], dtype=object)
    available = {"vec": source.random(num_rows) < 0.9}
    available["table"] = ~available["vec"] | (source.random(num_rows) < 0.9)
    samples = Samples({"vec": vec, "table": table}, available, ids, targets[task.kind])
    return DataSpec(modalities=modalities, task=task), samples


def ask(k: int, task: TaskSpec = CLASSES, config: LearnerConfig = STILL, **settings: Any) -> LearnerRequest:
    denoising = settings.pop("denoising", DenoisingConfig())
    spec, samples = world(60 + 3 * k, k, task)
    _, judged = world(40, 100 + k, task)
    training = QUICK.model_copy(update=settings)
    rows, held = HeldSamples(samples, spec), HeldSamples(judged, spec)
    return LearnerRequest(config, rows, held, spec, {}, training, seed=7 + k, denoising=denoising)


def together(requests: list[LearnerRequest]) -> list[Trained]:
    stack = open_stack([prepare(request) for request in requests])
    assert isinstance(stack, Stack), stack
    outcomes = stack.train()
    assert all(isinstance(outcome, Trained) for outcome in outcomes), outcomes
    return [outcome for outcome in outcomes if isinstance(outcome, Trained)]


def answers(trained: Trained, task: TaskSpec = CLASSES) -> np.ndarray:
    return trained.learner.predict(world(50, 999, task)[1])


class Said(nn.Module):
    """Answers with what it was given."""

    def forward(self, inputs: dict[str, Tensor], available: Tensor) -> Tensor:
        return inputs["logits"]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_a_mixed_row_is_that_of_its_parts_by_their_shares(smoothing: float) -> None:
    draws = torch.Generator().manual_seed(0)
    logits, share = torch.randn(20, 3, generator=draws), torch.rand(20, generator=draws)
    one, other = torch.randint(0, 3, (2, 20), generator=draws)
    mixed = share[:, None] * functional.one_hot(one, 3) + (1 - share)[:, None] * functional.one_hot(other, 3)
    loss = loss_of_mixed(CLASSES, TrainingConfig(mixup=1.0, label_smoothing=smoothing))
    assert loss is not None
    there = torch.ones(20, 1, dtype=torch.bool)
    found = Supervised(CLASSES, loss=loss)(Said(), Batch({"logits": logits}, there, mixed)).total
    parts = [functional.cross_entropy(logits, t, reduction="none", label_smoothing=smoothing) for t in (one, other)]
    torch.testing.assert_close(found, (share * parts[0] + (1 - share) * parts[1]).mean())


def test_so_is_that_of_mixed_labels() -> None:
    draws = torch.Generator().manual_seed(0)
    logits, share = torch.randn(20, 2, generator=draws), torch.rand(20, 1, generator=draws)
    one, other = torch.randint(0, 2, (2, 20, 2), generator=draws).float()
    loss = loss_of_mixed(LABELS, TrainingConfig(mixup=1.0))
    assert loss is not None
    found = loss.losses(logits, share * one + (1 - share) * other)
    parts = [loss.losses(logits, target) for target in (one, other)]
    torch.testing.assert_close(found, share[:, 0] * parts[0] + (1 - share[:, 0]) * parts[1])


@pytest.mark.parametrize(
    ("task", "more"),
    [
        (CLASSES, {"class_weights": "balanced", "modality_dropout": 0.3}),
        (CLASSES, {"denoising": DenoisingConfig(enabled=True)}),
        (LABELS, {"label_smoothing": 0.1}),
        (VALUES, {}),
    ],
    ids=["classes", "denoised", "labels", "values"],
)
def test_learners_of_a_stack_are_perturbed_each_by_its_own_rates_as_alone(task: TaskSpec, more: dict[str, Any]) -> None:
    own: list[dict[str, Any]] = [EVERYTHING, {"mixup": 1.0, "label_smoothing": 0.2 * (task is CLASSES)}, {}]
    if task is VALUES or "denoising" in more:
        own[1] = {"mixup": 1.0}
    requests = [ask(k, task, **{**more, **one}) for k, one in enumerate(own)]
    (unit,) = share_out({k: prepare(request) for k, request in enumerate(requests)}, "cpu")
    assert unit.members == (0, 1, 2)
    for request, outcome in zip(requests, together(requests), strict=True):
        np.testing.assert_allclose(answers(outcome, task), answers(train_alone(prepare(request)), task), atol=2e-3)


@pytest.mark.parametrize("setting", EVERYTHING)
def test_each_changes_what_is_learned_and_nothing_by_which_it_is_judged(setting: str) -> None:
    """With steps of no length: the same weights on rows that were changed, and on those held back."""
    standing: dict[str, Any] = {"epochs": 1, "lr": 1e-12, "weight_decay": 0.0, "modality_dropout": 0.0}
    plain, changed = (train_alone(prepare(ask(0, **{**standing, setting: value}))) for value in (0.0, 0.5))
    losses = [dict(one.history.epochs[0]) for one in (plain, changed)]
    assert losses[0]["validation/loss"] == pytest.approx(losses[1]["validation/loss"], abs=1e-6)
    assert losses[0]["training/loss"] != pytest.approx(losses[1]["training/loss"], abs=1e-4)
    np.testing.assert_allclose(answers(plain), answers(changed), atol=1e-6)


class SnapshotAt(Hook):
    """Keeps what a checkpoint taken at `step` would hold."""

    def __init__(self, step: int) -> None:
        self.step, self.kept = step, io.BytesIO()

    def on_batch_end(self, state: TrainingState, model: Any) -> None:
        if state.step == self.step and state.snapshot is not None:
            torch.save(state.snapshot(), self.kept)

    def read(self) -> dict[str, Any]:
        self.kept.seek(0)
        return torch.load(self.kept, weights_only=True)


@pytest.mark.parametrize("as_stack", [False, True])
def test_an_interrupted_training_goes_on_bit_for_bit(as_stack: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    where = cohort_training if as_stack else alone

    def run(hook: Hook, resume: Any) -> list[Trained]:
        monkeypatch.setattr(where, "going_on", lambda *_: (resume, [hook]))
        requests = [ask(k, **EVERYTHING) for k in range(1 + as_stack)]
        return together(requests) if as_stack else [train_alone(prepare(request)) for request in requests]

    taken = SnapshotAt(6)  # in the middle of the second epoch of four batches
    straight = run(taken, None)
    for one, other in zip(straight, run(Hook(), taken.read()), strict=True):
        assert one.history == other.history
        assert np.array_equal(answers(one), answers(other))


def test_mixup_is_refused_where_there_is_nothing_between_two_rows() -> None:
    with pytest.raises(ConfigError, match="the loss 'focal' has no form for answers that are shares"):
        prepare(ask(0, mixup=0.2, loss="focal"))
    with pytest.raises(ConfigError, match="what a positive of each label counts"):
        prepare(ask(0, LABELS, mixup=0.2, class_weights="balanced"))
    spec, samples = world(30, 0)
    kinds = (*spec["table"].columns[:2], ColumnSpec(name="kind", categories=("r", "g")))
    table = spec["table"].model_copy(update={"columns": kinds})
    spec = spec.model_copy(update={"modalities": (spec["vec"], table)})
    samples.inputs["table"][:, 2] = np.arange(30) % 2
    rows, training = HeldSamples(samples, spec), TrainingConfig(mixup=0.2)
    with pytest.raises(ConfigError, match="column 'kind' of 'table' holds categories"):
        prepare(LearnerRequest(STILL, rows, None, spec, {}, training, seed=0))
    part = spec.select(["vec"])
    assert prepare(LearnerRequest(STILL, rows, None, part, {}, training, seed=0)).batching.perturbation is not None
    prepare(LearnerRequest(HistBoostingConfig(), rows, None, spec, {}, training, seed=0))  # it reads none of this


def test_nothing_is_drawn_unless_it_is_asked_for() -> None:
    assert prepare(ask(0)).batching.perturbation is None
