"""What came of a trial."""

from collections.abc import Mapping
from typing import Literal

from training_core.config import Config


class TrialOutcome(Config):
    """What came of a trial, whatever its target."""

    state: Literal["complete", "pruned", "failed", "skipped"]
    """skipped: there was no time for it; it stays open, and the next call of the study goes on with it."""
    values: tuple[float, ...] = ()
    """One per objective, when it is complete."""
    constraints: Mapping[str, float] = {}
    """How far it is beyond each limit, in units of the limit; 0 or less is within."""
    curve: tuple[float, ...] = ()
    """Best validation loss so far, per epoch; empty where nothing was trained by epochs."""
    folds: tuple[float, ...] = ()
    """The first objective on each fold it was judged on; empty when there was one."""
    epochs: int = 0
    """Trained, of all its learners."""
    cpu_seconds: float = 0.0
    """Of its jobs."""
    error: str = ""
    """Why it failed or was pruned."""
