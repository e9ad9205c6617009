"""What a group of jobs may use, and whether the next training still fits into the time that is left."""

import time
from collections.abc import Sequence

from training_core.config import Config
from training_core.jobs.job import Job
from training_core.quantities import PositiveFloat

_TRUSTED_SECONDS = 5.0
"""What is known of the pace so far counts as much as a training of so many predicted seconds: small learners take
longer than predicted because something is read or imported for the first time, which says nothing about large ones."""
_TOGETHER_FASTER = 2.0
"""About how many times as fast small nets train together; measured 1.2 to 4 on a CPU."""
_EARLY_STOPPING = 2.0
"""Nets are predicted at all their epochs and mostly stop early: one that would need twice the time left is tried, for
the time would be of no other use."""


class Limits(Config):
    """Limits of a group of jobs."""

    learner_seconds: PositiveFloat | None = None
    """Seconds after which a single learner is given up, and a stack after that many times as long as it has
    learners."""
    deadline: float | None = None
    """When the group is ended whatever it does, in seconds since the epoch; what it published until then counts."""
    pace: PositiveFloat = 1.0
    """How many times as long as predicted learners took so far on this machine."""
    memory_bytes: PositiveFloat | None = None
    """Memory of the process, without pages of mapped files, at which it is ended and those that train now are given
    up."""

    @property
    def seconds_left(self) -> float:
        """Until the deadline; endless without one."""
        return float("inf") if self.deadline is None else self.deadline - time.time()


class TimeLeft:
    """Follows how long trainings take compared with what was predicted, and says whether another one fits."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._taken = _TRUSTED_SECONDS * limits.pace
        self._predicted = _TRUSTED_SECONDS

    @property
    def pace(self) -> float:
        """Seconds a training takes per second predicted."""
        return self._taken / self._predicted

    def took(self, predicted_seconds: float | None, seconds: float) -> None:
        """Take into account what a training took."""
        if predicted_seconds:
            self._taken += seconds
            self._predicted += predicted_seconds

    def allows(self, jobs: Sequence[Job]) -> bool:
        """Whether these jobs, which train together, are likely to be done before the deadline."""
        if self._limits.deadline is None:
            return True
        left = self._limits.seconds_left
        if left <= 0:
            return False
        predicted = self.pace * sum(job.predicted_seconds or 0.0 for job in jobs)
        together = _TOGETHER_FASTER if len(jobs) > 1 else 1.0
        early = _EARLY_STOPPING if all(job.recipe.learner.family == "net" for job in jobs) else 1.0
        return predicted / together / early <= left
