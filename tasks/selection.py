"""Tasks about learners before they are trained: which for which bag, and what a first round says of the modalities."""

from pathlib import Path

from prefect import get_run_logger, task

from tasks.progress import announce
from tasks.training import train_cohorts
from training_core.campaigns import bagging
from training_core.campaigns.advice import preflight
from training_core.campaigns.bagging import Plan
from training_core.campaigns.clock import RunClock
from training_core.campaigns.run_config import RunConfig
from training_core.data.splitting.bags import Bag
from training_core.jobs import DatasetRef, JobReport


@task(name="look-ahead", task_run_name="look ahead")
def look_ahead(run: RunConfig, dataset: DatasetRef) -> tuple[str, ...]:
    """Say what speaks against a run before it trains; see `campaigns.advice.preflight.look_ahead`."""
    found = preflight.look_ahead(run, dataset)
    for warning in found:
        get_run_logger().warning(warning)
        announce({"event": "warning", "text": warning})
    return found


@task(name="select-learners", task_run_name="select learners")
def select_learners(run: RunConfig, dataset: DatasetRef, bags: tuple[Bag, ...]) -> Plan:
    """Choose learners for every bag and deal them into groups; see `campaigns.bagging.plan_training`."""
    return bagging.plan_training(run, dataset, bags)


@task(name="plan-survey", task_run_name="plan survey of modalities")
def plan_survey(run: RunConfig, dataset: DatasetRef) -> Plan:
    """Choose the cheap learners of single modalities; see `campaigns.bagging.plan_survey`."""
    return bagging.plan_survey(run, dataset)


@task(name="measure-utilities", task_run_name="measure utilities")
def measure_utilities(run: RunConfig, dataset: DatasetRef, reports: tuple[JobReport, ...]) -> dict[str, float]:
    """What each modality tells by itself; see `campaigns.bagging.measure_utilities`."""
    return bagging.measure_utilities(run, dataset, reports)


def survey_modalities(run: RunConfig, dataset: DatasetRef, store: Path, clock: RunClock) -> dict[str, float]:
    """The first round of adaptive bags, from its plan to the utilities; for other bags both are empty.

    Raises:
        UserError: a learner met a setting or data that the user has to mend.
    """
    trained = train_cohorts(plan_survey(run, dataset), run, dataset, store, clock)
    return measure_utilities(run, dataset, trained.reports)
