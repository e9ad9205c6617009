"""A compiled step makes the same updates, and what cannot be compiled is trained all the same, with the reason said."""

import logging
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from training_core.engine.loop import fit
from training_core.engine.updates import compiled
from training_core.engine.updates.gradient import GradientUpdate
from training_core.engine.updates.optimizers import OptimizerConfig
from training_core.objectives import Supervised
from training_core.schema import Batch, TaskSpec
from training_core.seeding import torch_seeded

TASK = TaskSpec.classification(("a", "b"))


class Net(nn.Module):
    def __init__(self, breaks: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.breaks = breaks
        # No bias before the normaliser: its gradient is rounding alone, which Adam makes as large as any.
        self.layers = nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2))

    def forward(self, inputs: Mapping[str, Tensor], available: Tensor) -> Tensor:
        raw = self.layers(inputs["x"])
        if self.breaks and float(raw.detach().sum()) > 1e9:  # data decide which way it goes: no one graph
            return -raw
        return raw


def rows(num_rows: int, seed: int) -> Batch:
    x = torch.randn(num_rows, 4, generator=torch.Generator().manual_seed(seed))
    return Batch({"x": x}, torch.ones(num_rows, 1, dtype=torch.bool), (x.sum(dim=1) > 0).long())


def train(**settings: Any) -> tuple[Net, Any]:
    net = Net(settings.pop("breaks", False))
    update = GradientUpdate(Supervised(TASK), OptimizerConfig(lr=0.01), **settings)
    with torch_seeded(0, "training"):
        history = fit(net, [rows(8, 1), rows(8, 2), rows(3, 3)], update, epochs=3)
    return net, history


def assert_alike(one: Net, other: Net) -> None:
    for mine, theirs in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_what_breaks_the_graph_is_trained_as_it_is_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    plain, _ = train(breaks=True)
    with caplog.at_level(logging.WARNING):
        net, _ = train(breaks=True, compile=True)
    for mine, theirs in zip(plain.state_dict().values(), net.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)
    (message,) = [record.message for record in caplog.records if record.name == compiled.__name__]
    assert message.startswith("the step is not compiled: ")
    assert len(message) < 400


def test_a_compiler_that_fails_is_no_failure_of_training(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_compiler(function: Any, **settings: Any) -> Any:
        def fail(*arguments: Any) -> Any:
            torch.rand(3)  # whatever it drew and changed before
            arguments[0].layers[1].running_mean.fill_(7.0)
            raise RuntimeError("no C++ compiler found\nand a long story")

        return fail

    plain, expected = train()
    monkeypatch.setattr(torch, "compile", no_compiler)
    with caplog.at_level(logging.WARNING):
        net, history = train(compile=True)
    assert history == expected
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), net.state_dict().values(), strict=True))
    assert "the step is not compiled: RuntimeError: no C++ compiler found" in caplog.text
    assert "long story" not in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"accumulation": 2}, {"gradient_checkpointing": True}], ids=str)
def test_a_compiled_step_makes_the_same_updates(settings: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    plain, expected = train(**settings)
    with caplog.at_level(logging.WARNING):
        net, history = train(compile=True, **settings)
    assert_alike(plain, net)
    assert history.epochs[-1]["training/loss"] == pytest.approx(expected.epochs[-1]["training/loss"], rel=1e-4)
    if "gradient_checkpointing" not in settings:
        assert not [record for record in caplog.records if record.name == compiled.__name__], caplog.text
