"""Every schedule against the scheduler of torch it stands for, over a whole training."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch.optim import lr_scheduler

from training_core.engine.loop import TrainingState
from training_core.engine.training import ScheduleKind
from training_core.engine.updates.schedules import LrSchedule, Plateau, ScheduleHook, build_schedule
from training_core.errors import ConfigError

UPDATES_PER_EPOCH = 7
EPOCHS = 80
TOTAL = EPOCHS * UPDATES_PER_EPOCH
ALL_KINDS: tuple[ScheduleKind, ...] = ("none", "cosine_restarts", "one_cycle", "plateau", "linear", "exponential")

Scheduler = Callable[[torch.optim.Optimizer, int], lr_scheduler.LRScheduler]
TORCH: dict[ScheduleKind, Scheduler] = {
    "none": lambda optimizer, total: lr_scheduler.ConstantLR(optimizer, factor=1.0),
    "cosine_restarts": lambda optimizer, total: lr_scheduler.CosineAnnealingWarmRestarts(
        optimizer, 10 * UPDATES_PER_EPOCH, T_mult=2
    ),
    "one_cycle": lambda optimizer, total: lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=total, cycle_momentum=False
    ),
    "linear": lambda optimizer, total: lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=total),
    "exponential": lambda optimizer, total: lr_scheduler.ExponentialLR(optimizer, 0.95 ** (1 / UPDATES_PER_EPOCH)),
}


def optimizer_of_one() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)


def torch_factors(make: Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler], num_updates: int) -> list[float]:
    optimizer = optimizer_of_one()
    scheduler, factors = make(optimizer), list[float]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about its own SequentialLR
        for update in range(num_updates):
            factors.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if update + 1 < num_updates:
                scheduler.step()
    return factors


def our_factors(schedule: LrSchedule, num_updates: int) -> list[float]:
    return [schedule.factor(update) for update in range(num_updates)]


def build(kind: ScheduleKind, warmup_epochs: float = 0.0, total: int = TOTAL) -> LrSchedule:
    return build_schedule(kind, total_updates=total, updates_per_epoch=UPDATES_PER_EPOCH, warmup_epochs=warmup_epochs)


@pytest.mark.parametrize("kind", list(TORCH))
def test_a_schedule_gives_what_torch_gives(kind: ScheduleKind) -> None:
    expected = torch_factors(lambda optimizer: TORCH[kind](optimizer, TOTAL), TOTAL)
    assert our_factors(build(kind), TOTAL) == pytest.approx(expected, abs=1e-12, rel=0)


@pytest.mark.parametrize("total", [1, 2, 3, 4, 7, 10, 100])
def test_one_cycle_gives_what_torch_gives_in_short_trainings(total: int) -> None:
    expected = torch_factors(lambda optimizer: TORCH["one_cycle"](optimizer, total), total)
    assert our_factors(build("one_cycle", total=total), total) == pytest.approx(expected, abs=1e-12, rel=0)


@pytest.mark.parametrize("kind", ["none", "cosine_restarts", "linear", "exponential"])
def test_warm_up_gives_what_torch_gives_when_it_chains_schedulers(kind: ScheduleKind) -> None:
    warmup = 3 * UPDATES_PER_EPOCH

    def chained(optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
        rising = lr_scheduler.LinearLR(optimizer, 1 / (warmup + 1), 1.0, total_iters=warmup)
        return lr_scheduler.SequentialLR(optimizer, [rising, TORCH[kind](optimizer, TOTAL - warmup)], [warmup])

    expected = torch_factors(chained, TOTAL)
    assert our_factors(build(kind, warmup_epochs=3), TOTAL) == pytest.approx(expected, abs=1e-12, rel=0)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_warm_up_grows_in_equal_steps_to_where_the_schedule_begins(kind: ScheduleKind) -> None:
    schedule, alone = build(kind, warmup_epochs=2.5), build(kind, total=TOTAL - 18)  # 17.5 updates are 18
    factors = our_factors(schedule, TOTAL)
    assert factors[18:] == our_factors(alone, TOTAL - 18)
    assert factors[:19] == pytest.approx([alone.factor(0) * (update + 1) / 19 for update in range(19)])
    assert factors[0] > 0


@pytest.mark.parametrize("seed", range(5))
def test_plateau_gives_what_torch_gives(seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    losses = (torch.linspace(1, 0.5, 120) + 0.1 * torch.rand(120, generator=draws)).tolist()
    losses[40] = float("nan")
    optimizer, plateau = optimizer_of_one(), Plateau()
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=5)
    factors: list[float] = []
    for epoch, loss in enumerate(losses):
        assert plateau.factor(epoch) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12, rel=0)
        factors.append(plateau.factor(epoch))
        scheduler.step(loss)
        plateau.observe(loss)
    assert len(set(factors)) > 3


def test_plateau_takes_a_negative_loss_that_stands_still_for_a_plateau() -> None:
    plateau = Plateau()
    for _ in range(7):
        plateau.observe(-2.0)
    assert plateau.factor(0) == 0.5


def test_plateau_goes_on_from_its_state_behind_a_warm_up() -> None:
    whole, first = build("plateau", warmup_epochs=1), build("plateau", warmup_epochs=1)
    losses = [1.0, *[2.0] * 20]
    for loss in losses:
        whole.observe(loss)
    for loss in losses[:9]:
        first.observe(loss)
    second = build("plateau", warmup_epochs=1)
    second.load_state_dict(first.state_dict())
    for loss in losses[9:]:
        second.observe(loss)
    assert second.factor(TOTAL) == whole.factor(TOTAL) == 0.125


def test_the_hook_tells_the_validation_loss_or_else_the_training_loss() -> None:
    class Listening(LrSchedule):
        heard: list[float]

        def observe(self, validation_loss: float) -> None:
            self.heard.append(validation_loss)

    schedule = Listening()
    schedule.heard = []
    hook = ScheduleHook(schedule)
    for metrics in ({"training/loss": 1.0, "validation/loss": 2.0}, {"training/loss": 3.0}, {}):
        hook.on_epoch_end(TrainingState("net", 3, metrics=metrics), None)
    assert schedule.heard == [2.0, 3.0]


def test_the_hook_carries_the_state_of_the_schedule() -> None:
    plateau, later = Plateau(), Plateau()
    for loss in (1.0, *[2.0] * 8):
        plateau.observe(loss)
    ScheduleHook(later).load_state_dict(ScheduleHook(plateau).state_dict())
    assert later.state_dict() == plateau.state_dict()


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_training_may_go_on_after_the_planned_end(kind: ScheduleKind) -> None:
    schedule = build(kind)
    assert 0 <= schedule.factor(TOTAL + 1000) <= 1
    if kind == "one_cycle":
        assert schedule.factor(TOTAL + 1000) == schedule.factor(TOTAL - 1)


def test_a_schedule_without_updates_is_refused() -> None:
    with pytest.raises(ConfigError, match="asked for 0 updates, 7 per epoch; both must be at least 1"):
        build("linear", total=0)


def test_a_warm_up_longer_than_training_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"`warmup_epochs` is 80, but training has only 80 epochs; make it smaller"):
        build("linear", warmup_epochs=80)
