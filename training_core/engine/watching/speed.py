"""How fast a training was, and what it waited for: measured in every training, for two looks at the clock a batch."""

import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self

import pydantic
import torch
from torch import Tensor

from training_core.config import Config
from training_core.errors import StorageError

SPEED_FILE = "speed.json"

_MAX_STEP_TIMES = 512
_UTILIZATION_SECONDS = 1.0  # the driver averages over about as long


class SpeedReport(Config):
    """What a training took, its validations left out. One of a cohort is a report on all its learners together."""

    learners: int
    """How many were trained at once."""
    device: str
    num_samples: int
    """Rows learned from, of all learners, repeats counted."""
    num_steps: int
    """Batches."""
    num_updates: int
    """Steps of the optimiser: fewer than batches where gradients are accumulated."""
    seconds: float
    samples_per_second: float
    updates_per_second: float
    data_wait_share: float
    """Share of the time, 0 to 1, in which the loop waited for the next batch."""
    first_step_seconds: float
    """The first step alone, with what is set up or compiled in it."""
    step_seconds_median: float
    """Of a sample of the other steps. On a GPU the time it takes to launch one, unless its queue is full."""
    step_seconds_p95: float
    peak_memory_bytes: int
    """Most memory held: by tensors on the GPU, else by the whole process."""
    gpu_utilization: float | None
    """Mean share of the time, 0 to 1, in which the GPU was at work; None without a GPU or `nvidia-ml-py`."""

    def figures(self) -> dict[str, float]:
        """What there is to draw and to compare, by name."""
        return {name: float(value) for name, value in self if isinstance(value, int | float)}

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The report kept in a folder; None when there is none.

        Raises:
            StorageError: it is there and unreadable.
        """
        path = folder / SPEED_FILE
        try:
            return cls.model_validate_json(path.read_text())
        except FileNotFoundError:
            return None
        except (OSError, pydantic.ValidationError) as error:
            raise StorageError(f"{path} is unreadable: {error}; delete its folder to train the learner again") from None


class TimedStream:
    """A stream that measures how long the loop waits for each batch and how long it then works on it.

    Everything else is the stream's own: length, state, and whatever else it can do.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.wait_seconds = 0.0
        self.num_samples = 0
        self.num_batches = 0
        self.first_step_seconds = 0.0
        self.span: Callable[[str], AbstractContextManager[Any]] | None = None
        """Called with a name around each wait, to mark it in a profile; None while nobody profiles."""
        self._counts: Tensor | None = None
        self._steps: list[float] = []
        self._stride = 1
        self._began: float | None = None

    def __iter__(self) -> Iterator[Any]:
        """The batches of one epoch."""
        clock = time.perf_counter
        before = self._began = clock()
        batches = iter(self._stream)
        while True:
            if self.span is None:
                batch = next(batches, None)
            else:
                with self.span("next batch"):
                    batch = next(batches, None)
            given = clock()
            self.wait_seconds += given - before
            if batch is None:
                return
            counts = getattr(batch, "counts", None)  # a cohort's rows, by learner: they stay on their device
            if counts is None:
                self.num_samples += len(batch)
            else:
                self._counts = counts.sum() if self._counts is None else self._counts + counts.sum()
            yield batch
            before = clock()
            self._add(before - given)

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self._stream)

    def __getattr__(self, name: str) -> Any:
        """Whatever the stream itself has."""
        if name == "_stream":  # not there yet while it is copied
            raise AttributeError(name)
        return getattr(self._stream, name)

    def open_seconds(self) -> float:
        """Since the present epoch began; 0 between epochs."""
        return 0.0 if self._began is None else time.perf_counter() - self._began

    def end_epoch(self) -> None:
        """The epoch is over, with all that came after its last batch."""
        self._began = None

    def rows(self) -> int:
        """Rows given so far, of all learners; waits for the device where it has counted them."""
        return self.num_samples + (0 if self._counts is None else int(self._counts))

    def step_quantile(self, share: float) -> float:
        """The time per step that `share` of the sampled steps stay below."""
        ordered = sorted(self._steps)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else self.first_step_seconds

    def timing_state(self) -> dict[str, Any]:
        """What was measured so far, as plain values."""
        names = ("wait_seconds", "num_batches", "first_step_seconds")
        return {
            **{name: getattr(self, name) for name in names},
            "num_samples": self.rows(),
            "steps": list(self._steps),
            "stride": self._stride,
        }

    def load_timing_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `timing_state` gave."""
        for name in ("wait_seconds", "num_batches", "first_step_seconds", "num_samples"):
            setattr(self, name, state[name])
        self._counts, self._steps, self._stride = None, list(state["steps"]), state["stride"]

    def _add(self, seconds: float) -> None:
        """Keep every n-th step's time; n doubles whenever the list is full, so that it covers the whole training."""
        if self.num_batches == 0:
            self.first_step_seconds = seconds
        elif self.num_batches % self._stride == 0:
            self._steps.append(seconds)
            if len(self._steps) == _MAX_STEP_TIMES:
                self._steps, self._stride = self._steps[1::2], 2 * self._stride
        self.num_batches += 1


class Gauges:
    """The memory and the business of the device a training runs on."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seen: list[int] = []
        self._next = 0.0
        self._readable = device.type == "cuda"
        if self._readable:
            torch.cuda.reset_peak_memory_stats(device)

    def look(self) -> None:
        """Ask the driver how busy the GPU is, about once a second at most; does not wait for the GPU."""
        if not self._readable or (now := time.monotonic()) < self._next:
            return
        self._next = now + _UTILIZATION_SECONDS
        try:
            self._seen.append(torch.cuda.utilization(self._device))
        except Exception:  # without `nvidia-ml-py`, or in a container whose driver does not tell
            self._readable = False

    @property
    def utilization(self) -> float | None:
        """Mean of what was seen, 0 to 1."""
        return sum(self._seen) / len(self._seen) / 100 if self._seen else None

    @property
    def peak_bytes(self) -> int:
        """Most memory held."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kibibytes on Linux
