"""When a run began, when it has to be over, and how much of its time what comes after training will take.

After training the learners are combined, judged and recorded. What that takes is estimated from a rehearsal, combining
the first few learners while others still train, and from how wrong the estimates of earlier runs on this machine were.
"""

import json
import time
from pathlib import Path
from typing import Literal

from training_core.artifacts import machine_cache, write_text_atomically
from training_core.config import Config
from training_core.quantities import NonNegativeFloat, PositiveFloat, PositiveInt

Wrapping = Literal["library", "flow"]

_FIXED_SECONDS: dict[Wrapping, float] = {"library": 0.6, "flow": 6.0}
"""Of what comes after training: a flow starts tasks, opens the model registry, draws a report and waits for its server.
Measured on two busy cores; see `_remembered`."""
_SECONDS_PER_LEARNER: dict[Wrapping, float] = {"library": 0.05, "flow": 0.15}
_GROWTH = 0.8
"""Power of the number of learners by which combining them takes longer: a part of it does not depend on them."""
_SPARE = 0.03
"""Share of the budget that is left over on purpose."""
_MOST_OF_BUDGET = 0.5
"""Training gets the rest at least, however long the end is expected to take."""
_LEARNING_RATE = 0.5
_EXTREMES = (0.5, 4.0)


class Rehearsal(Config):
    """What combining a first few learners took, and letting them predict."""

    num_learners: PositiveInt
    conclude_seconds: NonNegativeFloat
    load_seconds: NonNegativeFloat
    predict_seconds_per_row: NonNegativeFloat
    """Under every pattern that is judged."""
    slowdown: PositiveFloat = 1.0
    """Seconds that a second of this process's own work took: above 1 where others use the machine as well."""


class RunClock(Config):
    """The time of one run."""

    started: float
    """When the command or the call began, in seconds since the epoch."""
    seconds: PositiveFloat | None = None
    """How long it may take; None: as long as it takes."""
    wrapping: Wrapping = "library"
    """What comes after training: more in a flow than in a call of the library."""

    @classmethod
    def begin(cls, seconds: float | None, wrapping: Wrapping, started: float | None = None) -> "RunClock":
        """A clock that began at `started`, by default now."""
        return cls(started=time.time() if started is None else started, seconds=seconds, wrapping=wrapping)

    @property
    def deadline(self) -> float | None:
        """When the run has to be over, in seconds since the epoch; None without a budget."""
        return None if self.seconds is None else self.started + self.seconds

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.time() - self.started

    @property
    def left(self) -> float:
        """Seconds of the budget that are left; endless without a budget."""
        return float("inf") if self.seconds is None else self.seconds - self.elapsed

    def closing_seconds(self, num_learners: int, num_rows: int, rehearsal: Rehearsal | None = None) -> float:
        """What is expected to take place after training, in seconds.

        Args:
            num_learners: that will be combined.
            num_rows: to be judged on.
            rehearsal: with fewer learners, if there was one.
        """
        seconds = _FIXED_SECONDS[self.wrapping] + _SECONDS_PER_LEARNER[self.wrapping] * num_learners
        if rehearsal is None:
            return _remembered(self.wrapping) * seconds
        more = max(1.0, num_learners / rehearsal.num_learners)
        judging = rehearsal.load_seconds + rehearsal.predict_seconds_per_row * num_rows
        fixed = _remembered(self.wrapping) * rehearsal.slowdown * seconds
        return fixed + rehearsal.conclude_seconds * more**_GROWTH + judging * more

    def training_deadline(self, num_learners: int, num_rows: int, rehearsal: Rehearsal | None = None) -> float | None:
        """When training has to end so that the rest fits, in seconds since the epoch; None without a budget."""
        if self.seconds is None:
            return None
        closing = self.closing_seconds(num_learners, num_rows, rehearsal)
        return self.started + self.seconds * (1 - _SPARE) - min(closing, _MOST_OF_BUDGET * self.seconds)

    def remember_closing(self, expected_seconds: float, actual_seconds: float) -> None:
        """Learn for the next run on this machine from how long the end took; failing to is no harm.

        Args:
            expected_seconds: by `closing_seconds`.
            actual_seconds: from the end of training to the end of the command or call.
        """
        before = _remembered(self.wrapping)
        ratio = before * actual_seconds / max(expected_seconds, 1e-3)
        now = before * (ratio / before) ** _LEARNING_RATE if ratio < before else ratio  # too little is worse than much
        try:
            known = _read() | {self.wrapping: min(max(now, _EXTREMES[0]), _EXTREMES[1])}
            _file().parent.mkdir(parents=True, exist_ok=True)
            write_text_atomically(_file(), json.dumps(known))
        except OSError:
            return


def _remembered(wrapping: Wrapping) -> float:
    """How many times as long as assumed the end of a run takes on this machine."""
    found = _read().get(wrapping, 1.0)
    return min(max(found, _EXTREMES[0]), _EXTREMES[1])


def _read() -> dict[str, float]:
    try:
        known = json.loads(_file().read_text())
        return {str(key): float(value) for key, value in known.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _file() -> Path:
    return machine_cache() / "closing.json"
