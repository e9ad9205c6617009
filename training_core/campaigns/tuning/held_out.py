"""Whether tuning paid: the tuned configuration against the run's own, on test rows that chose neither."""

from collections.abc import Iterator
from pathlib import Path

from training_core.artifacts import is_published
from training_core.campaigns.bagging import open_dataset
from training_core.campaigns.recording import settings_path, summaries
from training_core.campaigns.run_config import RunConfig
from training_core.campaigns.summary import RunSummary
from training_core.config import Config
from training_core.evaluation.metrics import score
from training_core.evaluation.statistics import LEVEL, Difference, compare, resample
from training_core.jobs import DatasetRef
from training_core.selection.ensemble import Ensemble

_MAYBE = 0.05  # a p-value below it is called a difference


class HeldOut(Config):
    """Two ensembles on the same test rows."""

    metric: str
    tuned: str
    """Directory of the ensemble trained with the tuned configuration."""
    default: str
    """Directory of the one trained with the run's own."""
    tuned_score: float
    default_score: float
    difference: Difference
    """Above 0 the tuned one is better."""
    num_rows: int

    @property
    def sentence(self) -> str:
        """What can be said, and what cannot."""
        found, low, high = self.difference, self.difference.interval.low, self.difference.interval.high
        figures = f"{found.difference:+.4f} {self.metric} ({low:+.4f} to {high:+.4f}, p = {found.p_value:.3g})"
        unit = "" if found.num_units == self.num_rows else f" in {found.num_units:,} units that belong together"
        rows = f"on {self.num_rows:,} test rows{unit}"
        method = f"Paired bootstrap, interval of {LEVEL:.0%}; one split and one seed: other splits may differ."
        if found.p_value >= _MAYBE:
            return f"Tuning made no difference that can be shown {rows}: {figures}. {method}"
        verb = "is better" if found.difference > 0 else "is worse"
        return f"The tuned configuration {verb} {rows}: {figures}. {method}"


def compare_held_out(run: RunConfig, tuned: RunConfig, ref: DatasetRef, store: Path) -> HeldOut | None:
    """Compare the ensembles of two configurations on the test split, as far as runs of both are in the store.

    Args:
        run: the configuration that was tuned.
        tuned: the same with the values of the best trial.
        ref: the data set; runs on other versions do not count.
        store: where records of runs are looked for.

    Returns:
        None when either was not trained, both are the same, or there are no test rows.
    """
    if run.what_counts() == tuned.what_counts():
        return None
    first, second = _trained(tuned, ref, store), _trained(run, ref, store)
    if first is None or second is None:
        return None
    dataset = open_dataset(ref)
    rows = dataset.rows("test")
    ensembles = [Ensemble.load(Path(summary.ensemble)) for summary in (first, second)]
    used = {name for ensemble in ensembles for name in ensemble.spec.names}
    samples = dataset.samples(rows, [name for name in dataset.spec.names if name in used])
    if not len(samples) or samples.target is None:
        return None
    task, target = ensembles[0].task, samples.target
    tuned_values, default_values = (ensemble.predict(samples).values for ensemble in ensembles)
    drawn = resample(len(rows), seed=run.seed, groups=dataset.groups(rows), times=dataset.times(rows))
    return HeldOut(
        metric=task.metric,
        tuned=first.ensemble,
        default=second.ensemble,
        tuned_score=score(task, target, tuned_values),
        default_score=score(task, target, default_values),
        difference=compare(task, target, tuned_values, default_values, drawn),
        num_rows=len(rows),
    )


def _trained(run: RunConfig, ref: DatasetRef, store: Path) -> RunSummary | None:
    """The newest run of this configuration on this version whose ensemble is still there."""
    wanted = run.what_counts()
    for summary, settings in _runs(store):
        there = summary.dataset == ref.label and is_published(Path(summary.ensemble))
        if there and settings.what_counts() == wanted:
            return summary
    return None


def _runs(store: Path) -> Iterator[tuple[RunSummary, RunConfig]]:
    """Runs whose report and settings are in the store, the newest first."""
    for summary in summaries(store):
        try:
            settings = RunConfig.model_validate_json(settings_path(store, summary.run_id).read_text())
        except (OSError, ValueError):  # of another version of Polychoir, or half removed
            continue
        yield summary, settings
