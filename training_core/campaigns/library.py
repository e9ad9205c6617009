"""The campaign as two function calls, for notebooks and scripts: no flow, no server, no tracker."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from training_core.campaigns import bagging
from training_core.campaigns.run_config import RunConfig
from training_core.data.storage.store import Dataset, DatasetStore
from training_core.isolation import run_isolated, stop_all
from training_core.jobs import OnEvent
from training_core.selection.ensemble import Ensemble

DEFAULT_STORE = ".polychoir"


def open_dataset(name: str, store: str | Path = DEFAULT_STORE) -> Dataset:
    """A dataset version: `name@version`, or `name` for the latest.

    Raises:
        DataError: there is none of that name; the known ones are listed.
    """
    return DatasetStore(Path(store).resolve() / "datasets").open(name)


def fit_ensemble(
    dataset: str | RunConfig,
    store: str | Path = DEFAULT_STORE,
    on_event: OnEvent = lambda event: None,
    **settings: Any,
) -> Ensemble:
    """Train an ensemble; what an earlier call or run has trained is not trained again.

    Args:
        dataset: a dataset version, a SOURCE.yaml, or a whole `RunConfig`.
        store: folder for datasets, learners and ensembles.
        on_event: told what happens to each learner.
        settings: fields of `RunConfig`, such as `preset="quick"` or `training={"epochs": 20}`.

    Raises:
        ConfigError: a setting is unknown or wrong.
        DataError: there is no such dataset.
        GateError: too few learners trained.
        TransientError: a learner's process died; call again to go on.
    """
    run = dataset if isinstance(dataset, RunConfig) else RunConfig.load(dataset=dataset, **settings)
    place = Path(store).resolve()
    ref = bagging.resolve_dataset(run.dataset, place)
    plan = bagging.plan_training(run, ref, bagging.bags_of(run, ref))
    with ThreadPoolExecutor(bagging.num_workers(run)) as pool:
        how = (place, on_event, run.budget.learner_seconds, run.profile)
        groups = [pool.submit(run_isolated, cohort, *how) for cohort in plan.cohorts]
        try:
            reports = [report for group in groups for report in group.result()]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            stop_all()
            raise
    ordered = sorted(reports, key=lambda report: report.name)
    return Ensemble.load(bagging.conclude_run(run, ref, ordered, place).path)
