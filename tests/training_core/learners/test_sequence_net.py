"""Sequence nets: padding is found and left out, and recurrent cells train one by one."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from training_core.engine.cohort.stacked import why_not_stackable
from training_core.learners import SequenceNetConfig
from training_core.learners.sequence_net import SequenceNet, real_steps, summary
from training_core.schema import DataSpec, ModalitySpec, TaskSpec

CLASSES = TaskSpec.classification(("ash", "elm", "oak"))
CELLS = pytest.mark.parametrize("cell", ["conv", "gru", "lstm"])


def spec_of(num_steps: int, num_features: int = 2) -> DataSpec:
    trace = ModalitySpec(name="trace", kind="sequence", shape=(num_steps, num_features))
    return DataSpec(modalities=(trace,), task=CLASSES)


def net_of(cell: Any, num_steps: int = 20, **settings: Any) -> SequenceNet:
    net = SequenceNetConfig(cell=cell, width=8, **settings).build(spec_of(num_steps), 0)
    assert isinstance(net, SequenceNet)
    return net


def padded(length: int, num_steps: int) -> torch.Tensor:
    """One sequence of `length` steps, padded with a value of its own kind."""
    torch.manual_seed(length)
    values = torch.randn(1, num_steps, 2)
    values[:, length:] = torch.tensor([-0.7, 0.2])
    return values


def test_steps_are_real_but_for_a_tail_that_never_changes() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2, (200, 6, 1)).astype(np.float32)
    found = real_steps(torch.from_numpy(values))
    for row, real in zip(values[:, :, 0], found.tolist(), strict=True):
        assert real == [t == 0 or any(row[s] != row[s - 1] for s in range(t, 6)) for t in range(6)]


def test_one_step_is_real() -> None:
    assert real_steps(torch.zeros(2, 1, 3)).tolist() == [[True], [True]]


def test_a_summary_is_mean_maximum_and_last_of_real_steps() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(3, 5, 2)
    real = torch.arange(5) < torch.tensor([[5], [2], [0]])
    found = summary(hidden, real)
    for row, length in ((0, 5), (1, 2)):
        part = hidden[row, :length]
        torch.testing.assert_close(found[row], torch.cat([part.mean(dim=0), part.amax(dim=0), part[-1]]))
    assert not found[2].any()


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_recurrent_net_answers_a_padded_sequence_as_the_shorter_one(cell: Any) -> None:
    long, short = net_of(cell, 20).eval(), net_of(cell, 8).eval()
    short.load_state_dict(long.state_dict())
    values, there = padded(7, 20), torch.ones(1, 1, dtype=torch.bool)
    with torch.no_grad():
        # One step of the tail is told apart by nothing: the first, which differs from the step before.
        torch.testing.assert_close(long({"trace": values}, there), short({"trace": values[:, :8]}, there))


@CELLS
def test_every_cell_learns_which_came_first(cell: Any) -> None:
    rng = np.random.default_rng(0)
    order = rng.integers(0, 2, 64)
    values = 0.1 * rng.normal(size=(64, 20, 2)).astype(np.float32)
    values[np.arange(64), 3, order] += 3
    values[np.arange(64), 12, 1 - order] += 3
    inputs, there = {"trace": torch.from_numpy(values)}, torch.ones(64, 1, dtype=torch.bool)
    target = torch.from_numpy(order)
    net = net_of(cell, dropout=0.0)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs, there), target).backward()
        optimizer.step()
    assert (net(inputs, there).argmax(dim=1) == target).float().mean() > 0.95
    idle = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_recurrent_nets_are_not_stacked_and_it_is_said_why(cell: Any) -> None:
    assert "fused kernel" in str(why_not_stackable([net_of(cell), net_of(cell)]))


@CELLS
@pytest.mark.parametrize("num_steps", [1, 5, 16, 33])
def test_sequences_of_many_lengths_fit(cell: Any, num_steps: int) -> None:
    net = net_of(cell, num_steps, num_layers=3)
    there = torch.tensor([[True], [False]])
    out = net({"trace": torch.randn(2, num_steps, 2)}, there)
    assert out.shape == (2, 3) and torch.isfinite(out).all()


@CELLS
def test_longer_sequences_and_more_layers_cost_more(cell: Any) -> None:
    short, long = (SequenceNetConfig(cell=cell).estimate_cost(spec_of(n), 100, 10)[0] for n in (20, 200))
    deep = SequenceNetConfig(cell=cell, num_layers=4).estimate_cost(spec_of(20), 100, 10)[0]
    assert long > 3 * short and deep > short
