"""Hooks that look at speed, memory, learning rate and progress."""

import io
import multiprocessing
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor

import psutil
import pytest
import torch
from torch import Tensor, nn

from training_core.engine.loop import History, Hook, TrainingState, Update, fit
from training_core.engine.watching.monitors import (
    LearningRateMonitor,
    MemoryMonitor,
    ProgressLine,
    ThroughputMonitor,
    peak_process_bytes,
)
from training_core.engine.watching.speed import TimedStream
from training_core.errors import ConfigError

Told = list[tuple[dict[str, float], int]]


class Timed(Update[nn.Module, Tensor]):
    """A step of some milliseconds; every second one is an update."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.num_steps, self.lr, self.num_updates = seconds, 0, 1.0, 0

    def step(self, model: nn.Module, batch: Tensor) -> Mapping[str, Tensor]:
        time.sleep(self.seconds)
        self.num_steps += 1
        self.num_updates = self.num_steps // 2
        self.lr = 0.5**self.num_steps
        return {"loss": torch.tensor(1.0)}


class SlowStream:
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __iter__(self) -> Iterator[Tensor]:
        for _ in range(4):
            time.sleep(self.seconds)
            yield torch.zeros(8)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def train(*hooks: Hook, update: Timed | None = None, stream: object = None, epochs: int = 2) -> History:
    batches = [torch.zeros(8)] * 4 if stream is None else stream
    return fit(nn.Linear(1, 1), batches, update or Timed(), hooks, epochs=epochs, name="net")  # pyright: ignore[reportArgumentType]


def test_the_learning_rate_of_every_so_many_batches_is_kept_and_told() -> None:
    told: Told = []
    update = Timed()
    monitor = LearningRateMonitor(update, lambda metrics, step: told.append((dict(metrics), step)), interval=3)
    train(monitor, update=update)
    assert monitor.rows == [(1, 0.5), (4, 0.5**4), (7, 0.5**7)]
    assert told == [({"learning_rate": lr}, step) for step, lr in monitor.rows]
    later = LearningRateMonitor(update)
    later.load_state_dict(monitor.state_dict())
    assert later.rows == monitor.rows


def test_an_interval_of_no_batch_is_refused() -> None:
    with pytest.raises(ConfigError, match="`interval` is 0; it must be at least 1 batch"):
        LearningRateMonitor(Timed(), interval=0)


def test_the_speed_of_every_epoch_is_told_with_the_share_of_waiting() -> None:
    told: Told = []
    update, stream = Timed(seconds=0.02), TimedStream(SlowStream(0.06))
    monitor = ThroughputMonitor(update, lambda metrics, step: told.append((dict(metrics), step)), stream)
    train(monitor, update=update, stream=stream)
    assert [epoch for _, epoch in told] == [1, 2]
    for row, _ in told:
        assert 0.2 < row["speed/data_wait_share"] < 0.99  # 3 of 4 parts, on a machine that may be busy
        assert row["speed/samples_per_second"] == pytest.approx(16 * row["speed/updates_per_second"])
        assert 1 < row["speed/samples_per_second"] < 32 / 0.32
    assert monitor.rows == [{"epoch": epoch, **row} for row, epoch in told]


def test_what_is_measured_is_no_part_of_the_history() -> None:
    update = Timed()
    hooks = [ThroughputMonitor(update), MemoryMonitor(), LearningRateMonitor(update), ProgressLine(io.StringIO())]
    assert train(*hooks, update=update) == train()


def test_a_throughput_monitor_counts_from_where_training_goes_on() -> None:
    update = Timed()
    update.num_updates = 100
    monitor = ThroughputMonitor(update)
    monitor.load_state_dict(monitor.state_dict())
    update.num_updates = 102
    state = TrainingState("net", 1)
    train(Recorder(state), update=Timed(), epochs=1)
    monitor.on_epoch_end(state, None)
    assert state.result is not None
    assert monitor.rows[0]["speed/updates_per_second"] == pytest.approx(2 / state.result.epoch_duration_seconds)


class Recorder(Hook):
    """Copies the result of an epoch to another state."""

    def __init__(self, other: TrainingState) -> None:
        self.other = other

    def on_epoch_end(self, state: TrainingState, model: object) -> None:
        self.other.result = state.result


class Hungry(Hook):
    """Holds 100 MB more than the process ever had, for the moment in which the second epoch begins."""

    def on_epoch_start(self, state: TrainingState, model: object) -> None:
        if state.epoch == 2:
            missing = peak_process_bytes() - psutil.Process().memory_info().rss
            torch.zeros(missing + 10**8, dtype=torch.uint8).add_(1)


def watch_a_hungry_training() -> list[dict[str, float]]:
    monitor = MemoryMonitor()
    train(Hungry(), monitor)
    return monitor.rows


def test_memory_never_shrinks_and_sees_what_was_held() -> None:
    """In a process that is forked from a small one: any other has the peak of the tests before, which may be large."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("forkserver")) as apart:
        first, second = (row["memory/process_bytes"] for row in apart.submit(watch_a_hungry_training).result())
    assert first > 10**7
    assert second > first + 5 * 10**7


def test_progress_is_a_line_per_epoch() -> None:
    text = io.StringIO()
    train(ProgressLine(text, clock=iter(float(t) for t in range(100)).__next__))
    assert text.getvalue().splitlines() == [
        "net: epoch 1/2  training/loss 1  1.00 s, at most 1.00 s left",
        "net: epoch 2/2  training/loss 1  2.00 s",
    ]


def test_on_a_terminal_the_line_is_drawn_again_now_and_then() -> None:
    text, ticks = Terminal(), iter(0.05 * t for t in range(1000))
    train(ProgressLine(text, clock=ticks.__next__), epochs=5)
    drawn = [line for line in text.getvalue().split("\r") if "batch" in line]
    assert 2 <= len(drawn) <= 15
    assert text.getvalue().count("\n") == 5
    assert "net: epoch 5/5  training/loss 1" in text.getvalue()


def test_no_remaining_time_is_promised_when_training_stops() -> None:
    class Stop(Hook):
        def on_epoch_end(self, state: TrainingState, model: object) -> None:
            state.stop_reason = "enough"

    text = io.StringIO()
    train(Stop(), ProgressLine(text))
    assert "left" not in text.getvalue()
