"""A run that is tuned before it is trained: what the study may take of its budget, and the run that comes of it."""

from training_core.campaigns.clock import RunClock
from training_core.campaigns.run_config import RunConfig
from training_core.campaigns.tuning.space import with_params
from training_core.campaigns.tuning.summary import StudySummary
from training_core.errors import GateError

_SHARE = 0.5
"""Of the seconds that are left of a budget; the rest is for training with what was found."""


def within_budget(run: RunConfig, clock: RunClock) -> RunConfig:
    """A run whose study begins no trial after half of what is left of the budget, or after `tuning.seconds`."""
    if clock.seconds is None:
        return run
    seconds = max(_SHARE * clock.left, 1.0)
    if run.tuning.seconds is not None:
        seconds = min(seconds, run.tuning.seconds)
    return run.model_copy(update={"tuning": run.tuning.model_copy(update={"seconds": seconds})})


def tuned_run(run: RunConfig, summary: StudySummary) -> RunConfig:
    """The run with the settings of the study's best trial, which is not to be tuned again.

    Raises:
        GateError: no trial is complete and within all limits.
    """
    best = summary.best_trial
    if best is None:
        why = next((trial.error for trial in summary.trials if trial.error), "all are beyond a limit")
        raise GateError(f"study '{summary.name}': none of {len(summary.trials)} trials can be used; the first: {why}")
    return with_params(run, best.params).model_copy(update={"tune": False})
