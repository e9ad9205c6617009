"""A batch that does not fit into memory is cut, and the update stays what it would have been."""

import logging
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from training_core.engine.loop import fit
from training_core.engine.training import Precision
from training_core.engine.updates.batch_size import find_batch_size
from training_core.engine.updates.gradient import GradientUpdate
from training_core.engine.updates.memory import is_out_of_memory, largest_that_fits
from training_core.engine.updates.optimizers import OptimizerConfig
from training_core.errors import ConfigError
from training_core.objectives import Loss, Supervised
from training_core.schema import Batch, TaskSpec
from training_core.seeding import torch_seeded

TASK = TaskSpec.classification(("a", "b", "c"))
ADAM = OptimizerConfig(lr=0.05)


class Net(nn.Module):
    """Cannot take more than `room` rows at once, which it notices in its second layer, like an allocator would."""

    def __init__(self, room: int = 10**9, dropout: float = 0.0, normalised: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.room = room
        self.passes: list[int] = []
        self.first = nn.Linear(4, 8)
        self.norm = nn.BatchNorm1d(8) if normalised else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(8, 3)

    def forward(self, inputs: Mapping[str, Tensor], available: Tensor) -> Tensor:
        hidden = self.dropout(self.norm(self.first(inputs["x"])).tanh())
        self.passes.append(len(hidden))
        if len(hidden) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.last(hidden)


def rows(num_rows: int, seed: int = 0, weighted: bool = True) -> Batch:
    draws = torch.Generator().manual_seed(seed)
    return Batch(
        {"x": torch.randn(num_rows, 4, generator=draws, dtype=torch.float64)},
        torch.ones(num_rows, 1, dtype=torch.bool),
        torch.randint(0, 3, (num_rows,), generator=draws),
        torch.rand(num_rows, generator=draws, dtype=torch.float64) if weighted else None,
    )


def train(net: nn.Module, batches: list[Batch], **settings: Any) -> tuple[GradientUpdate, Any]:
    update = GradientUpdate(Supervised(TASK), ADAM, **settings)
    with torch_seeded(0, "training"):
        return update, fit(net, batches, update, epochs=2)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("room", [1, 5, 12])
def test_a_divided_batch_makes_the_undivided_update(room: int, accumulation: int, weighted: bool) -> None:
    batches = [rows(5, 1, weighted), rows(17, 2, weighted), rows(13, 3, weighted)]
    whole, divided = Net().double(), Net(room).double()
    _, expected = train(whole, batches, accumulation=accumulation)
    update, history = train(divided, batches, accumulation=accumulation)
    for one, other in zip(whole.parameters(), divided.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    for before, after in zip(expected.epochs, history.epochs, strict=True):
        assert after == pytest.approx(before, rel=1e-12)
    assert update.micro_rows is not None
    assert update.micro_rows <= room


def test_the_smaller_micro_batch_is_remembered_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    net = Net(room=5).double()
    with caplog.at_level(logging.WARNING):
        update, _ = train(net, [rows(16, seed) for seed in range(4)])
    assert net.passes[:3] == [16, 8, 4], "it is halved until it fits,"
    assert set(net.passes[2:]) == {4}, "and nothing larger is tried again"
    (record,) = caplog.records
    assert "a batch of 16 rows does not fit into memory" in record.message
    assert "micro-batches of 4" in record.message
    assert update.state_dict()["micro_rows"] == 4


def test_a_failed_try_leaves_no_trace_in_random_numbers_or_buffers() -> None:
    """Cut from the start by a remembered size, or cut after a failure: the same bits."""
    batches = [rows(16, seed) for seed in range(4)]
    failing = Net(room=5, dropout=0.5, normalised=True).double()
    _, after_failures = train(failing, batches)
    knowing = Net(room=5, dropout=0.5, normalised=True).double()
    update = GradientUpdate(Supervised(TASK), ADAM)
    update.micro_rows = 4
    with torch_seeded(0, "training"):
        assert fit(knowing, batches, update, epochs=2) == after_failures
    assert max(knowing.passes) == 4
    for one, other in zip(failing.state_dict().values(), knowing.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_a_failure_in_an_open_window_keeps_the_gradients_that_were_there() -> None:
    net, whole = Net().double(), Net().double()
    batches = [rows(4, 1), rows(4, 2)]
    train(whole, batches, accumulation=2)
    update = GradientUpdate(Supervised(TASK), ADAM, accumulation=2)
    update.start(net)
    for _ in range(2):
        net.room = 4
        update.step(net, batches[0])
        net.room = 1  # from here on memory is short
        update.step(net, batches[1])
        update.end_epoch(net)
    for one, other in zip(whole.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("precision", "kind"), [("bf16", "adamw"), ("fp16", "adamw"), ("bf16", "sophia")])
def test_low_precision_and_estimates_of_curvature_survive_a_failure(precision: Precision, kind: str) -> None:
    if kind == "sophia":
        pytest.importorskip("pytorch_optimizer")
    optimizer = OptimizerConfig.parse({"kind": kind, "lr": 0.01}, "test")
    update = GradientUpdate(Supervised(TASK), optimizer, precision=precision)
    batch = rows(8, weighted=False)
    batch = Batch({"x": batch.inputs["x"].float()}, batch.available, batch.target)
    fit(Net(room=3), [batch], update, epochs=5)
    assert update.micro_rows == 2
    skipped = update.state_dict()["scaler"]["num_skipped"] if precision == "fp16" else 0
    assert update.num_updates == 5 - skipped > 0


def test_a_single_row_that_does_not_fit_is_an_error_with_advice() -> None:
    with pytest.raises(ConfigError, match=r"micro-batch of 1 row does not fit .*gradient_checkpointing"):
        train(Net(room=0).double(), [rows(6)])


def test_any_other_error_goes_up_as_it_is() -> None:
    def broken(model: nn.Module, batch: Batch) -> Loss:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    update = GradientUpdate(broken, ADAM)
    update.start(net := Net().double())
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        update.step(net, rows(3))


def test_memory_that_runs_out_is_recognised_in_all_its_forms() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED: out of memory"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)  # what torch's own allocator says on the CPU
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    assert not is_out_of_memory(ValueError("out of memory"))


@pytest.mark.parametrize("room", [0, 1, 2, 3, 7, 8, 9, 100])
@pytest.mark.parametrize("limit", [1, 8, 64])
def test_the_largest_number_that_fits_is_found(room: int, limit: int) -> None:
    trials: list[int] = []

    def fits(number: int) -> bool:
        trials.append(number)
        return number <= room

    assert largest_that_fits(fits, limit) == min(room, limit)
    assert len(trials) == len(set(trials)) <= 14


def test_the_batch_size_is_found_without_a_trace() -> None:
    net = Net(room=37, dropout=0.5)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    batch = rows(4, weighted=False)
    batch = Batch({"x": batch.inputs["x"].float()}, batch.available, batch.target)
    assert find_batch_size(net, batch, lambda: GradientUpdate(Supervised(TASK), ADAM), limit=1000) == 37
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_no_batch_size_at_all_is_an_error() -> None:
    batch = rows(4, weighted=False)
    with pytest.raises(ConfigError, match="does not fit"):
        find_batch_size(Net(room=0).double(), batch, lambda: GradientUpdate(Supervised(TASK), ADAM))
