"""Tasks that turn trained learners, and those kept of an earlier model, into one ensemble."""

from pathlib import Path

from prefect import task

from tasks.progress import stage
from training_core.artifacts import ArtifactRef
from training_core.campaigns import bagging, kept_learners
from training_core.campaigns.dispatch import TrainingOutcome
from training_core.campaigns.run_config import RunConfig
from training_core.jobs import DatasetRef, JobReport


@task(name="keep-learners", task_run_name="keep learners")
def keep_learners(run: RunConfig, dataset: DatasetRef, trained: TrainingOutcome, store: Path) -> TrainingOutcome:
    """What was trained, and the learners of an earlier model beside it; see `campaigns.kept_learners.keep_learners`."""
    kept = kept_learners.keep_learners(run, dataset, store)
    return trained.model_copy(update={"reports": (*trained.reports, *kept)})


@task(name="combine-learners", task_run_name="combine learners")
def combine_learners(run: RunConfig, dataset: DatasetRef, reports: tuple[JobReport, ...], store: Path) -> ArtifactRef:
    """Learn weights and calibration per availability pattern; see `campaigns.bagging.conclude_run`."""
    stage("combining learners")
    return bagging.conclude_run(run, dataset, reports, store)
