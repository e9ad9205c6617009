"""Traced programs say what plain vectorising says, with fewer operations."""

import logging
from typing import Any

import pytest
import torch
from stack_world import TASK, SmallNet, cohort_rows, first_rows, join, learner_rows
from torch import Tensor, nn

from training_core.engine.cohort import forms
from training_core.engine.cohort.evaluate import cohort_losses
from training_core.engine.cohort.forms import StackedProgram, settings_of
from training_core.engine.cohort.stacked import StackedModel
from training_core.engine.hooks import mean_losses
from training_core.objectives import Supervised, WeightedSum

NUM_LEARNERS = 3


def stack(dropout: float = 0.0) -> StackedModel:
    return StackedModel([SmallNet(seed, dropout) for seed in range(NUM_LEARNERS)])


def judge(model: StackedModel, seed: int = 0) -> tuple[StackedProgram, Tensor, Tensor]:
    batch = cohort_rows(NUM_LEARNERS, 0)
    program = StackedProgram(model, Supervised(TASK), batch, gradients=True)
    torch.manual_seed(seed)
    found = program(model, batch)
    assert found.gradients is not None
    return program, found.losses["loss"].clone(), found.gradients.clone()


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_tidied_program_gives_the_bits_of_the_untidied_one(dropout: float, monkeypatch: pytest.MonkeyPatch) -> None:
    tidied, *found = judge(stack(dropout))
    monkeypatch.setattr(forms, "tidy", lambda program, example: program)
    untidied, *expected = judge(stack(dropout))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    sizes = [len(program._run.graph.nodes) for program in (tidied, untidied)]  # pyright: ignore
    assert sizes[0] < 0.8 * sizes[1]


def test_what_cannot_be_traced_is_vectorised_in_every_step(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no tracing today")

    _, *expected = judge(stack())
    monkeypatch.setattr(forms, "record", fail)
    with caplog.at_level(logging.WARNING):
        program, *found = judge(stack())
    assert program.how == "vectorised"
    assert "SmallNet is not traced" in caplog.text and "no tracing today" in caplog.text
    assert all(torch.allclose(one, other) for one, other in zip(found, expected, strict=True))


def test_what_cannot_be_compiled_stays_traced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no compiler\nhere")

    monkeypatch.setattr(forms, "_compile", fail)
    program = StackedProgram(stack(), Supervised(TASK), cohort_rows(NUM_LEARNERS, 0), gradients=True, compiled=True)
    assert program.how == "traced"
    assert "not compiled: no compiler" in caplog.text and "here" not in caplog.text


@pytest.mark.slow
def test_a_compiled_program_finds_the_same_gradients() -> None:
    model, batch = stack(), cohort_rows(NUM_LEARNERS, 0)
    program = StackedProgram(model, Supervised(TASK), batch, gradients=True, compiled=True)
    assert program.how == "compiled"
    _, _, expected = judge(model)
    found = program(model, batch).gradients
    assert found is not None and torch.allclose(found, expected, atol=1e-6)


class Undecided(SmallNet):
    def forward(self, inputs: Any, available: Tensor) -> Tensor:
        values = self.layers(inputs["x"])
        return -values if values.sum() > 0 else values


def test_a_net_whose_path_depends_on_its_data_fails_when_the_program_is_made() -> None:
    model = StackedModel([Undecided(0), Undecided(1)])
    with pytest.raises(RuntimeError, match="data-dependent control flow"):
        StackedProgram(model, Supervised(TASK), cohort_rows(2, 0), gradients=True)


class WithParameters(nn.Module):
    """An objective that is itself a module."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.judge = Supervised(TASK)

    def forward(self, model: nn.Module, batch: Any) -> Any:
        assert isinstance(model, SmallNet)  # a real net, not a function
        return self.judge(model, batch)


def test_an_objective_may_be_a_module_and_is_given_a_real_net() -> None:
    model, batch = stack(), cohort_rows(NUM_LEARNERS, 0)
    found = StackedProgram(model, WithParameters(), batch, gradients=True)(model, batch)
    assert found.gradients is not None and found.gradients.shape == model.flat.shape


def test_losses_over_many_batches_are_those_of_each_learner_alone() -> None:
    model, objective = stack(dropout=0.5), Supervised(TASK, class_weights=[0.5, 1.0, 2.0])
    counts = [[8, 8, 8], [8, 3, 8], [5, 0, 8]]
    batches = [join([learner_rows(k, step) for k in range(NUM_LEARNERS)], own) for step, own in enumerate(counts)]
    found = cohort_losses(model, objective, batches)
    assert model.template.training
    assert found["loss"].dtype == torch.float64
    for k in range(NUM_LEARNERS):
        own = [first_rows(learner_rows(k, step), counts[step][k]) for step in range(3) if counts[step][k]]
        expected = mean_losses(SmallNet(k, dropout=0.5), objective, own)
        assert found["loss"][k].item() == pytest.approx(expected["loss"], rel=1e-5)
    assert set(found) == {"loss"}


def test_losses_follow_the_weights_and_the_settings_of_the_objective() -> None:
    model, batch = stack(), cohort_rows(NUM_LEARNERS, 0)
    objective = WeightedSum({"a": (1.0, Supervised(TASK)), "b": (1.0, Supervised(TASK, label_smoothing=0.5))})
    first = cohort_losses(model, objective, [batch])
    objective.set_weights({"a": 0.5})
    second = cohort_losses(model, objective, [batch])
    assert torch.allclose(second["loss"], first["loss"] - 0.5 * first["a/cross_entropy"])
    model.flat.zero_()
    third = cohort_losses(model, objective, [batch])
    assert torch.allclose(third["a/cross_entropy"], torch.tensor(3.0, dtype=torch.float64).log())


def test_a_learner_without_rows_has_no_loss() -> None:
    batch = join([learner_rows(k, 0) for k in range(NUM_LEARNERS)], [8, 0, 8])
    assert cohort_losses(stack(), Supervised(TASK), [batch])["loss"].isnan().tolist() == [False, True, False]


def test_settings_of_an_objective_change_with_its_values() -> None:
    one, other = Supervised(TASK), Supervised(TASK, label_smoothing=0.1)
    assert settings_of(one) == settings_of(one) != settings_of(other)
    whole = WeightedSum({"a": (1.0, one)})
    before = settings_of(whole)
    whole.set_weights({"a": 2.0})
    assert settings_of(whole) != before
