"""The moving average of weights, against torch's own and against its closed form."""

import io
import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from training_core.engine.hooks import Validation, mean_losses
from training_core.engine.loop import History, Hook, Snapshot, TrainingState, fit
from training_core.engine.updates.averaging import KeepAverage, WeightAverage
from training_core.engine.updates.gradient import GradientUpdate
from training_core.engine.updates.optimizers import OptimizerConfig
from training_core.errors import ConfigError
from training_core.objectives import Loss
from training_core.schema import Batch


class Net(nn.Module):
    """Has two weights that are one, and buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, inputs: Mapping[str, Tensor], available: Tensor) -> Tensor:
        return self.second(self.norm(self.first(inputs["x"])))


def rows(seed: int) -> Batch:
    values = torch.randn(12, 4, generator=torch.Generator().manual_seed(seed))
    return Batch({"x": values}, torch.ones(12, 1, dtype=torch.bool), values.roll(1, dims=1))


def squared_error(model: nn.Module, batch: Batch) -> Loss:
    assert batch.target is not None
    return Loss((model(batch.inputs, batch.available) - batch.target).square().mean(), {})


def update(average: WeightAverage | None) -> GradientUpdate:
    return GradientUpdate(squared_error, OptimizerConfig(kind="sgd", lr=0.05), average=average)


def seeded() -> Net:
    torch.manual_seed(0)
    return Net()


def disturb(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))


def copies(model: nn.Module) -> list[Tensor]:
    return [tensor.clone() for tensor in model.state_dict().values()]


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def averaged(average: WeightAverage, model: nn.Module) -> list[Tensor]:
    with average.swapped(model):
        return [parameter.detach().clone() for parameter in model.parameters()]


def test_an_average_that_needs_no_start_is_torch_s_bit_for_bit() -> None:
    """With a decay of 0.1 the growing decay is never the smaller one."""
    model, average = seeded(), WeightAverage(0.1)
    reference = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.1))
    reference.update_parameters(model)
    average.start(model)
    for _ in range(20):
        disturb(model)
        average.update()
        reference.update_parameters(model)
    assert equal(averaged(average, model), [parameter.detach() for parameter in reference.parameters()])


def test_an_average_is_torch_s_with_the_decay_of_the_start() -> None:
    def growing(mine: list[Tensor], live: list[Tensor], num_averaged: Tensor | int) -> None:
        n = int(num_averaged) - 1  # torch counts the copy it begins with
        get_ema_multi_avg_fn(min(0.8, (1 + n) / (10 + n)))(mine, live, n)

    model, average = seeded(), WeightAverage(0.8)
    reference = AveragedModel(model, multi_avg_fn=growing)  # pyright: ignore[reportArgumentType]
    reference.update_parameters(model)
    average.start(model)
    for _ in range(60):
        disturb(model)
        average.update()
        reference.update_parameters(model)
    assert equal(averaged(average, model), [parameter.detach() for parameter in reference.parameters()])


@pytest.mark.parametrize("num_updates", [1, 5, 40])
def test_the_weights_training_began_with_are_forgotten(num_updates: int) -> None:
    model = nn.Linear(1, 1, bias=False).double()
    average = WeightAverage(0.9999)
    nn.init.ones_(model.weight)
    average.start(model)
    nn.init.zeros_(model.weight)
    for _ in range(num_updates):
        average.update()
    part_left = math.factorial(9) * math.factorial(num_updates) / math.factorial(num_updates + 9)
    assert averaged(average, model)[0].item() == pytest.approx(part_left, rel=1e-9)


def test_swapping_gives_back_the_same_bits_and_leaves_tensors_and_buffers_in_place() -> None:
    model, average = seeded(), WeightAverage(0.5)
    average.start(model)
    disturb(model)
    model.norm.running_mean.fill_(3.0)  # pyright: ignore[reportOptionalMemberAccess]
    average.update()
    before, places = copies(model), [parameter.data_ptr() for parameter in model.parameters()]
    with pytest.raises(ZeroDivisionError), average.swapped(model):
        assert not equal(before, copies(model))
        assert model.norm.running_mean.tolist() == [3.0] * 4  # pyright: ignore[reportOptionalMemberAccess]
        assert [parameter.data_ptr() for parameter in model.parameters()] == places
        raise ZeroDivisionError
    assert equal(before, copies(model))


def test_an_average_goes_on_from_its_state() -> None:
    model, whole = seeded(), WeightAverage(0.9)
    whole.start(model)
    disturb(model)
    whole.update()
    buffer = io.BytesIO()
    torch.save(whole.state_dict(), buffer)
    buffer.seek(0)
    resumed = WeightAverage(0.9)
    resumed.start(model)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    disturb(model)
    whole.update()
    resumed.update()
    assert equal(averaged(whole, model), averaged(resumed, model))


def test_the_averaged_weights_are_validated_and_kept() -> None:
    kept: list[tuple[float, list[Tensor]]] = []
    average = WeightAverage(0.8)

    class Judge(Hook):
        def on_epoch_end(self, state: TrainingState, model: nn.Module) -> None:
            with average.swapped(model):
                kept.append((mean_losses(model, squared_error, [rows(9)])["loss"], copies(model)))

    model = seeded()
    validation = Validation(squared_error, [rows(9)], patience=50, average=average)
    history = fit(model, [rows(0), rows(1)], update(average), [validation, Judge()], epochs=12)
    assert [loss for _, loss in history.curve("validation/loss")] == [loss for loss, _ in kept]
    assert history.best_epoch is not None
    assert equal(copies(model), kept[history.best_epoch - 1][1])


def test_an_average_does_not_change_training() -> None:
    def losses(average: WeightAverage | None) -> list[tuple[int, float]]:
        hooks = [Validation(squared_error, [rows(9)], patience=50, average=average)]
        return fit(seeded(), [rows(0), rows(1)], update(average), hooks, epochs=6).curve("training/loss")

    assert losses(WeightAverage(0.9)) == losses(None)


@pytest.mark.parametrize("step", [3, 4])
def test_training_with_an_average_goes_on_from_a_snapshot_bit_for_bit(step: int) -> None:
    class SnapshotAt(Hook):
        kept = io.BytesIO()

        def on_epoch_end(self, state: TrainingState, model: nn.Module) -> None:
            if state.step == step * 2 and state.snapshot is not None:
                self.kept = io.BytesIO()
                torch.save(state.snapshot(), self.kept)

    class Stream(list[Batch]):
        def state_dict(self) -> dict[str, int]:
            return {}

        def load_state_dict(self, state: object) -> None: ...

    def train(hook: Hook, resume: Snapshot | None = None) -> tuple[list[Tensor], History]:
        model, average = seeded(), WeightAverage(0.8)
        hooks = [Validation(squared_error, [rows(9)], patience=2, average=average), hook]
        history = fit(model, Stream([rows(0), rows(1)]), update(average), hooks, epochs=8, resume=resume)
        return copies(model), history

    taken = SnapshotAt()
    weights, history = train(taken)
    taken.kept.seek(0)
    resumed, continued = train(Hook(), torch.load(taken.kept, weights_only=True))
    assert continued == history
    assert equal(weights, resumed)


def test_without_validation_the_average_itself_is_kept() -> None:
    model, average = seeded(), WeightAverage(0.8)
    fit(model, [rows(0)], update(average), [KeepAverage(average)], epochs=3)
    assert equal([parameter.detach() for parameter in model.parameters()], averaged(average, model))


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.1, float("nan")])
def test_a_decay_outside_the_unit_interval_is_refused(decay: float) -> None:
    with pytest.raises(ConfigError, match=r"must lie between 0 and 1, as 0\.999"):
        WeightAverage(decay)


def test_another_model_cannot_be_swapped() -> None:
    average = WeightAverage(0.9)
    average.start(seeded())
    with pytest.raises(AssertionError, match="another model"), average.swapped(seeded()):
        pass


def test_whole_numbers_are_not_averaged() -> None:
    model = nn.Linear(2, 1)
    model.register_parameter("places", nn.Parameter(torch.arange(3), requires_grad=False))
    average = WeightAverage(0.5)
    average.start(model)
    average.update()
    with average.swapped(model):
        assert model.get_parameter("places").tolist() == [0, 1, 2]
    average.copy_to(model)
