"""Tasks about learners before they are trained: which for which bag, and in which groups."""

from prefect import task

from training_core.campaigns import bagging
from training_core.campaigns.bagging import Plan
from training_core.campaigns.run_config import RunConfig
from training_core.data.splitting.bags import Bag
from training_core.jobs import DatasetRef


@task(name="select-learners", task_run_name="select learners")
def select_learners(run: RunConfig, dataset: DatasetRef, bags: tuple[Bag, ...]) -> Plan:
    """Choose learners for every bag and deal them into groups; see `campaigns.bagging.plan_training`."""
    return bagging.plan_training(run, dataset, bags)
