"""A run that is tuned before it is trained: what the study may take of its budget, and the run that comes of it."""

import time

from training_core.campaigns.clock import RunClock
from training_core.campaigns.run_config import RunConfig
from training_core.campaigns.tuning.space import with_params
from training_core.campaigns.tuning.summary import StudySummary
from training_core.errors import GateError

_SHARE = 0.5
"""Of the seconds that are left of a budget; the rest is for training with what was found."""
_SHARE_AT_MOST = 0.6
"""With what it takes to end the trials under way: those that are nearly done are worth waiting for."""


def within_budget(run: RunConfig, clock: RunClock) -> RunConfig:
    """A run whose study begins no trial after half of what is left of the budget, or after `tuning.seconds`."""
    if clock.seconds is None:
        return run
    seconds = max(_SHARE * clock.left, 1.0)
    if run.tuning.seconds is not None:
        seconds = min(seconds, run.tuning.seconds)
    return run.model_copy(update={"tuning": run.tuning.model_copy(update={"seconds": seconds})})


def tuning_deadline(clock: RunClock) -> float | None:
    """When trials that still train are ended so that the run has time left, in seconds since the epoch.

    None without a budget.
    """
    return None if clock.seconds is None else time.time() + _SHARE_AT_MOST * max(clock.left, 0.0)


def tuned_run(run: RunConfig, summary: StudySummary) -> RunConfig:
    """The run with the settings of the study's best trial, which is not to be tuned again.

    When there is none, and the time was over before the run's own settings were judged, it is the run as it stands.

    Raises:
        GateError: no trial is complete and within all limits.
    """
    best, default = summary.best_trial, summary.default_trial
    if best is None and default is not None and default.state == "running":
        return run.model_copy(update={"tune": False})
    if best is None:
        why = next((trial.error for trial in summary.trials if trial.error), "all are beyond a limit")
        raise GateError(f"study '{summary.name}': none of {len(summary.trials)} trials can be used; the first: {why}")
    return with_params(run, best.params).model_copy(update={"tune": False})
