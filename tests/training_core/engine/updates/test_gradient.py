from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from training_core.engine.loop import Hook, TrainingState, fit
from training_core.engine.training import Precision
from training_core.engine.updates.gradient import GradientUpdate
from training_core.engine.updates.optimizers import OptimizerConfig
from training_core.engine.updates.schedules import LrSchedule
from training_core.errors import DivergenceError
from training_core.objectives import Loss
from training_core.schema import Batch

SGD = OptimizerConfig(kind="sgd", lr=1.0, weight_decay=0.0, momentum=0.0)


class Linear(nn.Module):
    """w · x; zero for an absent modality."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, 1))

    def forward(self, inputs: Mapping[str, Tensor], available: Tensor) -> Tensor:
        return (inputs["x"] * available) @ self.weight


def batch(*rows: list[float], available: bool = True) -> Batch:
    values = torch.tensor(rows)
    return Batch(inputs={"x": values}, available=torch.full(values.shape, available))


def mean_output(model: nn.Module, batch: Batch) -> Loss:
    """Its gradient is the mean of the inputs."""
    return Loss(model(batch.inputs, batch.available).mean(), {})


def after_one_step(update: GradientUpdate, data: Batch) -> tuple[list[float], dict[str, Tensor]]:
    model = Linear()
    update.start(model)
    metrics = update.step(model, data)
    return model.weight.detach().flatten().tolist(), metrics


def test_a_long_gradient_is_scaled_to_the_clip_norm_and_the_norm_before_is_reported() -> None:
    weight, metrics = after_one_step(GradientUpdate(mean_output, SGD, clip_norm=1.0), batch([3.0, 4.0]))
    assert weight == pytest.approx([-0.6, -0.8])
    assert float(metrics["gradient_norm"]) == pytest.approx(5.0)


def test_the_norm_is_of_all_parameters_together() -> None:
    one, other = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

    def slopes_3_and_4(model: nn.Module, batch: Batch) -> Loss:
        return Loss((3.0 * one + 4.0 * other).sum(), {})

    update = GradientUpdate(slopes_3_and_4, SGD, clip_norm=2.5)
    model = nn.ParameterList([one, other])
    update.start(model)
    update.step(model, batch([0.0, 0.0]))
    assert [one.item(), other.item()] == pytest.approx([-1.5, -2.0])


def test_a_short_gradient_is_left_exactly_alone() -> None:
    weight, _ = after_one_step(GradientUpdate(mean_output, SGD, clip_norm=1.0), batch([0.1, 0.3]))
    assert weight == [-torch.tensor(0.1).item(), -torch.tensor(0.3).item()]


def test_clip_norm_zero_turns_clipping_off() -> None:
    weight, _ = after_one_step(GradientUpdate(mean_output, SGD, clip_norm=0.0), batch([3.0, 4.0]))
    assert weight == [-3.0, -4.0]


def test_a_parameter_the_loss_does_not_reach_is_no_obstacle() -> None:
    used, idle = nn.Parameter(torch.full((1,), 0.5)), nn.Parameter(torch.ones(1))

    def one_only(model: nn.Module, batch: Batch) -> Loss:
        return Loss(used.square().sum(), {})

    update = GradientUpdate(one_only, SGD)
    model = nn.ParameterList([used, idle])
    update.start(model)
    update.step(model, batch([0.0, 0.0]))
    assert [used.item(), idle.item()] == [-0.5, 1.0]


def test_a_step_reports_terms_only_when_the_loss_has_several() -> None:
    def two_terms(model: nn.Module, batch: Batch) -> Loss:
        total = mean_output(model, batch).total
        return Loss(total + 2.0 * total, {"supervised": total, "denoising": 2.0 * total})

    _, metrics = after_one_step(GradientUpdate(two_terms, SGD), batch([1.0, 1.0]))
    assert list(metrics) == ["loss", "supervised", "denoising", "gradient_norm"]
    assert all(not metric.requires_grad for metric in metrics.values()), "a kept graph would eat memory every step"
    _, metrics = after_one_step(GradientUpdate(mean_output, SGD), batch([1.0, 1.0]))
    assert list(metrics) == ["loss", "gradient_norm"]


def test_gradients_do_not_leak_into_the_next_step() -> None:
    model = Linear()
    update = GradientUpdate(mean_output, SGD, clip_norm=0.0)
    update.start(model)
    for _ in range(2):
        update.step(model, batch([1.0, 2.0]))
    assert model.weight.detach().flatten().tolist() == [-2.0, -4.0]


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_step_never_waits_for_the_device(accumulation: int, precision: Precision) -> None:
    """Reading a tensor's value (`.item()`, `float()`, an `if`) is the operation `_local_scalar_dense`.

    The first update, in which the optimiser makes its state, may look at it.
    """

    class NoReading(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            assert "_local_scalar_dense" not in str(func), "a step read a value"
            return func(*args, **(kwargs or {}))

    model = Linear()
    update = GradientUpdate(mean_output, OptimizerConfig(), accumulation=accumulation, precision=precision)
    update.start(model)
    for _ in range(accumulation):
        update.step(model, batch([1.0, 2.0], [3.0, 4.0]))
    with NoReading():
        for _ in range(4):
            update.step(model, batch([1.0, 2.0], [3.0, 4.0]))


def test_an_exploding_gradient_of_a_finite_loss_is_a_divergence() -> None:
    def root(model: nn.Module, batch: Batch) -> Loss:
        return Loss(mean_output(model, batch).total.abs().sqrt(), {})  # its slope at 0 is infinite

    update = GradientUpdate(root, SGD)
    with pytest.raises(DivergenceError, match="gradient_norm became nan at epoch 1, step 1"):
        fit(Linear(), [batch([1.0, 1.0])], update, epochs=1)


def test_weights_that_leave_the_finite_numbers_in_the_very_last_step_are_a_divergence() -> None:
    wild = SGD.model_copy(update={"lr": 3e38})
    update = GradientUpdate(mean_output, wild, clip_norm=0.0)
    with pytest.raises(DivergenceError, match="after epoch 1 parameter 'weight' is not finite"):
        fit(Linear(), [batch([3.0, 4.0])], update, epochs=1)


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(2, 3), nn.Linear(3, 1)

    def forward(self, inputs: Mapping[str, Tensor], available: Tensor) -> Tensor:
        return self.second(self.first(inputs["x"]).tanh())


class Freezes(Hook):
    """Freezes the first layer in some epochs, and keeps its weights at the end of each."""

    def __init__(self, epochs: set[int]) -> None:
        self.epochs = epochs
        self.seen: list[Tensor] = []

    def on_epoch_start(self, state: TrainingState, model: TwoLayers) -> None:
        model.first.requires_grad_(state.epoch not in self.epochs)

    def on_epoch_end(self, state: TrainingState, model: TwoLayers) -> None:
        self.seen.append(model.first.weight.detach().clone())


@pytest.mark.parametrize("frozen", [{1}, {2}, {1, 3}])
def test_layers_frozen_and_thawed_between_epochs_stand_still_and_move(frozen: set[int]) -> None:
    model, hook = TwoLayers(), Freezes(frozen)
    start = model.first.weight.detach().clone()
    fit(model, [batch([1.0, 2.0], [3.0, 4.0])] * 2, GradientUpdate(mean_output, OptimizerConfig()), [hook], epochs=4)
    pairs = zip([start, *hook.seen], hook.seen, strict=False)
    still = {epoch for epoch, (before, after) in enumerate(pairs, start=1) if torch.equal(before, after)}
    assert still == frozen


def test_layers_that_a_hook_froze_again_are_seen_in_the_middle_of_an_epoch() -> None:
    class Wrapping(GradientUpdate):
        """Counts how often the module would have to be wrapped anew, as for several devices."""

        num_wrapped = 0

        def _module(self, model: nn.Module) -> nn.Module:
            self.num_wrapped += 1
            return super()._module(model)

    rows = batch([1.0, 2.0], [3.0, 4.0])
    earlier, later = Wrapping(mean_output, SGD), Wrapping(mean_output, SGD)
    for update, model in ((earlier, TwoLayers()), (later, TwoLayers())):
        update.start(model)
        if update is later:
            update.load_state_dict(earlier.state_dict())
        model.first.requires_grad_(False)
        update.step(model, rows)
        update.step(model, rows)
        assert update.num_wrapped == 2


def test_the_learning_rate_is_the_schedule_s_times_the_multiplier() -> None:
    class Halving(LrSchedule):
        def factor(self, update: int) -> float:
            return 0.5**update

    model = Linear()
    update = GradientUpdate(mean_output, SGD, clip_norm=0.0, schedule=Halving())
    update.start(model)
    assert update.lr == 1.0
    for expected in (-1.0, -1.5):
        update.step(model, batch([1.0, 0.0]))
        assert model.weight[0].item() == expected
    update.lr_multiplier = 8.0
    update.step(model, batch([1.0, 0.0]))
    assert model.weight[0].item() == -3.5
    assert (update.lr, update.num_updates) == (2.0, 3)


def test_a_monitor_sees_the_gradients_of_updates_before_they_are_clipped() -> None:
    class Monitor:
        def __init__(self) -> None:
            self.seen: list[list[float]] = []

        def observe(self, model: Linear) -> None:
            assert model.weight.grad is not None
            self.seen.append(model.weight.grad.flatten().tolist())

    monitor: Any = Monitor()
    model = Linear()
    update = GradientUpdate(mean_output, SGD, clip_norm=1.0, accumulation=2, monitor=monitor)
    update.start(model)
    for values in ([3.0, 0.0], [3.0, 8.0], [1.0, 1.0]):
        update.step(model, batch(values))
    assert monitor.seen == [[3.0, 4.0]]


def test_a_norm_that_nobody_asked_for_is_not_measured() -> None:
    _, metrics = after_one_step(GradientUpdate(mean_output, SGD, clip_norm=0.0, measures_norm=False), batch([3.0, 4.0]))
    assert list(metrics) == ["loss"]
