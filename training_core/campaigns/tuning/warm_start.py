"""What was best in earlier studies of a store, as trials to begin another study with."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from training_core.artifacts import newest_first
from training_core.campaigns.tuning.config import ParamValue, TuningConfig
from training_core.campaigns.tuning.space import Dimension, choose
from training_core.campaigns.tuning.summary import SUMMARY, StudySummary, read_summary
from training_core.errors import StorageError

_MOST_STUDIES = 5
_PER_STUDY = 2
_SHARED = 0.5
"""Share of the fields that are searched now which an earlier study has to have searched, too."""


def earlier_winners(
    studies: Path,
    own: Path,
    space: Sequence[Dimension],
    config: TuningConfig,
    default: Mapping[str, ParamValue],
) -> list[dict[str, ParamValue]]:
    """The best trials of earlier studies of the same target, whatever data they were on; the latest studies first.

    A value that this space does not have becomes the nearest one it has; a field the other study did not search has
    its default.

    Args:
        studies: folder of all studies of the store.
        own: folder of the study that begins.
        space: what it searches.
        config: how.
        default: the run's own values, which are a trial anyway.
    """
    known = [summary for summary in _summaries(studies, own) if _is_like(summary, config)]
    found: list[dict[str, ParamValue]] = []
    for summary in known[:_MOST_STUDIES]:
        paths = {dimension.path for dimension in summary.space}
        shared = [dimension for dimension in space if dimension.path in paths]
        if len(shared) < _SHARED * len(space):
            continue
        for trial in _best_of(summary)[:_PER_STUDY]:
            params = choose(space, lambda d, had=trial: d.nearest(had.get(d.path, default.get(d.path))))
            if params not in found and params != dict(default):
                found.append(params)
    return found


def _summaries(studies: Path, own: Path) -> list[StudySummary]:
    """Of all other studies that came to an end, the latest first."""
    files = [file for file in studies.glob(f"*/{SUMMARY}") if file.parent != own]
    found: list[StudySummary] = []
    for file in newest_first(files):
        try:
            found.append(read_summary(file.parent))
        except StorageError:  # one of another version, or damaged: there is nothing to be learned from it
            continue
    return found


def _is_like(summary: StudySummary, config: TuningConfig) -> bool:
    """Whether its winners may be good here, too."""
    same_learner = config.target != "learner" or summary.learner == config.learner
    return summary.target == config.target and same_learner and summary.objectives[0] == config.objectives[0]


def _best_of(summary: StudySummary) -> list[Mapping[str, ParamValue]]:
    """The values of its complete trials within all limits, best in the first objective first."""
    sign = 1.0 if summary.directions[0] == "minimize" else -1.0
    ranked = sorted(
        (sign * trial.values[0], trial.number, trial.params)
        for trial in summary.trials
        if trial.state == "complete" and trial.feasible and trial.values and math.isfinite(trial.values[0])
    )
    return [params for _, _, params in ranked]
