"""What a study keeps of a trial beside what Optuna does, and how it reads back."""

from collections.abc import Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from training_core.campaigns.tuning.outcome import TrialOutcome
from training_core.campaigns.tuning.summary import Direction, TrialRecord, pareto_front

ORIGIN, UNCOUNTED = "origin", "uncounted"
_CURVE, _FOLDS, _CPU_SECONDS, _EPOCHS, _ERROR = "curve", "folds", "cpu_seconds", "epochs", "error"
_STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


def facts_of(outcome: TrialOutcome, error: str) -> dict[str, Any]:
    """What is kept of an outcome; nothing of what is empty."""
    facts: dict[str, Any] = {
        _CURVE: list(outcome.curve),
        _FOLDS: list(outcome.folds),
        _CPU_SECONDS: outcome.cpu_seconds,
        _EPOCHS: outcome.epochs,
        _ERROR: error,
    }
    return {key: value for key, value in facts.items() if value}


def record_of(trial: FrozenTrial) -> TrialRecord:
    """What a study knows of a trial."""
    facts, complete = trial.user_attrs, trial.state == TrialState.COMPLETE
    return TrialRecord(
        number=trial.number,
        state=_STATES.get(trial.state, "running"),  # pyright: ignore[reportArgumentType]
        params=trial.params,
        values=tuple(trial.values) if complete and trial.values else None,
        constraints=trial.constraints,
        curve=tuple(facts.get(_CURVE, ())),
        folds=tuple(facts.get(_FOLDS, ())),
        epochs=facts.get(_EPOCHS, 0),
        started=trial.datetime_start.timestamp() if trial.datetime_start else None,
        ended=trial.datetime_complete.timestamp() if trial.datetime_complete else None,
        cpu_seconds=facts.get(_CPU_SECONDS, 0.0),
        feasible=all(value <= 0 for value in trial.constraints.values()),
        enqueued=facts.get(ORIGIN, ""),
        error=facts.get(_ERROR, ""),
    )


def last_improvement(told: Sequence[TrialRecord], directions: tuple[Direction, ...]) -> int:
    """How many trials had been told when one was last better than all before it, or joined their front."""
    last, front = 0, ()
    for count in range(1, len(told) + 1):
        kept = tuple(trial for trial in told[: count - 1] if trial.number in front)
        now = pareto_front((*kept, told[count - 1]), directions)
        if told[count - 1].number in now:
            last = count
        front = now
    return last
