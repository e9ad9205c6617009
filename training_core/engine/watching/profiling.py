"""What a training spends its time on: its speed, always; the operators of a few of its steps, when asked for."""

import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, record_function, schedule
from torch.profiler import profile as torch_profile

from training_core.config import Config
from training_core.engine.loop import Hook, TrainingState
from training_core.engine.watching.speed import SPEED_FILE, Gauges, SpeedReport, TimedStream

PROFILE_FOLDER = "profile"
TRACE_FILE, TABLE_FILE, OPERATORS_FILE = "trace.json.gz", "operators.txt", "operators.json"

_SKIPPED, _WARM_UP, _ACTIVE = 3, 2, 8
"""Steps: the first ones set things up, the profiler's own first ones are slow, and the rest are few enough to read."""
_MAX_OPERATORS = 20

_log = logging.getLogger(__name__)


class OperatorCost(Config):
    """What one operator took over all profiled steps, those it calls left out."""

    name: str
    calls: int
    cpu_seconds: float
    gpu_seconds: float
    memory_bytes: int
    """Taken minus given back, on the GPU where it works there, else in main memory."""


class Profile(Config):
    """The costliest operators of a few steps."""

    name: str
    """Who was trained."""
    device: str
    num_steps: int
    cpu_seconds: float
    """Of all operators."""
    gpu_seconds: float
    operators: tuple[OperatorCost, ...]

    def table(self) -> str:
        """The operators as text, the costliest first."""
        on_gpu = self.gpu_seconds > 0
        header = f"{'operator':<44}{'calls':>7}{'CPU ms':>10}{'CPU %':>7}"
        header += f"{'GPU ms':>10}{'GPU %':>7}" if on_gpu else ""
        lines = [
            f"{self.name}: {self.num_steps} steps on {self.device}, with the validations that fell between them; "
            f"per step {_ms(self.cpu_seconds / self.num_steps)} ms of CPU"
            + (f", {_ms(self.gpu_seconds / self.num_steps)} ms of GPU" if on_gpu else ""),
            "Time spent in an operator itself, not in those it calls; all steps summed. Waiting for a core counts.",
            "",
            f"{header}{'memory MB':>11}",
        ]
        for row in self.operators:
            line = f"{_cut(row.name, 42):<44}{row.calls:>7}{_ms(row.cpu_seconds):>10}"
            line += f"{row.cpu_seconds / max(self.cpu_seconds, 1e-12):>7.1%}"
            if on_gpu:
                line += f"{_ms(row.gpu_seconds):>10}{row.gpu_seconds / self.gpu_seconds:>7.1%}"
            lines.append(f"{line}{round(row.memory_bytes / 1e6, 2) + 0.0:>11.2f}")
        return "\n".join(lines) + "\n"


class Watch:
    """Watches the trainings of one process: `over` before each, `save` after it.

    Nothing it measures enters a history or a snapshot's numbers: a watched training ends in the same bits.
    """

    def __init__(self, profile: bool = False) -> None:
        """`profile`: look at the operators of a few steps of every training, too."""
        self._profile = profile
        self._watchers: dict[str, _Watcher] = {}

    def over(self, stream: Any, update: Any, *names: str) -> tuple[TimedStream, Hook]:
        """Watch a training of `names`: one learner, or those of a cohort.

        Returns:
            The stream to train on in place of `stream`, and a hook to place after all others but that of checkpoints.
        """
        timed = TimedStream(stream)
        watcher = _Watcher(timed, update, names, self._profile)
        over = {name: seen for name, seen in self._watchers.items() if seen.report is not None}  # the others raised
        self._watchers = over | dict.fromkeys(names, watcher)
        return timed, watcher

    def save(self, name: str, folder: Path) -> SpeedReport | None:
        """Write what was seen of a training that is over to `folder`: `speed.json`, and `profile/` if there is one.

        `folder` is not yet published, so nothing is torn when this is interrupted. Returns the report; None when the
        training was not watched or has not ended.
        """
        watcher = self._watchers.get(name)
        if watcher is None or watcher.report is None:
            return None
        (folder / SPEED_FILE).write_text(watcher.report.to_json())
        if watcher.profiler is not None:
            watcher.profiler.save(folder / PROFILE_FOLDER)
        return watcher.report


class _Watcher(Hook):
    """One hook for speed and profile, so that a training may be gone on with whether or not it is profiled now."""

    def __init__(self, stream: TimedStream, update: Any, names: Sequence[str], profile: bool) -> None:
        self.report: SpeedReport | None = None
        name = names[0] if len(names) == 1 else f"{len(names)} learners together ({names[0]}, …)"
        self.profiler = _Profiler(name, stream) if profile else None
        self._stream, self._update, self._learners = stream, update, len(names)
        self._seconds = 0.0

    def on_training_start(self, state: TrainingState, model: Any) -> None:
        self._device = _device_of(model)
        self._gauges = Gauges(self._device)
        if self.profiler is not None:
            self.profiler.start(self._device)

    def on_batch_end(self, state: TrainingState, model: Any) -> None:
        self._gauges.look()
        if self.profiler is not None:
            self.profiler.step()

    def on_epoch_end(self, state: TrainingState, model: Any) -> None:
        assert state.result is not None
        self._seconds += state.result.epoch_duration_seconds
        self._stream.end_epoch()

    def on_training_end(self, state: TrainingState, model: Any) -> None:
        if self.profiler is not None:
            self.profiler.stop()
        stream, seconds = self._stream, max(self._seconds, 1e-9)
        updates = getattr(self._update, "num_updates", None)
        updates = updates if isinstance(updates, int) else state.step
        self.report = SpeedReport(
            learners=self._learners,
            device=str(self._device),
            num_samples=stream.rows(),
            num_steps=state.step,
            num_updates=updates,
            seconds=self._seconds,
            samples_per_second=stream.rows() / seconds,
            updates_per_second=updates / seconds,
            data_wait_share=min(1.0, stream.wait_seconds / seconds),
            first_step_seconds=stream.first_step_seconds,
            step_seconds_median=stream.step_quantile(0.5),
            step_seconds_p95=stream.step_quantile(0.95),
            peak_memory_bytes=self._gauges.peak_bytes,
            gpu_utilization=self._gauges.utilization,
        )
        del self._stream, self._update  # they hold the rows and the moments, for which the next training needs room

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self._seconds + self._stream.open_seconds(), **self._stream.timing_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._seconds = state["seconds"]
        self._stream.load_timing_state(state)


class _Profiler:
    """Records a few steps with torch's profiler; what it found is kept in memory until it is saved."""

    running: "_Profiler | None" = None
    """There can be one per process: that of a training which raised is ended by the next."""

    def __init__(self, name: str, stream: TimedStream) -> None:
        self._name = name
        self._stream: TimedStream | None = stream
        self._torch: torch_profile | None = None
        self._trace = b""
        self._seen = 0
        self._found: Profile | None = None

    def start(self, device: torch.device) -> None:
        if _Profiler.running is not None:
            _Profiler.running.stop()
        self._device = device
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
        self._torch = torch_profile(
            activities=activities,
            schedule=schedule(skip_first=_SKIPPED, wait=0, warmup=_WARM_UP, active=_ACTIVE, repeat=1),
            on_trace_ready=self._read,
            profile_memory=True,
        )
        _Profiler.running = self
        assert self._stream is not None
        self._stream.span = record_function
        self._torch.start()

    def step(self) -> None:
        if self._torch is not None:
            self._seen += 1
            self._torch.step()
            if self._found is not None:
                self.stop()

    def stop(self) -> None:
        """End it, with fewer steps than planned where training ended early."""
        if self._torch is None:
            return
        assert self._stream is not None
        found, self._torch = self._torch, None
        _Profiler.running, self._stream.span, self._stream = None, None, None
        found.stop()
        if self._found is None:
            _log.info("%s: no profile: training ended before its step %d", self._name, _SKIPPED + _WARM_UP + 1)

    def save(self, folder: Path) -> None:
        if self._found is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        (folder / TRACE_FILE).write_bytes(self._trace)
        (folder / TABLE_FILE).write_text(self._found.table())
        (folder / OPERATORS_FILE).write_text(self._found.to_json())

    def _read(self, found: torch_profile) -> None:
        """Take what torch has recorded; called by it after the last active step, or when it is stopped in between."""
        events = found.key_averages()
        steps = min(self._seen - _SKIPPED - _WARM_UP, _ACTIVE)
        rows = [
            OperatorCost(
                name=event.key,
                calls=event.count,
                cpu_seconds=event.self_cpu_time_total / 1e6,
                gpu_seconds=event.self_device_time_total / 1e6,
                memory_bytes=int(event.self_device_memory_usage or event.self_cpu_memory_usage),
            )
            for event in events
            if not event.key.startswith("ProfilerStep")
        ]
        if steps < 1 or not rows:
            return
        on_gpu = any(row.gpu_seconds for row in rows)
        rows.sort(key=lambda row: (-row.gpu_seconds, -row.cpu_seconds) if on_gpu else (-row.cpu_seconds,))
        self._found = Profile(
            name=self._name,
            device=str(self._device),
            num_steps=steps,
            cpu_seconds=sum(row.cpu_seconds for row in rows),
            gpu_seconds=sum(row.gpu_seconds for row in rows),
            operators=tuple(rows[:_MAX_OPERATORS]),
        )
        with tempfile.TemporaryDirectory() as folder:
            found.export_chrome_trace(str(Path(folder) / TRACE_FILE))
            self._trace = (Path(folder) / TRACE_FILE).read_bytes()


def read_profile(folder: Path) -> Profile | None:
    """The profile in a job's or learner's folder; None when it was not profiled."""
    path = folder / PROFILE_FOLDER / OPERATORS_FILE
    return Profile.model_validate(json.loads(path.read_text())) if path.exists() else None


def _device_of(model: Any) -> torch.device:
    """Where a module, or the stacked parameters of a cohort, are; the CPU for an estimator."""
    tensor = next(model.parameters(), None) if isinstance(model, nn.Module) else getattr(model, "flat", None)
    return tensor.device if isinstance(tensor, torch.Tensor) else torch.device("cpu")


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.2f}"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
