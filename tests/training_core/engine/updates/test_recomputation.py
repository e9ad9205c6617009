"""Recomputed activations: the same gradients, fewer kept numbers, and no trace in the model."""

import copy
import logging
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from training_core.engine.updates.gradient import GradientUpdate
from training_core.engine.updates.optimizers import OptimizerConfig
from training_core.engine.updates.precision import Autocast
from training_core.engine.updates.recomputation import Recomputed, repeated_blocks
from training_core.errors import ConfigError
from training_core.objectives import Loss
from training_core.schema import Batch
from training_core.seeding import torch_seeded

WIDTH = 16


class Block(nn.Module):
    def __init__(self, normalised: bool) -> None:
        super().__init__()
        norm = nn.BatchNorm1d(WIDTH) if normalised else nn.LayerNorm(WIDTH)
        self.inside = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Dropout(0.3), nn.Linear(4 * WIDTH, WIDTH)
        )
        self.norm = norm

    def forward(self, values: Tensor) -> Tensor:
        return values + self.inside(self.norm(values))


class Stacked(nn.Module):
    """Blocks in a list."""

    def __init__(self, normalised: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(normalised) for _ in range(6))

    def forward(self, inputs: Mapping[str, Tensor], available: Tensor) -> Tensor:
        values = inputs["x"]
        for block in self.blocks:
            values = block(values)
        return values


class Flat(nn.Module):
    """Layers in a row."""

    def __init__(self) -> None:
        super().__init__()
        layers = [[nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.GELU(), nn.Dropout(0.3)] for _ in range(6)]
        self.layers = nn.Sequential(*(layer for group in layers for layer in group))

    def forward(self, inputs: Mapping[str, Tensor], available: Tensor) -> Tensor:
        return self.layers(inputs["x"])


class Named(Stacked):
    """Says itself which blocks are worth it."""

    checkpointed = ("blocks.0", "blocks.3")


def rows() -> Batch:
    x = torch.randn(32, WIDTH, generator=torch.Generator().manual_seed(0))
    return Batch({"x": x}, torch.ones(32, 1, dtype=torch.bool))


def sharp(model: nn.Module, batch: Batch) -> Loss:
    return Loss(model(batch.inputs, batch.available).float().square().mean(), {})


def fresh(kind: Any, **settings: Any) -> Any:
    torch.manual_seed(0)
    return kind(**settings)


def backward(objective: Any, model: nn.Module) -> tuple[list[Tensor], int]:
    """The gradients, and the bytes of activations that were kept for the backward pass."""
    kept: dict[int, int] = {}
    weights = {parameter.data_ptr() for parameter in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch_seeded(0, "dropout"):
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = objective(model, rows()).total
        loss.backward()
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None], sum(kept.values())


@pytest.mark.parametrize("kind", [Stacked, Flat, Named])
def test_gradients_are_the_same_and_less_is_kept(kind: Any) -> None:
    plain, recomputed = fresh(kind), fresh(kind)
    expected, whole = backward(sharp, plain)
    found, part = backward(Recomputed(sharp, recomputed), recomputed)
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
    assert part < (0.8 if kind is Named else 0.5) * whole


def test_running_statistics_see_a_batch_once() -> None:
    plain, recomputed = fresh(Stacked, normalised=True), fresh(Stacked, normalised=True)
    expected, _ = backward(sharp, plain)
    buffers = list(recomputed.buffers())
    found, _ = backward(Recomputed(sharp, recomputed), recomputed)
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
    for name, buffer in plain.named_buffers():
        assert torch.equal(buffer, recomputed.get_buffer(name)), name
    assert all(one is other for one, other in zip(buffers, recomputed.buffers(), strict=True))


def test_the_model_is_left_without_a_trace_also_when_its_forward_pass_fails() -> None:
    model = fresh(Stacked)
    objective = Recomputed(sharp, model)
    objective(model, rows())
    wrong = Batch({"x": torch.ones(3, WIDTH + 1)}, torch.ones(3, 1, dtype=torch.bool))
    with pytest.raises(RuntimeError, match="normalized_shape"):
        objective(model, wrong)
    assert all("forward" not in module.__dict__ for module in model.modules())
    again = copy.deepcopy(model)
    again.blocks[0].inside[0].weight.data.zero_()
    assert not torch.equal(again(rows().inputs, rows().available), model(rows().inputs, rows().available))


def test_a_wrapper_somebody_else_put_around_a_block_stays() -> None:
    model = fresh(Stacked)
    calls = []
    inner = model.blocks[0].forward

    def counted(values: Tensor) -> Tensor:
        calls.append(1)
        return inner(values)

    model.blocks[0].forward = counted
    Recomputed(sharp, model)(model, rows()).total.backward()
    assert len(calls) == 2, "once forward, once again backward"
    assert model.blocks[0].forward is counted


def test_it_works_in_low_precision() -> None:
    plain, recomputed = fresh(Stacked), fresh(Stacked)
    expected, _ = backward(Autocast(sharp, "bf16", "cpu"), plain)
    found, _ = backward(Recomputed(Autocast(sharp, "bf16", "cpu"), recomputed), recomputed)
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


def test_an_update_with_it_is_the_update_without() -> None:
    plain, recomputed = fresh(Stacked, normalised=True), fresh(Stacked, normalised=True)
    for model, on in ((plain, False), (recomputed, True)):
        update = GradientUpdate(sharp, OptimizerConfig(), gradient_checkpointing=on)
        with torch_seeded(0, "dropout"):
            update.start(model)
            for _ in range(3):
                update.step(model, rows())
    for one, other in zip(plain.state_dict().values(), recomputed.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_which_blocks_are_recomputed() -> None:
    model = Stacked()
    assert repeated_blocks(model) == list(model.blocks)
    assert repeated_blocks(Named()) != list(model.blocks)
    flat = Flat()
    assert repeated_blocks(flat) == [flat.layers]
    norms = nn.Module()
    norms.members = nn.ModuleList([nn.LayerNorm(2), nn.LayerNorm(2)])
    assert repeated_blocks(norms) == [], "a single layer keeps little more than its input"


def test_a_net_that_offers_no_blocks_is_told_how_to(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Recomputed(sharp, nn.Linear(2, 2))
    assert "Linear has no nn.Sequential or nn.ModuleList of blocks" in caplog.text


def test_a_name_that_is_no_submodule_is_an_error() -> None:
    model = Stacked()
    model.checkpointed = ("blocks.9",)  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ConfigError, match=r"names 'blocks\.9', which is no submodule"):
        Recomputed(sharp, model)
