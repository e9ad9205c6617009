"""What watching a training tells, that it changes nothing, and that it goes on with a training that goes on."""

import copy
import gc
import gzip
import json
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from training_core.engine.loop import Hook, Snapshot, TrainingState, Update, fit
from training_core.engine.watching.profiling import Profile, Watch, read_profile
from training_core.engine.watching.speed import SpeedReport, TimedStream
from training_core.errors import DivergenceError, StorageError


class Slow:
    """Six batches of four rows, each of which takes a while to come."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.position = 0

    def __iter__(self) -> Iterator[Tensor]:
        for index in range(self.position, 6):
            time.sleep(self.seconds)
            self.position = (index + 1) % 6
            yield torch.full((4, 3), float(index + 1))

    def __len__(self) -> int:
        return 6

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


class Descent(Update[nn.Module, Tensor]):
    def __init__(self, seconds: float = 0.0, accumulation: int = 1, wild_at: int = 0) -> None:
        self.seconds, self.accumulation, self.wild_at = seconds, accumulation, wild_at
        self.steps = self.num_updates = 0

    def step(self, model: nn.Module, batch: Tensor) -> dict[str, Tensor]:
        time.sleep(self.seconds)
        self.steps += 1
        self.num_updates = self.steps // self.accumulation
        loss = model(batch + torch.rand(4, 3)).square().mean()
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.001 * parameter.grad
                parameter.grad = None
        return {"loss": loss.detach() * (float("nan") if self.steps == self.wild_at else 1.0)}


class Stop(Hook):
    def __init__(self, step: int) -> None:
        self.step = step
        self.snapshot: Snapshot = {}

    def on_batch_end(self, state: TrainingState, model: nn.Module) -> None:
        if state.step == self.step:
            assert state.snapshot is not None
            self.snapshot = copy.deepcopy(state.snapshot())
            raise InterruptedError


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


def watched(
    watch: Watch, folder: Path, stream: Slow | None = None, update: Descent | None = None, epochs: int = 4
) -> SpeedReport:
    update = update or Descent()
    timed, hook = watch.over(stream or Slow(), update, "net")
    torch.manual_seed(1)
    fit(net(), timed, update, [hook], epochs=epochs)
    report = watch.save("net", folder)
    assert report is not None
    return report


def test_speed_counts_what_was_done(tmp_path: Path) -> None:
    report = watched(Watch(), tmp_path, update=Descent(accumulation=3))
    assert (report.num_samples, report.num_steps, report.num_updates) == (96, 24, 8)
    assert report.samples_per_second == pytest.approx(96 / report.seconds)
    assert report.updates_per_second == pytest.approx(8 / report.seconds)
    assert (report.learners, report.device, report.gpu_utilization) == (1, "cpu", None)
    assert report.peak_memory_bytes > 10e6
    assert SpeedReport.read(tmp_path) == report


def test_waiting_for_data_and_working_are_told_apart(tmp_path: Path) -> None:
    waits = watched(Watch(), tmp_path, Slow(0.03), Descent(0))
    works = watched(Watch(), tmp_path, Slow(0.002), Descent(0.03))
    assert waits.data_wait_share > 0.5 > works.data_wait_share
    assert works.data_wait_share * works.seconds > 0.9 * 24 * 0.002, "no sleep is shorter than it should be"
    assert 0.03 <= works.step_seconds_median <= works.step_seconds_p95
    assert works.first_step_seconds >= 0.03


def test_a_watched_training_ends_in_the_same_bits(tmp_path: Path) -> None:
    ends = []
    for watch in (None, Watch(), Watch(profile=True)):
        model, stream, hooks = net(), Slow(), []
        update = Descent()
        if watch is not None:
            stream, hook = watch.over(stream, update, "net")
            hooks = [hook]
        torch.manual_seed(1)
        history = fit(model, stream, update, hooks, epochs=3)
        ends.append((history, [parameter.detach().clone() for parameter in model.parameters()]))
    for history, parameters in ends[1:]:
        assert history == ends[0][0]
        assert all(torch.equal(*pair) for pair in zip(parameters, ends[0][1], strict=True))


@pytest.mark.parametrize("profiled_later", [False, True])
def test_a_training_that_goes_on_is_counted_on(tmp_path: Path, profiled_later: bool) -> None:
    update, stop = Descent(0.002), Stop(9)
    stream, hook = Watch().over(Slow(0.001), update, "net")
    with pytest.raises(InterruptedError):
        fit(net(), stream, update, [hook, stop], epochs=4)
    watch = Watch(profile=profiled_later)
    stream, hook = watch.over(Slow(0.001), update, "net")
    fit(net(), stream, update, [hook, Stop(0)], epochs=4, resume=stop.snapshot)
    report = watch.save("net", tmp_path)
    assert report is not None
    assert (report.num_samples, report.num_steps) == (96, 24)
    assert report.seconds > 24 * 0.003
    assert (read_profile(tmp_path) is not None) == profiled_later


def test_rows_of_a_cohort_are_counted_by_learner() -> None:
    class Rows(list[int]):
        counts = torch.tensor([3, 0, 2])

    timed = TimedStream([Rows([0] * 8), Rows([0] * 8)])
    assert sum(1 for _ in timed) == 2
    assert timed.rows() == 10


def test_the_sample_of_step_times_spans_the_training_and_stays_small() -> None:
    timed = TimedStream([])
    for index in range(10_000):
        timed._add(float(index))
    assert len(timed.timing_state()["steps"]) < 512
    assert timed.first_step_seconds == 0.0
    assert timed.step_quantile(0.5) == pytest.approx(5000, rel=0.05)


def test_a_profile_names_the_costliest_operators_and_leaves_a_trace(tmp_path: Path) -> None:
    watched(Watch(profile=True), tmp_path)
    profile = read_profile(tmp_path)
    assert profile is not None
    assert profile.num_steps == 8
    named = {row.name: row for row in profile.operators}
    assert named["aten::addmm"].calls == 16, "two layers, eight steps"
    assert profile.cpu_seconds >= sum(row.cpu_seconds for row in profile.operators) > 0
    table = (tmp_path / "profile" / "operators.txt").read_text()
    assert table.startswith("net: 8 steps on cpu")
    assert "aten::addmm" in table
    trace = json.loads(gzip.decompress((tmp_path / "profile" / "trace.json.gz").read_bytes()))
    assert {"aten::addmm", "next batch"} <= {event.get("name") for event in trace["traceEvents"]}


@pytest.mark.parametrize(("num_steps", "profiled"), [(1, None), (5, None), (6, 1), (9, 4)])
def test_a_training_of_few_steps_gives_the_profile_of_those_there_were(
    tmp_path: Path, num_steps: int, profiled: int | None
) -> None:
    watch, update = Watch(profile=True), Descent()
    stream, hook = watch.over([torch.ones(4, 3)] * num_steps, update, "net")
    fit(net(), stream, update, [hook], epochs=1)
    assert watch.save("net", tmp_path) is not None
    profile = read_profile(tmp_path)
    assert (profile and profile.num_steps) == profiled, "the first five set things up and warm the profiler up"
    assert (tmp_path / "profile").exists() == (profiled is not None)


def test_a_training_that_raises_does_not_spoil_the_next_profile(tmp_path: Path) -> None:
    watch, update = Watch(profile=True), Descent(wild_at=5)
    stream, hook = watch.over(Slow(), update, "wild")
    with pytest.raises(DivergenceError):
        fit(net(), stream, update, [hook], epochs=1)
    assert watch.save("wild", tmp_path) is None
    watched(watch, tmp_path)
    assert isinstance(read_profile(tmp_path), Profile)


def test_what_a_training_worked_on_is_let_go_when_it_is_over(tmp_path: Path) -> None:
    watch, ended, raised = Watch(profile=True), Slow(), Slow()
    held = [weakref.ref(ended), weakref.ref(raised)]
    stream, hook = watch.over(ended, Descent(), "ended")
    fit(nn.Linear(3, 1), stream, Descent(), [hook], epochs=1)
    stream, hook = watch.over(raised, Descent(), "raised")
    with pytest.raises(DivergenceError):
        fit(nn.Linear(3, 1), stream, Descent(wild_at=2), [hook], epochs=1)
    stream, hook = watch.over(Slow(), Descent(), "next")
    fit(nn.Linear(3, 1), stream, Descent(), [hook], epochs=1)
    del ended, raised
    gc.collect()
    assert [one() for one in held] == [None, None]
    assert watch.save("ended", tmp_path) is not None


def test_what_was_not_watched_leaves_nothing(tmp_path: Path) -> None:
    assert Watch().save("nobody", tmp_path) is None
    assert SpeedReport.read(tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_a_damaged_report_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "speed.json").write_text('{"learners": 1')
    with pytest.raises(StorageError, match=r"speed\.json is unreadable"):
        SpeedReport.read(tmp_path)
