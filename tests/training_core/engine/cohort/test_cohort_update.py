"""A cohort's step: what each learner gets is what it would get alone, whatever happens to the others."""

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from stack_world import TASK, SmallNet, cohort_rows, first_rows, join, learner_rows, train_alone, weights
from torch import Tensor, nn

from training_core.engine.cohort.evaluate import cohort_losses
from training_core.engine.cohort.forms import StackedProgram
from training_core.engine.cohort.stacked import StackedModel
from training_core.engine.cohort.update import CohortUpdate
from training_core.engine.updates.optimizers import OptimizerConfig
from training_core.engine.updates.schedules import LrSchedule
from training_core.errors import ConfigError
from training_core.objectives import Loss, Supervised, WeightedSum
from training_core.schema import Batch

NUM_LEARNERS = 3
CONFIGS = [OptimizerConfig(kind="adamw", lr=0.003 * (k + 1), weight_decay=0.1 * k) for k in range(NUM_LEARNERS)]


def cohort(
    dtype: torch.dtype = torch.float64, dropout: float = 0.0, objective: Any = None, **settings: Any
) -> tuple[StackedModel, CohortUpdate]:
    model = StackedModel([SmallNet(seed, dropout).to(dtype) for seed in range(NUM_LEARNERS)])
    update = CohortUpdate(objective or Supervised(TASK), CONFIGS, **settings)
    update.start(model)
    return model, update


def row(model: StackedModel, k: int) -> Tensor:
    net = SmallNet(9).to(model.flat.dtype)
    model.write_to(k, net)
    return weights(net)


def alone(k: int, batches: Sequence[Batch], **settings: Any) -> Tensor:
    return weights(train_alone(SmallNet(k).double(), CONFIGS[k], batches, **settings))


def rows_of(k: int, steps: Sequence[int]) -> list[Batch]:
    return [learner_rows(k, step, torch.float64) for step in steps]


@pytest.mark.parametrize("settings", [{}, {"clip_norm": 0.0}, {"clip_norm": 0.05}, {"clip_value": 0.01}])
def test_every_learner_ends_where_it_would_alone(settings: dict[str, float]) -> None:
    model, update = cohort(**settings)
    for step in range(20):
        update.step(model, cohort_rows(NUM_LEARNERS, step, torch.float64))
    for k in range(NUM_LEARNERS):
        assert torch.allclose(row(model, k), alone(k, rows_of(k, range(20)), **settings), rtol=0, atol=1e-12)
    assert update.how == "traced"


def test_a_limit_of_its_own_clips_each_learner() -> None:
    limits = [0.05, 0.0, 1.0]
    model, update = cohort(clip_norm=limits)
    for step in range(10):
        update.step(model, cohort_rows(NUM_LEARNERS, step, torch.float64))
    for k, limit in enumerate(limits):
        assert torch.allclose(row(model, k), alone(k, rows_of(k, range(10)), clip_norm=limit), rtol=0, atol=1e-12)


def test_metrics_are_each_learner_s_own() -> None:
    objective = WeightedSum({"first": (1.0, Supervised(TASK)), "second": (0.5, Supervised(TASK, label_smoothing=0.1))})
    model, update = cohort(objective=objective)
    batch = cohort_rows(NUM_LEARNERS, 0, torch.float64)
    metrics = update.step(model, batch)
    assert list(metrics) == ["loss", "first/cross_entropy", "second/cross_entropy", "gradient_norm"]
    for k in range(NUM_LEARNERS):
        net = SmallNet(k).double()
        loss = objective(net, learner_rows(k, 0, torch.float64))
        loss.total.backward()
        norm = torch.stack([p.grad.norm() for p in net.parameters() if p.grad is not None]).norm()
        assert metrics["loss"][k].item() == pytest.approx(loss.total.item())
        assert metrics["second/cross_entropy"][k].item() == pytest.approx(loss.terms["second/cross_entropy"].item())
        assert metrics["gradient_norm"][k].item() == pytest.approx(norm.item())
    assert torch.equal(torch.as_tensor(update.num_rows(batch)), batch.counts)


def test_a_padded_batch_counts_its_real_rows_only_and_who_has_none_sits_out() -> None:
    model, update = cohort()
    for step in range(9):
        counts = [8, 5 if step % 3 == 2 else 8, 0 if step % 3 == 2 else 8]
        update.step(model, join([learner_rows(k, step, torch.float64) for k in range(NUM_LEARNERS)], counts))
    assert update.num_updates == [9, 9, 6]
    ragged = [first_rows(batch, 5 if step % 3 == 2 else 8) for step, batch in enumerate(rows_of(1, range(9)))]
    assert torch.allclose(row(model, 0), alone(0, rows_of(0, range(9))), rtol=0, atol=1e-12)
    assert torch.allclose(row(model, 1), alone(1, ragged), rtol=0, atol=1e-12)
    fewer = [step for step in range(9) if step % 3 != 2]
    assert torch.allclose(row(model, 2), alone(2, rows_of(2, fewer)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_learner_gone_wild_is_left_where_it_was_and_the_others_go_on(bad: float) -> None:
    model, update = cohort()
    before = None
    for step in range(12):
        batch = cohort_rows(NUM_LEARNERS, step, torch.float64)
        if step == 5:
            before = row(model, 1)
            batch.inputs["x"][1, 0, 0] = bad
        metrics = update.step(model, batch)
        assert math.isnan(metrics["loss"][1].item()) == (step == 5)
    assert update.diverged.tolist() == [False, True, False]
    assert before is not None and torch.equal(row(model, 1), before)
    for k in (0, 2):
        assert torch.allclose(row(model, k), alone(k, rows_of(k, range(12))), rtol=0, atol=1e-12)
    state = update.state_dict()["optimizer"]
    assert all(bool(torch.isfinite(values).all()) for values in state.values())
    assert state["steps"].view(-1).tolist() == [12, 5, 12]


def test_masks_that_nobody_reads_do_the_same_as_numbers_that_are_read() -> None:
    """A GPU is never waited for: the same events, decided by masks."""
    pairs = [cohort(), cohort()]
    pairs[1][1]._reads_freely = False
    for step in range(12):
        counts = [8, 8, 0 if step == 3 else 8]
        for model, update in pairs:
            batch = join([learner_rows(k, step, torch.float64) for k in range(NUM_LEARNERS)], counts)
            if step == 5:
                batch.inputs["x"][1] = float("nan")
            if step == 8:
                update.freeze([0])
            update.step(model, batch)
    (read, first), (masked, second) = pairs
    assert torch.equal(read.flat, masked.flat)
    assert torch.equal(first.diverged, second.diverged) and first.diverged.tolist() == [False, True, False]
    states = [update.state_dict()["optimizer"] for update in (first, second)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_wild_padding_rows_of_a_learner_that_sits_out_do_not_harm_it() -> None:
    model, update = cohort()
    batch = join([learner_rows(k, 0, torch.float64) for k in range(NUM_LEARNERS)], [8, 0, 8])
    batch.inputs["x"][1] = float("nan")
    before = row(model, 1)
    update.step(model, batch)
    assert torch.equal(row(model, 1), before)
    assert not update.diverged.any()


def test_a_frozen_learner_keeps_its_bits() -> None:
    model, update = cohort()
    for step in range(6):
        if step == 3:
            update.freeze([0])
            before = row(model, 0)
        update.step(model, cohort_rows(NUM_LEARNERS, step, torch.float64))
    assert torch.equal(row(model, 0), before)
    assert torch.allclose(row(model, 2), alone(2, rows_of(2, range(6))), rtol=0, atol=1e-12)
    assert update.num_updates == [3, 6, 6]


def test_learners_that_are_kept_go_on_as_if_nothing_had_happened() -> None:
    model, update = cohort()
    for step in range(8):
        batches = [learner_rows(k, step, torch.float64) for k in range(NUM_LEARNERS)]
        if step == 4:
            model.keep([2, 0])
            update.keep([2, 0])
        update.step(model, join([batches[k] for k in update.learners]))
    assert update.learners == [2, 0]
    for position, k in enumerate(update.learners):
        assert torch.allclose(row(model, position), alone(k, rows_of(k, range(8))), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("kept", [[0, 1, 2], [2, 1]])
def test_a_resumed_cohort_goes_on_bit_for_bit(dropout: float, kept: list[int]) -> None:
    torch.manual_seed(3)
    model, update = cohort(torch.float32, dropout)
    whole: dict[str, Any] = {}
    for step in range(10):
        if step == 4:
            model.keep(kept)
            update.keep(kept)
            update.freeze([1])
        if step == 6:
            whole = deepcopy({"model": model.state_dict(), "update": update.state_dict(), "rng": torch.get_rng_state()})
        update.step(model, join([learner_rows(k, step) for k in update.learners]))
    torch.manual_seed(99)
    resumed, again = cohort(torch.float32, dropout)
    resumed.load_state_dict(whole["model"])
    again.load_state_dict(whole["update"])
    torch.set_rng_state(whole["rng"])
    for step in range(6, 10):
        again.step(resumed, join([learner_rows(k, step) for k in again.learners]))
    assert torch.equal(resumed.flat, model.flat)
    assert again.num_updates == update.num_updates


def test_a_cohort_s_state_can_be_saved_and_loaded_without_running_code(tmp_path: Any) -> None:
    model, update = cohort()
    update.step(model, cohort_rows(NUM_LEARNERS, 0, torch.float64))
    torch.save({"model": model.state_dict(), "update": update.state_dict()}, tmp_path / "state")
    kept = torch.load(tmp_path / "state", weights_only=True)
    assert torch.equal(kept["update"]["optimizer"]["first_moment"], update.state_dict()["optimizer"]["first_moment"])


class Halving(LrSchedule):
    def factor(self, update: int) -> float:
        return 0.5**update


def test_a_schedule_follows_the_learner_s_own_updates() -> None:
    model, update = cohort(schedules=[Halving(), LrSchedule(), Halving()])
    for step in range(4):
        counts = [8, 8, 8 if step else 0]
        update.step(model, join([learner_rows(k, step, torch.float64) for k in range(NUM_LEARNERS)], counts))
    assert update.learning_rates == [pytest.approx(0.003 / 16), pytest.approx(0.006), pytest.approx(0.009 / 8)]
    expected = alone(2, rows_of(2, range(1, 4)), schedule=Halving())
    assert torch.allclose(row(model, 2), expected, rtol=0, atol=1e-12)


class Watched(nn.Module):
    """Reports what it lets through, so that dropout masks can be looked at."""

    def __init__(self, rate: float = 0.5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 65))
        self.dropout = nn.Dropout(rate)

    def forward(self, inputs: Any, available: Tensor) -> Tensor:
        return self.dropout(inputs["x"] * self.weight)


def what_passes(rates: Sequence[float], seeds: Sequence[int], steps: Sequence[int]) -> Tensor:
    """What dropout multiplies each of 4 x 65 ones by, [step, learner, 260]."""

    def sum_of_outputs(model: nn.Module, batch: Batch) -> Loss:
        return Loss(model(batch.inputs, batch.available).sum(), {})

    model = StackedModel([Watched(rate) for rate in rates], seeds)
    rows = Batch({"x": torch.ones(4, 65)}, torch.ones(4, 1, dtype=torch.bool), torch.zeros(4))
    batch = join([rows for _ in rates])
    program = StackedProgram(model, sum_of_outputs, batch, gradients=True)
    found: list[Tensor] = []
    for step in steps:
        model.draw([step] * len(rates))
        gradients = program(model, batch).gradients
        assert gradients is not None
        found.append(gradients.clone())
    return torch.stack(found)


def test_dropout_masks_differ_between_learners_and_steps_and_come_back() -> None:
    masks = what_passes([0.5, 0.5], [3, 4], [0, 1, 0])
    assert not torch.equal(masks[0, 0], masks[0, 1])
    assert not torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0], masks[2]), "a draw depends on nothing but seed, step and place"
    assert torch.equal(what_passes([0.5], [4], [1])[:, 0], masks[1:2, 1]), "nor on who trains beside it"
    assert set(masks.unique().tolist()) == {0.0, 2.0}  # kept values are doubled


def test_as_much_is_dropped_as_was_asked_for_and_every_draw_is_a_new_one() -> None:
    rates = [0.0, 0.1, 0.5, 0.9]
    dropped = (what_passes(rates, range(4), range(400)) == 0).double()  # [step, learner, place]
    shares = dropped.mean(dim=(0, 2))
    assert shares[0] == 0, "at rate 0 nothing is"
    number = dropped[:, 0].numel()
    for k, rate in enumerate(rates[1:], start=1):
        deviation = (rate * (1 - rate) / number) ** 0.5
        assert abs(float(shares[k]) - rate) < 4 * deviation
        own = dropped[:, k] - rate
        for one, other in ((own[1:], own[:-1]), (own[:, 1:], own[:, :-1]), (own[:, 65:], own[:, :-65])):
            correlation = float((one * other).mean()) / (rate * (1 - rate))
            assert abs(correlation) * number**0.5 < 4, "from step to step, place to place, row to row"
        across = float((own * (dropped[:, k - 1] - rates[k - 1])).mean()) / (rate * (1 - rate))
        assert abs(across) * number**0.5 < 4, "between learners"


def test_making_a_program_draws_no_random_number() -> None:
    model, update = cohort(torch.float32, dropout=0.5)
    before = torch.get_rng_state()
    update._program(model, cohort_rows(NUM_LEARNERS, 0))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_objective_that_changes_between_epochs_is_followed() -> None:
    objective = WeightedSum({"plain": (1.0, Supervised(TASK)), "smooth": (1.0, Supervised(TASK, label_smoothing=0.2))})
    model, update = cohort(objective=objective)
    batch = cohort_rows(NUM_LEARNERS, 0, torch.float64)
    first = update.step(model, batch)
    objective.set_weights({"plain": 0.25})
    update.end_epoch(model)
    second = update.step(model, batch)
    parts = [second[f"{name}/cross_entropy"] for name in ("plain", "smooth")]
    assert torch.allclose(second["loss"], 0.25 * parts[0] + parts[1])
    assert torch.allclose(first["loss"], first["plain/cross_entropy"] + first["smooth/cross_entropy"])


def test_bf16_keeps_float32_weights_and_comes_near() -> None:
    exact, reference = cohort(torch.float32)
    rough, update = cohort(torch.float32, precision="bf16")
    for step in range(10):
        reference.step(exact, cohort_rows(NUM_LEARNERS, step))
        update.step(rough, cohort_rows(NUM_LEARNERS, step))
    assert rough.flat.dtype == torch.float32
    assert update.how == "traced"
    assert 0 < (exact.flat - rough.flat).abs().max() < 0.05


def test_settings_a_stack_cannot_follow_are_refused() -> None:
    model = StackedModel([SmallNet(0), SmallNet(1)])
    with pytest.raises(ConfigError, match="3 optimisers were given for 2 learners"):
        CohortUpdate(Supervised(TASK), CONFIGS).start(model)
    with pytest.raises(ConfigError, match="needs a CUDA device"):
        CohortUpdate(Supervised(TASK), CONFIGS[:2], form="graphed").start(model)
    with pytest.raises(ConfigError, match="fp16 needs a loss scale per learner"):
        CohortUpdate(Supervised(TASK), CONFIGS, precision="fp16")


@pytest.mark.parametrize("is_judged", [False, True])
def test_a_program_is_made_once_however_many_epochs(is_judged: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    make = StackedProgram.__init__

    def counting(self: StackedProgram, *args: Any, **settings: Any) -> None:
        made.append(1)
        make(self, *args, **settings)

    monkeypatch.setattr(StackedProgram, "__init__", counting)
    objective = Supervised(TASK)  # notes the shapes of what it is given first
    model, update = cohort(objective=objective)
    for epoch in range(3):
        batch = cohort_rows(NUM_LEARNERS, epoch, torch.float64)
        if is_judged:
            cohort_losses(model, objective, [batch, batch])
        else:
            update.step(model, batch)
            update.end_epoch(model)
    assert len(made) == 1


def test_metrics_are_means_over_what_the_rows_weigh_as_alone() -> None:
    factors = torch.tensor([1.0, 5.0, 25.0], dtype=torch.float64)
    batches = [learner_rows(k, 0, torch.float64) for k in range(NUM_LEARNERS)]
    batch = join(batches, [8, 5, 0])
    assert batch.target is not None
    assert batch.weight is not None
    batch = replace(batch, weight=batch.weight * factors[batch.target])
    assert batch.weight is not None
    model, update = cohort()
    update.step(model, batch)
    assert update.num_rows(batch).tolist() == batch.weight.sum(dim=1).tolist()
