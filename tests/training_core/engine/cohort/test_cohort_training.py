"""Learners that train together end as they would alone, each by its own rules, and can be interrupted."""

import dataclasses
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from training_core.data.views import HeldSamples
from training_core.engine.alone import Trained, train_alone
from training_core.engine.cohort import training as cohort_training
from training_core.engine.cohort import validation as cohort_validation
from training_core.engine.cohort.choice import FormChoice
from training_core.engine.cohort.grouping import share_out, shared_in_stack
from training_core.engine.cohort.training import Stack, open_stack
from training_core.engine.loop import Hook, Snapshot, TrainingState
from training_core.engine.prepare import LearnerRequest, prepare
from training_core.engine.train import train_in_units, train_learners
from training_core.engine.training import TrainingConfig
from training_core.errors import DataError, DivergenceError
from training_core.learners import FusionNetConfig, LearnerConfig, LinearConfig, TabularMLPConfig
from training_core.schema import DataSpec, ModalitySpec, Samples, TaskSpec

CLASSES = TaskSpec.classification(("a", "b", "c"))
STILL = TabularMLPConfig(width=16, dropout=0.0)  # draws nothing while it trains: alone and together are comparable
QUICK = TrainingConfig(epochs=6, batch_size=16, stacking="always", patience=3, lr=0.01)


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
    modalities = tuple(ModalitySpec(name=n, kind="vector", shape=v.shape[1:]) for n, v in inputs.items())
    spec = DataSpec(modalities=modalities, task=task)
    ids = np.array([f"row-{i}" for i in range(num_rows)], dtype=object)
    available = {name: np.ones(num_rows, bool) for name in inputs}
    return spec, Samples(inputs, available, ids, targets[task.kind])


def ask(
    k: int,
    config: LearnerConfig = STILL,
    training: TrainingConfig = QUICK,
    task: TaskSpec = CLASSES,
    num_rows: int = 0,
    validated: bool = True,
    **more: Any,
) -> LearnerRequest:
    """The request of learner `k`: rows of its own, and not as many as the others have."""
    spec, samples = world(num_rows or 60 + 3 * k, k, task)
    _, judged = world(40, 100 + k, task)
    held = HeldSamples(judged, spec) if validated else None
    return LearnerRequest(config, HeldSamples(samples, spec), held, spec, {}, training, seed=7 + k, **more)


def together(requests: Sequence[LearnerRequest]) -> list[Trained | Exception]:
    stack = open_stack([prepare(request) for request in requests])
    assert isinstance(stack, Stack), stack
    return stack.train()


def good(outcome: Trained | Exception) -> Trained:
    assert isinstance(outcome, Trained), outcome
    return outcome


def assert_alike(one: Trained, other: Trained, tolerance: float = 1e-4) -> None:
    _, samples = world(50, 999)
    np.testing.assert_allclose(one.learner.predict(samples), other.learner.predict(samples), atol=tolerance)
    assert one.learner.tolerates == other.learner.tolerates
    left, right = one.history, other.history
    assert (left.num_steps, left.stop_reason, left.best_epoch) == (right.num_steps, right.stop_reason, right.best_epoch)
    assert len(left.epochs) == len(right.epochs)
    for mine, theirs in zip(left.epochs, right.epochs, strict=True):
        assert mine.keys() == theirs.keys()
        np.testing.assert_allclose(list(mine.values()), [theirs[key] for key in mine], rtol=2e-3, atol=tolerance)


@pytest.mark.parametrize("validated", [True, False])
@pytest.mark.parametrize("config", [STILL, FusionNetConfig(width=8, num_heads=2, dropout=0.0)], ids=lambda c: c.kind)
def test_each_learner_of_a_stack_ends_as_it_would_alone(config: LearnerConfig, validated: bool) -> None:
    requests = [ask(k, config, validated=validated) for k in range(4)]
    for request, outcome in zip(requests, together(requests), strict=True):
        assert_alike(good(outcome), train_alone(prepare(request)))
        assert good(outcome).trained_as == "stacked with 3 others (as `training.stacking` says)"


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "radam"])
def test_learners_have_rates_schedules_limits_and_patience_of_their_own(optimizer: str) -> None:
    def settings(k: int) -> TrainingConfig:
        own = {"lr": 0.003 * (k + 1), "weight_decay": 0.01 * k, "clip_norm": (0.1, 0.0, 2.0)[k], "patience": 1 + k}
        schedules = ("one_cycle", "plateau", "cosine_restarts")
        return QUICK.model_copy(update={**own, "schedule": schedules[k], "optimizer": optimizer, "warmup_epochs": 1.0})

    requests = [ask(k, training=settings(k)) for k in range(3)]
    for request, outcome in zip(requests, together(requests), strict=True):
        assert_alike(good(outcome), train_alone(prepare(request)))


@pytest.mark.parametrize("task", [TaskSpec.regression(("y",)), TaskSpec.multilabel(("p", "q"))], ids=lambda t: t.kind)
def test_other_tasks_train_together_too(task: TaskSpec) -> None:
    requests = [ask(k, task=task) for k in range(3)]
    for request, outcome in zip(requests, together(requests), strict=True):
        assert_alike(good(outcome), train_alone(prepare(request)), tolerance=1e-3)


def test_classes_are_weighed_by_each_learner_s_own_rows() -> None:
    balanced = QUICK.model_copy(update={"class_weights": "balanced", "label_smoothing": 0.1})
    requests = [ask(k, training=balanced) for k in range(3)]
    _, samples = world(50, 999)
    for request, outcome in zip(requests, together(requests), strict=True):
        alone = train_alone(prepare(request))
        np.testing.assert_allclose(good(outcome).learner.predict(samples), alone.learner.predict(samples), atol=1e-4)
        watched = [dict(t.history.curve("validation/loss")) for t in (good(outcome), alone)]
        np.testing.assert_allclose(list(watched[0].values()), list(watched[1].values()), rtol=1e-4)


@pytest.mark.parametrize("task", [CLASSES, TaskSpec.multilabel(("p", "q"))], ids=lambda task: task.kind)
def test_learners_smooth_labels_and_average_weights_each_by_its_own_share(task: TaskSpec) -> None:
    requests = [
        ask(
            k,
            training=QUICK.model_copy(update={"label_smoothing": 0.2 * k, "ema_decay": (0.0, 0.5, 0.99)[k]}),
            task=task,
        )
        for k in range(3)
    ]
    for request, outcome in zip(requests, together(requests), strict=True):
        assert_alike(good(outcome), train_alone(prepare(request)))


def test_the_average_of_weights_is_kept_where_nothing_is_validated() -> None:
    settings = [QUICK.model_copy(update={"ema_decay": decay}) for decay in (0.9, 0.0)]
    requests = [ask(k, training=training, validated=False) for k, training in enumerate(settings)]
    found = together(requests)
    for request, outcome in zip(requests, found, strict=True):
        assert_alike(good(outcome), train_alone(prepare(request)))
    last = train_alone(prepare(dataclasses.replace(requests[0], training=QUICK)))
    _, samples = world(50, 999)
    assert np.abs(last.learner.predict(samples) - good(found[0]).learner.predict(samples)).max() > 1e-3


def test_class_weights_are_each_learner_s_own_where_they_weigh_rows() -> None:
    kinds = ("none", "balanced", "none")
    requests = [ask(k, training=QUICK.model_copy(update={"class_weights": kind})) for k, kind in enumerate(kinds)]
    _, samples = world(50, 999)
    for request, outcome in zip(requests, together(requests), strict=True):
        alone = train_alone(prepare(request)).learner
        np.testing.assert_allclose(good(outcome).learner.predict(samples), alone.predict(samples), atol=1e-4)


def units_of(requests: Sequence[LearnerRequest]) -> list[int]:
    return [len(unit.members) for unit in share_out({k: prepare(r) for k, r in enumerate(requests)}, "cpu")]


def test_learners_that_differ_in_numbers_that_are_no_structure_share_a_stack() -> None:
    own: list[dict[str, Any]] = [
        {"lr": 0.02}, {"weight_decay": 0.1}, {"label_smoothing": 0.1}, {"ema_decay": 0.9}, {"modality_dropout": 0.6},
        {"class_weights": "balanced"}, {"schedule": "linear"}, {"warmup_epochs": 1.0}, {"clip_norm": 0.3}, {},
    ]  # fmt: skip
    requests = [ask(k, training=QUICK.model_copy(update=one), num_rows=60) for k, one in enumerate(own)]
    requests[-1] = dataclasses.replace(requests[-1], config=STILL.model_copy(update={"dropout": 0.4}))
    assert units_of(requests) == [len(own)]
    assert len({shared_in_stack(r.config, r.training, r.denoising) for r in requests}) == 1
    shared: list[dict[str, Any]] = [{"batch_size": 8}, {"optimizer": "sgd"}, {"epochs": 7}, {"clip_value": 0.5}, {}]
    requests = [ask(k, training=QUICK.model_copy(update=one), num_rows=60) for k, one in enumerate(shared)]
    assert units_of(requests) == [1] * len(shared)


def test_what_a_stack_has_no_form_for_is_not_mixed() -> None:
    def settings(**own: Any) -> list[TrainingConfig]:
        return [QUICK, QUICK.model_copy(update=own)]

    labels = TaskSpec.multilabel(("p", "q"))
    weighed = [ask(k, training=t, task=labels, num_rows=60) for k, t in enumerate(settings(class_weights="balanced"))]
    assert units_of(weighed) == [1, 1]
    focal = QUICK.model_copy(update={"loss": "focal"})
    smoothed = [focal, focal.model_copy(update={"label_smoothing": 0.1})]
    assert units_of([ask(k, training=t, num_rows=60) for k, t in enumerate(smoothed)]) == [1, 1]
    wrong = [ask(k, training=t, num_rows=60) for k, t in enumerate(settings(loss="huber"))]
    assert units_of(wrong) == [1, 1], "which of them is wrong shows when it trains"


def test_what_a_learner_drops_does_not_depend_on_its_company() -> None:
    config = STILL.model_copy(update={"dropout": 0.4})
    requests = [ask(k, config, num_rows=60) for k in range(4)]
    apart = together(requests[2:])
    for one, other in zip(together(requests)[2:], apart, strict=True):
        assert_alike(good(one), good(other))
    with pytest.raises(AssertionError):  # alone it draws otherwise: this would notice
        assert_alike(good(apart[0]), train_alone(prepare(requests[2])))


def test_every_learner_stops_by_itself_and_is_told_of_its_own_epochs_only() -> None:
    told: dict[int, list[int]] = {k: [] for k in range(6)}
    impatient = TrainingConfig(epochs=40, batch_size=16, stacking="always", patience=2, lr=0.05)
    requests = [ask(k, training=impatient, on_epoch=lambda e, m, k=k: told[k].append(e)) for k in range(6)]
    outcomes = [good(outcome) for outcome in together(requests)]
    lengths = [len(outcome.history.epochs) for outcome in outcomes]
    assert len(set(lengths)) > 2, "the world is such that they stop one after another"
    assert [told[k] for k in range(6)] == [list(range(1, length + 1)) for length in lengths]
    for request, outcome in zip(requests, outcomes, strict=True):
        assert outcome.history.stop_reason == "no lower validation loss for 2 epochs"
        losses = dict(outcome.history.curve("validation/loss"))
        assert outcome.history.best_epoch is not None
        assert losses[outcome.history.best_epoch] == min(losses.values())
        alone = train_alone(prepare(request)).history
        assert (alone.best_epoch, len(alone.epochs)) == (outcome.history.best_epoch, len(outcome.history.epochs))


def test_the_weights_kept_are_those_of_the_best_epoch() -> None:
    requests = [ask(k, training=QUICK.model_copy(update={"epochs": 20, "lr": 0.05})) for k in range(4)]
    for request, outcome in zip(requests, together(requests), strict=True):
        history = good(outcome).history
        member = prepare(request)
        member = dataclasses.replace(member, model=good(outcome).learner.model)  # pyright: ignore[reportArgumentType]
        assert member.judged is not None
        predicted = good(outcome).learner.predict(member.judged.samples())
        target = member.judged.target()
        assert target is not None
        loss = -np.log(predicted[np.arange(len(target)), target]).mean()
        assert history.best_epoch is not None
        assert loss == pytest.approx(dict(history.curve("validation/loss"))[history.best_epoch], rel=1e-4)


def test_a_learner_that_diverges_costs_itself_only() -> None:
    wild = QUICK.model_copy(update={"lr": 1e30, "clip_norm": 0.0})
    requests = [ask(0), ask(1, training=wild), ask(2)]
    first, second, third = together(requests)
    assert isinstance(second, DivergenceError)
    assert str(second).startswith("tabular_mlp on vec+other: ")
    assert "lower `training.lr`" in str(second)
    assert_alike(good(first), train_alone(prepare(requests[0])))
    assert_alike(good(third), train_alone(prepare(requests[2])))


def test_a_stack_in_which_all_diverge_ends_at_once() -> None:
    wild = QUICK.model_copy(update={"lr": 1e30, "clip_norm": 0.0, "epochs": 100_000})
    assert all(isinstance(outcome, DivergenceError) for outcome in together([ask(k, training=wild) for k in range(3)]))


def test_the_same_stack_gives_the_same_bits_whatever_torch_drew_before() -> None:
    noisy = TabularMLPConfig(width=16, dropout=0.5)
    _, samples = world(50, 999)
    answers = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        answers.append([good(o).learner.predict(samples) for o in together([ask(k, noisy) for k in range(3)])])
    assert all(map(np.array_equal, *answers))


class SnapshotAt(Hook):
    """Keeps what a checkpoint taken at `step`, or at the end of the epoch it ends, would hold."""

    def __init__(self, step: int, late: bool) -> None:
        self.step, self.late, self.kept = step, late, io.BytesIO()
        self.steps = 0

    def on_batch_end(self, state: TrainingState, model: Any) -> None:
        self.steps = state.step
        if state.step == self.step and not self.late:
            self._take(state)

    def on_epoch_end(self, state: TrainingState, model: Any) -> None:
        if state.step == self.step and self.late:
            self._take(state)

    def _take(self, state: TrainingState) -> None:
        assert state.snapshot is not None
        torch.save(state.snapshot(), self.kept)

    def read(self) -> Snapshot:
        self.kept.seek(0)
        return torch.load(self.kept, weights_only=True)


STEPS = 5  # of an epoch of the longest of six learners


@pytest.mark.parametrize(("step", "late"), [(2, False), (STEPS, True), (9 * STEPS, True), (9 * STEPS + 3, False)])
def test_a_stack_goes_on_bit_for_bit_when_some_of_it_have_ended(
    step: int, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = TrainingConfig(epochs=14, batch_size=16, stacking="always", patience=2, lr=0.03, schedule="plateau")
    wild = settings.model_copy(update={"lr": 1e30, "clip_norm": 0.0})
    noisy = [TabularMLPConfig(width=16, dropout=rate) for rate in (0.3, 0.0, 0.1, 0.5, 0.3, 0.2)]

    def run(hook: SnapshotAt, resume: Snapshot | None) -> list[Trained | Exception]:
        monkeypatch.setattr(cohort_training, "going_on", lambda *_: (resume, [hook]))
        monkeypatch.setattr(cohort_validation, "WORTH_REMAKING", 0)
        own = [
            settings.model_copy(
                update={
                    "patience": (1, 1, 2, 2, 2, 9)[k],
                    "label_smoothing": 0.05 * k,
                    "ema_decay": (0.0, 0.0, 0.5, 0.0, 0.0, 0.9)[k],
                }
            )
            for k in range(6)
        ]
        return together([ask(k, noisy[k], wild if k == 4 else own[k]) for k in range(6)])

    taken = SnapshotAt(step, late)
    straight = run(taken, None)
    if step > 2 * STEPS:
        assert len(taken.read()["model"]["flat"]) < 6, "some were taken out before the snapshot"
    continued = run(SnapshotAt(0, False), taken.read())
    _, samples = world(50, 999)
    for one, other in zip(straight, continued, strict=True):
        if isinstance(one, Exception):
            assert str(one) == str(other)
            continue
        assert one.history == good(other).history
        assert np.array_equal(one.learner.predict(samples), good(other).learner.predict(samples))


def test_learners_are_grouped_by_architecture_and_the_rest_says_why_it_trained_alone() -> None:
    requests = [
        ask(0),
        ask(0, LinearConfig()),
        ask(1, TabularMLPConfig(width=8, dropout=0.0)),
        ask(1),
        ask(2, training=QUICK.model_copy(update={"stacking": "never"})),
        ask(3, num_rows=600),
        ask(4, training=QUICK.model_copy(update={"accumulation": 2})),
    ]
    told = [good(outcome).trained_as for outcome in train_learners(requests)]
    assert told == [
        "stacked with 1 others (as `training.stacking` says)",
        "alone: it fits in one step",
        "alone: no other of its architecture",
        "stacked with 1 others (as `training.stacking` says)",
        "alone: stacking is switched off",
        "alone: those of its architecture differ too much in rows",
        "alone: its gradients are accumulated over batches",
    ]


def test_a_measurement_may_say_that_one_by_one_is_quicker(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = FormChoice("sequential", {"sequential": 1.0, "stacked": 2.0}, "one by one is quicker")
    monkeypatch.setattr(cohort_training, "choose_form", lambda *_, **__: slow)
    measured = QUICK.model_copy(update={"stacking": "measured"})
    units = list(train_in_units([ask(k, training=measured) for k in range(2)]))
    assert [list(unit) for unit in units] == [[0], [1]]
    assert good(units[0][0]).trained_as == "alone: one by one is quicker"
    assert_alike(good(units[0][0]), train_alone(prepare(ask(0, training=measured))), tolerance=0.0)


def test_what_a_stack_takes_to_be_made_is_shared_out_over_the_steps_to_be_expected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    def choose(*_: object, total_steps: int, **__: object) -> FormChoice:
        asked.append(total_steps)
        return FormChoice("sequential", {}, "for the sake of the question")

    monkeypatch.setattr(cohort_training, "choose_form", choose)
    for epochs in (3, 300):
        measured = QUICK.model_copy(update={"stacking": "measured", "epochs": epochs})
        open_stack([prepare(ask(k, training=measured)) for k in range(2)])
    short, long = asked
    assert 0 < short < 3 * prepare(ask(0)).num_batches, "early stopping usually ends training before"
    assert long == 100 * short


def test_a_learner_without_rows_costs_itself_only() -> None:
    empty = ask(1)
    empty = dataclasses.replace(
        empty, train=HeldSamples(empty.train.samples().without(["vec", "other"]), empty.train.spec)
    )
    first, second, third = train_learners([ask(0), empty, ask(2)])
    assert isinstance(second, DataError)
    assert good(first).trained_as == good(third).trained_as == "stacked with 1 others (as `training.stacking` says)"


def test_a_stack_that_breaks_is_trained_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Stack, *_: object) -> None:
        raise RuntimeError("out of everything")

    monkeypatch.setattr(Stack, "train", broken)
    outcomes = [good(outcome) for outcome in train_learners([ask(k) for k in range(2)])]
    assert [outcome.trained_as for outcome in outcomes] == ["alone: together they failed (RuntimeError)"] * 2
    assert all(math.isfinite(outcome.history.epochs[0]["training/loss"]) for outcome in outcomes)


def test_rows_that_do_not_fit_into_memory_are_not_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training_core.engine.cohort.stream.total_memory", lambda: 10_000)
    assert all("alone" in good(outcome).trained_as for outcome in train_learners([ask(k) for k in range(3)]))
