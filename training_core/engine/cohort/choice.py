"""How a group of like learners is trained fastest on this machine: measured on copies, remembered, and decided alike.

Stacking does not always pay: small nets gain most, wide layers and convolutions on a CPU may lose. So a few steps of
each way are timed. Together and alone learners end alike up to rounding only; that a run can be repeated bit for bit,
the choice is remembered per user, machine, version of the code and of torch, and kind of training.
"""

import hashlib
import json
import logging
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from training_core.artifacts import core_fingerprint, machine_cache
from training_core.engine.cohort.batches import CohortBatch
from training_core.engine.cohort.forms import Form
from training_core.engine.cohort.row_optimizers import why_no_row_optimizer
from training_core.engine.cohort.stacked import StackedModel, describe, why_not_stackable
from training_core.engine.cohort.update import CohortUpdate
from training_core.engine.training import Precision
from training_core.engine.updates.gradient import GradientUpdate
from training_core.engine.updates.memory import is_out_of_memory, release_memory
from training_core.engine.updates.optimizers import OptimizerConfig
from training_core.objectives import Objective
from training_core.schema import Batch

_log = logging.getLogger(__name__)

ChosenForm = Literal["sequential", "stacked", "compiled", "graphed"]

SIMPLEST_FIRST: tuple[ChosenForm, ...] = ("sequential", "stacked", "graphed", "compiled")
TOLERANCE = 0.97
"""A simpler way is taken when it is at least this fast, as a share of the fastest's speed."""
COMPILE_AFTER_SECONDS = 300.0
"""Stacked training that would take this long is worth trying to compile: compiling takes tens of seconds, and small
nets gain about a quarter."""
_WARM_UP_STEPS = 3
_ROUNDS = 5
_ROUND_SECONDS = 0.02  # a hundred times what reading the clock takes
_MOST_TIMED_ALONE = 4  # learners, whose time speaks for all

Step = Callable[[], Any]
"""Makes one step of some learners."""


@dataclass(frozen=True)
class FormChoice:
    """How a group of learners is to be trained."""

    form: ChosenForm
    seconds_per_step: dict[str, float]
    """Of all learners, by form; empty when nothing was measured."""
    reason: str
    """In words, with the figures."""


def choose_form(
    models: Sequence[nn.Module],
    batch: CohortBatch,
    objective: Objective,
    optimizers: Sequence[OptimizerConfig],
    *,
    clip_norm: float = 1.0,
    clip_value: float = 0.0,
    precision: Precision = "float32",
    total_steps: int | None = None,
    memory: Path | None = None,
) -> FormChoice:
    """Time a few steps of each way that is possible, and take the fastest, or a simpler one that is nearly as fast.

    Where memory ran out, or something could not be read or written, the choice holds for this time only.

    Nothing that is given changes, and no random number is drawn.

    Args:
        models: the learners' nets.
        batch: one step's rows of all of them, [K, B, …], on the nets' device.
        objective: what they are trained towards.
        optimizers: of each.
        clip_norm: as in training.
        clip_value: as in training.
        precision: as in training.
        total_steps: steps that training is expected to take; what starting a form takes is shared out over them. None:
            they are not known; starting counts nothing, and nothing is compiled.
        memory: folder of remembered choices; by default the user's cache.
    """
    if reason := _why_alone(models, optimizers, precision):
        return FormChoice("sequential", {}, reason)
    group = _Group(models, batch, objective, optimizers, clip_norm, clip_value, precision)
    file = (machine_cache() / "forms" if memory is None else memory) / f"{group.key(total_steps)}.json"
    known = _recall(file)
    if known is not None:
        return known
    try:
        choice, lasts = group.measure(total_steps)
    except Exception as error:  # whatever torch says about an operation that cannot be stacked
        choice, lasts = FormChoice("sequential", {}, f"a stack does not work: {_first_line(error)}"), not _passes(error)
    if lasts:
        return _remember(file, choice)
    release_memory()
    return choice


def decide(seconds: Mapping[str, float]) -> ChosenForm:
    """The simplest form that reaches 97 % of the speed of the fastest; `seconds` per step by form."""
    best = min(seconds.values())
    return next(form for form in SIMPLEST_FIRST if form in seconds and best >= TOLERANCE * seconds[form])


def time_steps(
    ways: Mapping[str, Sequence[Step]], clock: Callable[[], float], rounds: int = _ROUNDS
) -> dict[str, float]:
    """Seconds per step of each way, medians over rounds that time every way once, one after the other.

    A way is one or several steps, whose times are added. Rounds are as long as the clock needs to be exact.
    """
    repeats: dict[str, int] = {}
    for name, steps in ways.items():
        for _ in range(_WARM_UP_STEPS):
            start = clock()
            for step in steps:
                step()
            repeats[name] = max(1, int(_ROUND_SECONDS / max(clock() - start, 1e-9)))
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, steps in ways.items():
            start = clock()
            for step in steps:
                for _ in range(repeats[name]):
                    step()
            taken[name].append((clock() - start) / repeats[name])
    return {name: statistics.median(times) for name, times in taken.items()}


def _why_alone(models: Sequence[nn.Module], optimizers: Sequence[OptimizerConfig], precision: Precision) -> str | None:
    if len(models) < 2:
        return "there is one learner only"
    if precision == "fp16":
        return "fp16 needs a loss scale per learner, which a stack has not"
    return why_not_stackable(models) or why_no_row_optimizer(optimizers)


@dataclass(frozen=True)
class _Group:
    """What is to be trained, and how."""

    models: Sequence[nn.Module]
    batch: CohortBatch
    objective: Objective
    optimizers: Sequence[OptimizerConfig]
    clip_norm: float
    clip_value: float
    precision: Precision

    @property
    def device(self) -> torch.device:
        return self.batch.available.device

    def key(self, total_steps: int | None) -> str:
        """What a choice depends on, as a hash."""
        tensors = [*self.batch.inputs.values(), self.batch.available, self.batch.target]
        shapes = [(str(t.dtype), list(t.shape)) for t in tensors if t is not None]
        scale = 0 if total_steps is None else max(1, total_steps).bit_length()  # twice as long may be decided otherwise
        training = [self.optimizers[0].kind, self.clip_norm > 0, self.clip_value > 0, self.precision, scale]
        what = [describe(self.models[0]), type(self.objective).__qualname__, len(self.models), shapes, training]
        return hashlib.sha256(repr([what, core_fingerprint(), _machine(self.device)]).encode()).hexdigest()[:32]

    def measure(self, total_steps: int | None) -> tuple[FormChoice, bool]:
        """Time each way on copies; the choice, and whether it would be the same at another time."""
        on_gpu = self.device.type == "cuda"
        few = range(0, len(self.models), -(-len(self.models) // _MOST_TIMED_ALONE))
        share = len(self.models) / len(few)
        clock = _device_clock if on_gpu else time.process_time
        forms: list[Form] = ["stacked", "graphed"] if on_gpu else ["stacked"]
        with torch.random.fork_rng(devices=[self.device] if on_gpu else []):
            nets = [deepcopy(self.models[k]) for k in few]
            ways: dict[str, Sequence[Step]] = {
                "sequential": [self._alone(net, k) for net, k in zip(nets, few, strict=True)]
            }
            starting: dict[str, float] = {}
            lasts = True
            for form in forms:
                try:
                    step, starting[form] = self._started(form, clock)
                    ways[form] = [step]
                except Exception as error:  # an operation that cannot be captured
                    if form == "stacked":
                        raise
                    lasts = lasts and not _passes(error)
                    _log.warning("the form '%s' does not work here: %s", form, _first_line(error))
            seconds = time_steps(ways, clock)
            if changed := _changed_buffer(self.models[0], nets[0]):
                why = f"training changes the buffer '{changed}', which a stack does not"
                return FormChoice("sequential", {}, why), lasts
            seconds["sequential"] *= share
            if total_steps is not None and total_steps * seconds["stacked"] > COMPILE_AFTER_SECONDS:
                seconds["compiled"], starting["compiled"] = self._compiled(seconds["stacked"], clock)
        if total_steps is not None:
            seconds |= {name: seconds[name] + taken / max(total_steps, 1) for name, taken in starting.items()}
        form = decide(seconds)
        figures = ", ".join(f"{name} {1e3 * value:.2f} ms" for name, value in seconds.items())
        speed = seconds["sequential"] / seconds[form]
        gain = "a stack is not faster" if form == "sequential" else f"{speed:.1f}x as fast as one by one"
        return FormChoice(form, seconds, f"{gain}; per step of all: {figures}"), lasts

    def _compiled(self, stacked: float, clock: Callable[[], float]) -> tuple[float, float]:
        """Seconds per step of the compiled form, and to start it; by comparison with the stack timed before."""
        step, taken = self._started("compiled", clock)
        found = time_steps({"compiled": [step], "stacked": [self._together("stacked")]}, clock)
        return stacked * found["compiled"] / found["stacked"], taken

    def _started(self, form: Form, clock: Callable[[], float]) -> tuple[Step, float]:
        """The step of a form, and the seconds until it was made and run once."""
        start = clock()
        step = self._together(form)
        step()
        return step, clock() - start

    def _together(self, form: Form) -> Step:
        stack = StackedModel(self.models)
        update = CohortUpdate(
            self.objective,
            self.optimizers,
            clip_norm=self.clip_norm,
            clip_value=self.clip_value,
            form=form,
            precision=self.precision,
        )
        update.start(stack)
        return lambda: update.step(stack, self.batch)

    def _alone(self, net: nn.Module, k: int) -> Step:
        batch = learner_batch(self.batch, k)
        update = GradientUpdate(
            self.objective,
            self.optimizers[k],
            clip_norm=self.clip_norm,
            clip_value=self.clip_value,
            precision=self.precision,
        )
        update.start(net)
        return lambda: update.step(net, batch)


def learner_batch(batch: CohortBatch, k: int) -> Batch:
    """What learner `k` is shown: a view, padding included."""
    return Batch(
        {name: values[k] for name, values in batch.inputs.items()},
        batch.available[k],
        None if batch.target is None else batch.target[k],
        None if batch.weight is None else batch.weight[k],
        present=None if batch.present is None else batch.present[k],
    )


def _changed_buffer(before: nn.Module, after: nn.Module) -> str | None:
    """The name of a buffer that training changed."""
    pairs = zip(before.named_buffers(), after.buffers(), strict=True)
    return next((name for (name, old), new in pairs if not torch.equal(old, new)), None)


def _passes(error: Exception) -> bool:
    """Whether what went wrong says nothing of the nets: others had the memory, or the disk, at this moment."""
    return is_out_of_memory(error) or isinstance(error, OSError)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]


def _device_clock() -> float:
    """Wall time once the GPU has done all it was told."""
    torch.cuda.synchronize()
    return time.perf_counter()


def _machine(device: torch.device) -> list[str]:
    """Of which machine a measurement speaks."""
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), processor)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return [platform.node(), processor, gpu, torch.__version__, f"{torch.get_num_threads()} threads"]


def _recall(file: Path) -> FormChoice | None:
    """The choice kept in `file`; None where there is none that can be read."""
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["form"] not in SIMPLEST_FIRST:
            return None
        seconds = {str(name): float(value) for name, value in kept["seconds_per_step"].items()}
        return FormChoice(kept["form"], seconds, str(kept["reason"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _remember(file: Path, choice: FormChoice) -> FormChoice:
    """Keep a choice and return the one that holds: who measured first is right, so that all decide alike.

    Where nothing can be written the choice holds for this time.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=file.parent, suffix=".tmp", encoding="utf-8", delete=False) as own:
            json.dump(asdict(choice), own)
        try:
            if file.exists() and _recall(file) is None:  # what cannot be read is replaced
                Path(own.name).replace(file)
            else:
                os.link(own.name, file)  # fails when another was first
        except FileExistsError:
            pass
        finally:
            Path(own.name).unlink(missing_ok=True)
    except OSError as error:
        _log.info("the choice how to train is not remembered: %s", error)
        return choice
    return _recall(file) or choice
