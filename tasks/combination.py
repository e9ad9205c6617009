"""The task that turns trained learners into one ensemble."""

from pathlib import Path

from prefect import task

from tasks.progress import stage
from training_core.artifacts import ArtifactRef
from training_core.campaigns import bagging
from training_core.campaigns.run_config import RunConfig
from training_core.jobs import DatasetRef, JobReport


@task(name="combine-learners", task_run_name="combine learners")
def combine_learners(run: RunConfig, dataset: DatasetRef, reports: tuple[JobReport, ...], store: Path) -> ArtifactRef:
    """Learn weights and calibration per availability pattern; see `campaigns.bagging.conclude_run`."""
    stage("combining learners")
    return bagging.conclude_run(run, dataset, reports, store)
