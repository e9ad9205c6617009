"""Training that ends by a metric or by the clock, in good order."""

import io
import time
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from training_core.engine.hooks import Validation
from training_core.engine.loop import History, Hook, TrainingState, Update, fit
from training_core.engine.updates.averaging import WeightAverage
from training_core.engine.updates.gradient import GradientUpdate
from training_core.engine.updates.optimizers import OptimizerConfig
from training_core.engine.watching.callbacks import EarlyStopping, TimeBudget
from training_core.errors import ConfigError
from training_core.objectives import Supervised
from training_core.schema import Batch, TaskSpec

TASK = TaskSpec.regression(("sum",))
BATCHES = [torch.zeros(1)] * 4


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, inputs: Mapping[str, Tensor], available: Tensor) -> Tensor:
        return self.layer(inputs["x"])


class Counting(Update[nn.Module, Tensor]):
    """Adds 1 to the first bias per step, and lets the clock go on."""

    def __init__(self, clock: "Clock | None" = None, seconds: float = 0.0) -> None:
        self.clock, self.seconds = clock, seconds

    def step(self, model: nn.Module, batch: Tensor) -> Mapping[str, Tensor]:
        with torch.no_grad():
            next(reversed(list(model.parameters()))).add_(1.0)
        if self.clock is not None:
            self.clock.now += self.seconds
        return {"loss": torch.tensor(1.0)}


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Scripted(Hook):
    """Gives epochs a metric from a list, and takes its time."""

    def __init__(self, *values: float, clock: Clock | None = None, seconds: float = 0.0) -> None:
        self.values, self.clock, self.seconds = values, clock, seconds

    def on_epoch_end(self, state: TrainingState, model: nn.Module) -> None:
        state.metrics["score"] = self.values[state.epoch - 1] if self.values else 1.0
        if self.clock is not None:
            self.clock.now += self.seconds


class Stopwatch(Hook):
    """Seconds from the first epoch's start, after the update was prepared, to the end."""

    def on_training_start(self, state: TrainingState, model: nn.Module) -> None:
        self.started = time.monotonic()

    def on_training_end(self, state: TrainingState, model: nn.Module) -> None:
        self.seconds = time.monotonic() - self.started


def steps_of(model: nn.Module) -> float:
    """How many steps the weights have seen."""
    return float(model.layer.bias.detach() - model.start)  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue, reportArgumentType, reportOperatorIssue]


def train(*hooks: Hook, epochs: int = 20, update: Counting | None = None) -> tuple[History, float]:
    model = Net().double()
    model.start = model.layer.bias.detach().clone()
    history = fit(model, BATCHES, update or Counting(), hooks, epochs=epochs, name="net")
    return history, steps_of(model)


def test_training_stops_when_a_metric_that_should_rise_does_not_and_its_best_weights_come_back() -> None:
    stopping = EarlyStopping("score", patience=3, mode="max")
    history, steps = train(Scripted(0.1, 0.5, 0.4, 0.5, 0.2, 9.0), stopping)
    assert history.stop_reason == "no better score for 3 epochs"
    assert (len(history.epochs), history.best_epoch) == (5, 2)
    assert steps == pytest.approx(2 * len(BATCHES))


def test_a_metric_that_should_fall_must_fall_by_more_than_min_delta() -> None:
    history, _ = train(
        Scripted(1.0, 0.95, 0.91, 0.89, 0.88, 0.8, 0.8), EarlyStopping("score", patience=3, min_delta=0.1)
    )
    assert (len(history.epochs), history.best_epoch) == (7, 4)


def test_without_restoring_the_last_weights_stay() -> None:
    history, steps = train(Scripted(1.0, 2.0, 2.0), EarlyStopping("score", patience=2, restore_best=False))
    assert history.best_epoch is None
    assert steps == pytest.approx(3 * len(BATCHES))


def test_a_metric_that_is_nan_is_never_better() -> None:
    nan = float("nan")
    history, _ = train(Scripted(nan, 1.0, nan, nan), EarlyStopping("score", patience=2))
    assert (len(history.epochs), history.best_epoch) == (4, 2)
    history, steps = train(Scripted(nan, nan, nan), EarlyStopping("score", patience=2))
    assert (len(history.epochs), history.best_epoch) == (2, None)
    assert steps == pytest.approx(2 * len(BATCHES))


def test_a_metric_there_is_not_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        ConfigError, match=r"net: no metric 'accuracy' to stop by; epoch 1 has score, training/loss\. Place"
    ):
        train(Scripted(), EarlyStopping("accuracy"))


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="`patience` is 0"):
        EarlyStopping(patience=0)
    with pytest.raises(ConfigError, match="`min_delta` nan"):
        EarlyStopping(min_delta=float("nan"))
    with pytest.raises(ConfigError, match="the time budget is 0 seconds; it must be above 0"):
        TimeBudget(0)


def test_early_stopping_goes_on_from_its_state() -> None:
    def epochs(hook: EarlyStopping, model: Net, numbers: range) -> TrainingState:
        state = TrainingState("net", 9)
        for epoch in numbers:
            nn.init.constant_(model.layer.bias, float(epoch))
            state.epoch, state.metrics = epoch, {"score": [3.0, 1.0, 2.0, 2.0][epoch - 1]}
            hook.on_epoch_end(state, model)
        return state

    first, second, model = EarlyStopping("score", patience=2), EarlyStopping("score", patience=2), Net()
    first.on_training_start(TrainingState("net", 9), model)
    epochs(first, model, range(1, 4))
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second.on_training_start(TrainingState("net", 9), model)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    state = epochs(second, model, range(4, 5))
    assert state.stop_reason is not None
    second.on_training_end(state, model)
    assert (model.layer.bias.item(), state.best_epoch) == (2.0, 2)


def test_early_stopping_keeps_averaged_weights_where_there_is_an_average() -> None:
    average, stopping, model = WeightAverage(0.5), None, Net()
    average.start(model)
    nn.init.constant_(model.layer.bias, 7.0)
    average.update()
    with average.swapped(model):
        expected = model.layer.bias.item()
    stopping = EarlyStopping("score", average=average)
    state = TrainingState("net", 1, epoch=1, metrics={"score": 1.0})
    stopping.on_training_start(state, model)
    stopping.on_epoch_end(state, model)
    assert model.layer.bias.item() == 7.0
    stopping.on_training_end(state, model)
    assert model.layer.bias.item() == expected


def budgeted(
    seconds: float, step: float, closing: float, wrap: Callable[[TimeBudget], Hook] = lambda hook: hook
) -> tuple[History, float]:
    """Training on a clock of its own; returns the seconds it took too."""
    clock = Clock()
    hooks = [Scripted(clock=clock, seconds=closing), wrap(TimeBudget(seconds, clock))]
    history, _ = train(*hooks, epochs=100, update=Counting(clock, step))
    return history, clock.now - 100.0


def test_training_ends_within_its_budget_though_closing_an_epoch_takes_time() -> None:
    history, seconds = budgeted(52.0, step=1.0, closing=5.0)
    assert history.stop_reason == "the budget of 52.0 s is used up"
    assert len(history.epochs) == 6  # of 9 seconds each; the last one was cut short
    assert history.num_steps == 22
    assert seconds == 52.0


def test_no_epoch_is_begun_that_could_not_be_closed_in_time() -> None:
    history, seconds = budgeted(18.0, step=1.0, closing=5.0)
    assert (len(history.epochs), seconds) == (2, 18.0)


def test_a_budget_that_ends_in_the_first_epoch_still_closes_it() -> None:
    history, seconds = budgeted(2.0, step=1.0, closing=5.0)
    assert (len(history.epochs), history.num_steps, seconds) == (1, 2, 7.0)


def test_a_training_within_its_budget_ends_as_without_one() -> None:
    history, _ = train(Scripted(), TimeBudget(1000.0), epochs=3)
    assert history == train(Scripted(), epochs=3)[0]


def test_the_seconds_used_before_an_interruption_count() -> None:
    clock = Clock()
    first = TimeBudget(10.0, clock)
    first.on_training_start(TrainingState("net", 9), None)
    clock.now += 7.0
    kept = first.state_dict()
    clock.now += 1000.0  # the machine was off
    second = TimeBudget(10.0, clock)
    second.on_training_start(TrainingState("net", 9), None)
    second.load_state_dict(kept)
    state = TrainingState("net", 9)
    clock.now += 2.9
    second.on_batch_end(state, None)
    assert state.stop_reason is None
    assert second.used_seconds == pytest.approx(9.9)
    clock.now += 0.1
    second.on_batch_end(state, None)
    assert state.stop_reason == "the budget of 10.0 s is used up"


def test_a_net_that_ran_out_of_time_is_validated_and_has_its_best_weights() -> None:
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    rows = Batch({"x": x}, torch.ones(64, 1, dtype=torch.bool), x.sum(dim=1, keepdim=True))
    torch.manual_seed(0)
    model, objective = Net(), Supervised(TASK)
    watch = Stopwatch()
    history = fit(
        model,
        [rows] * 50,
        GradientUpdate(objective, OptimizerConfig(lr=0.01)),
        [watch, Validation(objective, [rows], patience=10**6), TimeBudget(0.3)],
        epochs=10**6,
    )
    assert watch.seconds < 3  # with room for a busy machine
    assert history.stop_reason == "the budget of 0.30 s is used up"
    assert history.best_epoch is not None
    best = history.epochs[history.best_epoch - 1]["validation/loss"]
    assert objective(model.eval(), rows).total.item() == pytest.approx(best, rel=1e-5)
    assert best < history.epochs[0]["training/loss"]
