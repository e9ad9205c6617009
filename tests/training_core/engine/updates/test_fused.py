"""The kept lists of the fused step do what the optimiser itself does, whatever happens to the gradients."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from training_core.engine.updates.fused import FusedStep


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))


def optimizer(kind: type[Any], model: nn.Module, **settings: Any) -> torch.optim.Optimizer:
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    exempt = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    return kind([{"params": decayed, "weight_decay": 0.1}, {"params": exempt}], lr=0.05, **settings)


def give_gradients(models: list[nn.Module], step: int, absent: set[str]) -> None:
    draws = torch.Generator().manual_seed(step)
    for names in zip(*(model.named_parameters() for model in models), strict=True):
        gradient = torch.randn(names[0][1].shape, generator=draws)
        for name, parameter in names:
            parameter.grad = None if name in absent else gradient.to(parameter.dtype).clone()


ABSENT = {
    "never": lambda step: set(),
    "always the same": lambda step: {"1.weight"},
    "for a while": lambda step: {"0.weight", "0.bias"} if 3 <= step < 6 else set(),
    "from the start": lambda step: {"2.weight"} if step < 4 else set(),
    "now this, now that": lambda step: {"0.weight"} if step % 2 else {"2.weight"},
    "all of one group": lambda step: {"0.bias", "1.weight", "1.bias", "2.bias"} if step < 4 else set(),
}


@pytest.mark.parametrize("absent", ABSENT.values(), ids=list(ABSENT))
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_steps_and_state_are_those_of_the_optimizer_to_the_last_bit(kind: type[Any], absent: Any) -> None:
    ours, theirs = net(), net()
    fused, plain = optimizer(kind, ours, fused=True), optimizer(kind, theirs, fused=True)
    step_fused = FusedStep(fused)
    for step in range(10):
        give_gradients([ours, theirs], step, absent(step))
        for group in (*fused.param_groups, *plain.param_groups):
            group["lr"] = 0.05 / (1 + step)
        step_fused()
        plain.step()
    step_fused.settle()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)
        assert fused.state[one].keys() == plain.state[other].keys()
        assert all(torch.equal(fused.state[one][name], plain.state[other][name]) for name in fused.state[one])


def test_the_kept_lists_are_used() -> None:
    model = net()
    fused = optimizer(torch.optim.AdamW, model, fused=True)
    calls = []
    fused.register_step_post_hook(lambda *_: calls.append(1))
    step = FusedStep(fused)
    for number in range(5):
        give_gradients([model], number, set())
        step()
    assert len(calls) == 1


@pytest.mark.parametrize(
    "settings", [{"foreach": True}, {"fused": True, "amsgrad": True}, {"fused": True, "maximize": True}]
)
def test_whatever_is_not_the_usual_case_steps_itself(settings: dict[str, bool]) -> None:
    model, other = net(), net()
    one, two = optimizer(torch.optim.Adam, model, **settings), optimizer(torch.optim.Adam, other, **settings)
    step = FusedStep(one)
    for number in range(4):
        give_gradients([model, other], number, set())
        step()
        two.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_gradients_that_come_and_go_for_ever_are_left_to_the_optimizer_in_the_end() -> None:
    ours, theirs = net(), net()
    fused, plain = optimizer(torch.optim.AdamW, ours, fused=True), optimizer(torch.optim.AdamW, theirs, fused=True)
    step_fused = FusedStep(fused)
    for step in range(200):
        give_gradients([ours, theirs], step, {"0.weight"} if step % 2 else {"2.weight"})
        step_fused()
        plain.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_a_state_that_is_loaded_is_followed() -> None:
    model, other = net(), net()
    first = optimizer(torch.optim.AdamW, model, fused=True)
    step = FusedStep(first)
    for number in range(3):
        give_gradients([model], number, set())
        step()
    step.settle()
    kept = copy.deepcopy(first.state_dict())
    other.load_state_dict(model.state_dict())
    give_gradients([model], 3, set())
    step()
    second = optimizer(torch.optim.AdamW, other, fused=True)
    step_again = FusedStep(second)
    step_again.forget()
    second.load_state_dict(kept)
    give_gradients([other], 3, set())
    step_again()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
