from collections.abc import Iterator, Mapping
from itertools import accumulate

import pytest
import torch
from torch import Tensor, nn

from training_core.engine.hooks import ProgressHook, Validation, mean_losses
from training_core.engine.loop import History, Hook, TrainingState, fit
from training_core.engine.training import TrainingConfig
from training_core.engine.updates.gradient import GradientUpdate
from training_core.engine.updates.optimizers import OptimizerConfig
from training_core.errors import DivergenceError
from training_core.objectives import Loss
from training_core.schema import Batch


class Net(nn.Module):
    """Has parameters, buffers of two types, and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))

    def forward(self, inputs: Mapping[str, Tensor], available: Tensor) -> Tensor:
        return self.layers(inputs["x"])


def batch(num_rows: int, seed: int, weight: list[float] | None = None) -> Batch:
    values = torch.randn(num_rows, 3, generator=torch.Generator().manual_seed(seed))
    return Batch(
        inputs={"x": values},
        available=torch.ones(num_rows, 1, dtype=torch.bool),
        target=values.sum(dim=1, keepdim=True),
        weight=None if weight is None else torch.tensor(weight),
    )


def squared_error(model: nn.Module, batch: Batch) -> Loss:
    assert batch.target is not None
    errors = (model(batch.inputs, batch.available) - batch.target).square().flatten()
    weight = torch.ones_like(errors) if batch.weight is None else batch.weight
    return Loss((errors * weight).sum() / weight.sum(), {})


class ScriptedLosses:
    """An objective that answers with losses from a list, one per epoch."""

    def __init__(self, *losses: float) -> None:
        self._losses: Iterator[float] = iter(losses)

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        return Loss(torch.tensor(next(self._losses)), {})


class Snapshots(Hook):
    """Keeps the model's state after every epoch."""

    def __init__(self) -> None:
        self.states: list[dict[str, Tensor]] = []

    def on_epoch_end(self, state: TrainingState, model: nn.Module) -> None:
        self.states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def train(model: nn.Module, *hooks: Hook, epochs: int = 20) -> History:
    update = GradientUpdate(squared_error, OptimizerConfig(lr=0.01))
    return fit(model, [batch(16, 0), batch(16, 1)], update, hooks, epochs=epochs, name="net")


def test_training_stops_when_patience_is_used_up_and_the_best_weights_come_back_bit_for_bit() -> None:
    torch.manual_seed(0)
    model, snapshots = Net(), Snapshots()
    validation = Validation(ScriptedLosses(3.0, 1.0, 2.0, 2.0, 0.5, 2.0, 0.9, 0.6, 9.0), [batch(4, 2)], patience=3)
    history = train(model, snapshots, validation)
    assert history.best_epoch == 5
    assert len(history.epochs) == 8
    assert history.stop_reason == "no lower validation loss for 3 epochs"
    assert same(snapshots.states[4], model.state_dict())
    assert not same(snapshots.states[7], model.state_dict())


def test_among_equal_losses_the_earliest_epoch_is_kept() -> None:
    history = train(Net(), Validation(ScriptedLosses(1.0, 1.0, 1.0), [batch(4, 2)], patience=2))
    assert history.best_epoch == 1
    assert len(history.epochs) == 3


def test_the_best_weights_come_back_also_when_all_epochs_are_done() -> None:
    model, snapshots = Net(), Snapshots()
    history = train(model, snapshots, Validation(ScriptedLosses(1.0, 2.0), [batch(4, 2)], patience=5), epochs=2)
    assert history.stop_reason == "all 2 epochs done"
    assert same(snapshots.states[0], model.state_dict())


@pytest.mark.parametrize("wild", [float("nan"), float("inf"), float("-inf")])
def test_weights_whose_loss_is_not_finite_are_never_the_best(wild: float) -> None:
    model, snapshots = Net(), Snapshots()
    validation = Validation(ScriptedLosses(1.0, wild), [batch(4, 2)], patience=5)
    with pytest.raises(DivergenceError):
        train(model, snapshots, validation)
    validation.on_training_end(TrainingState(name="net", num_epochs=2), model)
    assert same(snapshots.states[0], model.state_dict())


def test_the_reason_why_training_stopped_first_stays() -> None:
    class Stop(Hook):
        def on_epoch_end(self, state: TrainingState, model: nn.Module) -> None:
            state.stop_reason = "enough" if state.epoch == 2 else None

    validation = Validation(ScriptedLosses(1.0, 2.0), [batch(4, 2)], patience=1)
    history = train(Net(), Stop(), validation)
    assert (history.stop_reason, len(history.epochs)) == ("enough", 2)


def test_a_validation_loss_that_is_not_finite_is_a_divergence() -> None:
    validation = Validation(ScriptedLosses(1.0, float("nan")), [batch(4, 2)], patience=5)
    with pytest.raises(DivergenceError, match="net: the validation loss became nan after epoch 2; lower"):
        train(Net(), validation)


def test_divergence_leaves_the_best_weights_intact() -> None:
    torch.manual_seed(0)
    model, snapshots = Net(), Snapshots()
    validation = Validation(squared_error, [batch(4, 2)], patience=5)
    update = GradientUpdate(squared_error, OptimizerConfig())
    bad = batch(16, 1)
    good_epochs = 2

    class Stream:
        epoch = 0

        def __iter__(self) -> Iterator[Batch]:
            self.epoch += 1
            yield batch(16, 0)
            if self.epoch > good_epochs:
                bad.inputs["x"].fill_(float("nan"))
            yield bad

    with pytest.raises(DivergenceError, match="loss became nan at epoch 3, step 2"):
        fit(model, Stream(), update, [snapshots, validation], epochs=5)
    assert len(snapshots.states) == good_epochs
    validation.on_training_end(TrainingState(name="net", num_epochs=5, best_epoch=1), model)
    assert any(same(state, model.state_dict()) for state in snapshots.states)


def test_validation_does_not_change_training() -> None:
    """Neither its mode nor a random number nor a normaliser's statistics."""

    def training_losses(*hooks: Hook) -> list[tuple[int, float]]:
        torch.manual_seed(0)
        model = Net()
        history = train(model, *hooks, epochs=5)
        assert model.training
        return history.curve("training/loss")

    watched = training_losses(Validation(squared_error, [batch(4, 2)], patience=9))
    assert watched == training_losses()


def test_mean_losses_weigh_rows_not_batches() -> None:
    torch.manual_seed(0)
    model = Net().eval()
    data = batch(7, 3)
    parts = [
        Batch(inputs={"x": data.inputs["x"][rows]}, available=data.available[rows], target=data.target[rows])  # pyright: ignore[reportOptionalSubscript]
        for rows in (slice(0, 5), slice(5, 7))
    ]
    whole = float(squared_error(model, data).total.detach())
    assert mean_losses(model, squared_error, parts)["loss"] == pytest.approx(whole)


def test_mean_losses_respect_row_weights() -> None:
    torch.manual_seed(0)
    model = Net().eval()
    counted, ignored = batch(3, 3, [1.0, 1.0, 1.0]), batch(2, 4, [1e-9, 1e-9])
    expected = float(squared_error(model, counted).total.detach())
    assert mean_losses(model, squared_error, [counted, ignored])["loss"] == pytest.approx(expected, rel=1e-5)


def test_mean_losses_weigh_by_what_a_loss_says_it_is_a_mean_of() -> None:
    losses = iter([Loss(torch.tensor(1.0), {}, torch.tensor(30.0)), Loss(torch.tensor(5.0), {}, torch.tensor(10.0))])
    assert mean_losses(Net(), lambda model, batch: next(losses), [batch(4, 0), batch(4, 1)]) == {"loss": 2.0}


def test_mean_losses_name_the_terms_of_a_composed_loss() -> None:
    def composed(model: nn.Module, batch: Batch) -> Loss:
        return Loss(torch.tensor(3.0), {"a": torch.tensor(1.0), "b": torch.tensor(2.0)})

    assert mean_losses(Net(), composed, [batch(4, 0)]) == {"loss": 3.0, "a": 1.0, "b": 2.0}


def test_progress_tells_every_epoch_with_all_its_metrics() -> None:
    told: list[tuple[int, dict[str, float]]] = []
    progress = ProgressHook(lambda epoch, metrics: told.append((epoch, metrics)))
    history = train(Net(), Validation(squared_error, [batch(4, 2)], patience=9), progress, epochs=3)
    lowest = accumulate((loss for _, loss in history.curve("validation/loss")), min)
    best = [{**epoch, "validation/best_loss": loss} for epoch, loss in zip(history.epochs, lowest, strict=True)]
    assert told == list(enumerate(best, start=1))
    assert set(history.epochs[0]) == {"training/loss", "training/gradient_norm", "validation/loss"}


def test_a_listener_may_stop_training_and_the_best_weights_are_kept() -> None:
    net = Net()
    stop = ProgressHook(lambda epoch, metrics: "enough" if epoch == 2 else None)
    history = train(net, Validation(squared_error, [batch(4, 2)], patience=9), stop, epochs=5)
    assert (history.stop_reason, len(history.epochs)) == ("enough", 2)
    losses = [loss for _, loss in history.curve("validation/loss")]
    assert mean_losses(net, squared_error, [batch(4, 2)])["loss"] == min(losses)


def test_what_stopped_training_first_stays_the_reason() -> None:
    validation = Validation(ScriptedLosses(1.0, 2.0, 3.0), [batch(4, 2)], patience=2)
    history = train(Net(), validation, ProgressHook(lambda epoch, metrics: "enough" if epoch == 3 else None), epochs=9)
    assert history.stop_reason == "no lower validation loss for 2 epochs"


def test_patience_is_a_number_of_epochs_of_which_long_ones_need_fewer():
    training = TrainingConfig(patience=15, patience_steps=2000)
    assert training.patience_epochs(num_batches=20) == 15
    assert training.patience_epochs(num_batches=250) == 8
    assert training.patience_epochs(num_batches=100_000) == 5
    assert TrainingConfig(patience=3).patience_epochs(num_batches=100_000) == 3
    assert TrainingConfig(accumulation=4).patience_epochs(num_batches=1000) == 8  # four batches make a step
