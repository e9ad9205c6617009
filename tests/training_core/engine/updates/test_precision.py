"""Training in 16 bits: the same updates as torch's own recipe, and no update lost silently."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from training_core.engine.loop import fit
from training_core.engine.updates.averaging import WeightAverage
from training_core.engine.updates.gradient import GradientUpdate
from training_core.engine.updates.optimizers import OptimizerConfig
from training_core.engine.updates.precision import LossScaler, first_wild_parameter
from training_core.engine.updates.schedules import LrSchedule
from training_core.errors import ConfigError, DivergenceError
from training_core.objectives import Loss
from training_core.schema import Batch

LR = 0.01


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))

    def forward(self, inputs: Mapping[str, Tensor], available: Tensor) -> Tensor:
        return self.layers(inputs["x"])


def rows(seed: int) -> Batch:
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(seed))
    return Batch({"x": x}, torch.ones(8, 1, dtype=torch.bool), x.sum(dim=1, keepdim=True))


def squared_error(model: nn.Module, batch: Batch) -> Loss:
    """So small that the first scale, 65,536, is fine."""
    assert batch.target is not None
    return Loss(0.01 * (model(batch.inputs, batch.available).float() - batch.target).square().mean(), {})


def steep(model: nn.Module, batch: Batch) -> Loss:
    """Targets up to 1e4: the gradients overflow float16 until the scale has come down."""
    assert batch.target is not None
    return Loss(((model(batch.inputs, batch.available).float() - 1e4 * batch.target) ** 2).mean() * 1e-3, {})


def torch_recipe(objective: Any, batches: list[Batch], clip_norm: float, fused: bool) -> tuple[Net, Any]:
    """As in torch's documentation of automatic mixed precision, with gradient clipping."""
    net = Net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=LR, weight_decay=0.0, fused=fused)
    scaler = torch.amp.GradScaler("cpu")
    for batch in batches:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = objective(net, batch).total
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(net.parameters(), clip_norm)
        scaler.step(optimizer)
        scaler.update()
    return net, scaler


def ours(objective: Any, batches: list[Batch], **settings: Any) -> tuple[Net, GradientUpdate, list[dict[str, Tensor]]]:
    net = Net()
    update = GradientUpdate(objective, OptimizerConfig(lr=LR, weight_decay=0.0), **settings)
    update.start(net)
    return net, update, [update.step(net, batch) for batch in batches]


@pytest.mark.parametrize("objective", [squared_error, steep])
def test_fp16_makes_the_updates_of_torch_s_own_recipe(objective: Any) -> None:
    batches = [rows(seed) for seed in range(40)]
    expected, scaler = torch_recipe(objective, batches, clip_norm=1.0, fused=True)
    net, update, metrics = ours(objective, batches, precision="fp16", clip_norm=1.0)
    for one, other in zip(expected.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
    skipped = sum(float(metric["skipped"]) for metric in metrics)
    assert (skipped > 0) == (objective is steep)
    assert update.num_updates == 40 - skipped
    assert update.state_dict()["scaler"]["scale"] == scaler.get_scale()


def test_bf16_makes_the_updates_of_plain_autocast() -> None:
    batches = [rows(seed) for seed in range(20)]
    expected = Net()
    optimizer = torch.optim.AdamW(expected.parameters(), lr=LR, weight_decay=0.0, fused=True)
    for batch in batches:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = squared_error(expected, batch).total
        loss.backward()
        optimizer.step()
    net, _, metrics = ours(squared_error, batches, precision="bf16", clip_norm=0.0)
    assert all(torch.equal(one, other) for one, other in zip(expected.parameters(), net.parameters(), strict=True))
    full, _, _ = ours(squared_error, batches, clip_norm=0.0)
    assert not torch.equal(full.layers[0].weight, net.layers[0].weight), "it was not bf16 at all"
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}
    assert "skipped" not in metrics[0]


class Counting(LrSchedule):
    def __init__(self) -> None:
        self.asked: list[int] = []

    def factor(self, update: int) -> float:
        self.asked.append(update)
        return 1.0 / (1 + update)


def test_a_skipped_update_moves_nothing_along() -> None:
    schedule, average = Counting(), WeightAverage(0.9)
    batches = [rows(seed) for seed in range(20)]
    net, update, metrics = ours(steep, batches, precision="fp16", schedule=schedule, average=average)
    made = [step for step, metric in enumerate(metrics) if not float(metric["skipped"])]
    assert 0 < len(made) < 20
    assert schedule.asked == list(range(len(made)))
    assert update.num_updates == average.state_dict()["num_updates"] == len(made)
    assert update.lr == LR / len(made)
    assert [step for step, metric in enumerate(metrics) if "gradient_norm" in metric] == made
    assert all(torch.isfinite(parameter).all() for parameter in net.parameters())


def test_skipped_updates_are_no_divergence() -> None:
    update = GradientUpdate(steep, OptimizerConfig(lr=LR), precision="fp16")
    history = fit(Net(), [rows(seed) for seed in range(10)], update, epochs=2)
    assert history.epochs[0]["training/skipped"] > 0
    assert history.epochs[1]["training/skipped"] < history.epochs[0]["training/skipped"]


def test_a_batch_whose_forward_pass_overflows_is_skipped_and_the_next_ones_count() -> None:
    batches = [rows(0), rows(1), rows(2)]
    batches[1].inputs["x"].fill_(1e30)  # infinite in float16
    net = Net()
    net.layers[1] = nn.Identity()
    update = GradientUpdate(squared_error, OptimizerConfig(lr=LR), precision="fp16")
    history = fit(net, batches, update, epochs=1)
    assert update.num_updates == 2
    assert 0 < history.epochs[0]["training/loss"] < 100


def test_gradients_that_are_finite_at_no_scale_are_a_divergence_with_advice() -> None:
    def bad(model: nn.Module, batch: Batch) -> Loss:
        total = squared_error(model, batch).total
        return Loss((total - total.detach()).sqrt() + 1.0, {})  # finite, but its slope is infinite

    update = GradientUpdate(bad, OptimizerConfig(lr=LR), precision="fp16")
    with pytest.raises(DivergenceError, match=r"30 updates in a row were not finite.*bf16"):
        fit(Net(), [rows(seed) for seed in range(40)], update, epochs=1)


def test_an_epoch_without_a_finite_loss_is_a_divergence_however_short() -> None:
    batch = rows(0)
    batch.inputs["x"].fill_(float("nan"))
    update = GradientUpdate(squared_error, OptimizerConfig(lr=LR), precision="fp16")
    with pytest.raises(DivergenceError, match="no loss of a batch was finite in fp16"):
        fit(Net(), [batch], update, epochs=1)


def test_accumulated_batches_are_skipped_together_and_the_scale_is_that_of_the_window() -> None:
    batches = [rows(seed) for seed in range(12)]
    _, update, metrics = ours(steep, batches, precision="fp16", accumulation=2)
    assert [("skipped" in metric) for metric in metrics] == [False, True] * 6
    skipped = sum(float(metric["skipped"]) for metric in metrics[1::2])
    assert skipped + update.num_updates == 6


def test_the_scale_grows_after_good_updates_and_survives_a_save() -> None:
    scaler = LossScaler(scale=8.0, growth_interval=3)
    scaler.update(True)
    scaler.update(False)
    assert scaler.scale == 4.0
    for _ in range(2):
        scaler.update(True)
    again = LossScaler(growth_interval=3)
    again.load_state_dict(scaler.state_dict())
    again.update(True)
    assert (again.scale, again.num_skipped) == (8.0, 1)


def test_sophia_refuses_what_cannot_be_differentiated_twice() -> None:
    sophia = OptimizerConfig(kind="sophia")
    with pytest.raises(ConfigError, match="differentiates twice"):
        GradientUpdate(squared_error, sophia, precision="fp16")
    with pytest.raises(ConfigError, match="differentiates twice"):
        GradientUpdate(squared_error, sophia, compile=True)


def test_a_parameter_without_numbers_is_finite() -> None:
    assert first_wild_parameter(nn.ParameterList([torch.zeros(0, 3), torch.zeros(2)])) is None
    wild = nn.ParameterList([torch.zeros(0, 3), torch.tensor([1.0, torch.nan])])
    assert first_wild_parameter(wild) == "parameter '1' is not finite"
