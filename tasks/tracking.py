"""Tasks that tell the tracker what happened, with tags that lead from MLflow to Prefect; artefacts lead back."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from prefect import get_run_logger, task
from prefect.runtime import flow_run

from tasks.data import in_use
from tasks.progress import listening, stage
from training_core.artifacts import ArtifactRef
from training_core.campaigns import recording
from training_core.campaigns.bagging import Plan
from training_core.campaigns.promotion import registration
from training_core.campaigns.recording import RecordRef
from training_core.campaigns.run_config import RunConfig
from training_core.campaigns.summary import Judgement
from training_core.jobs import DatasetRef, JobReport


@contextmanager
def recorded(run: RunConfig, dataset: DatasetRef, store: Path) -> Iterator[RecordRef]:
    """The run's record in the tracker for as long as the block lasts; see `ended_with`."""
    record = begin_record(run, dataset, store)
    get_run_logger().info("recorded as run %s in %s", record.run_id, record.location)
    with ended_with(record, dataset), listening(partial(recording.record_progress, record)):
        yield record


@contextmanager
def ended_with(record: RecordRef, dataset: DatasetRef) -> Iterator[None]:
    """End a record when the block ends, as failed when it raises.

    For so long the version of the data set is in use as well: tasks open and close it, and nobody may remove it
    between two of them.
    """
    try:
        with in_use(dataset):
            yield
    except BaseException:
        recording.end_record(record, "FAILED")
        raise
    recording.end_record(record, "FINISHED")


@task(name="begin-record", task_run_name="begin record")
def begin_record(run: RunConfig, dataset: DatasetRef, store: Path) -> RecordRef:
    """Begin the run's record; see `campaigns.recording.begin_record`."""
    stage("opening the tracker")
    return recording.begin_record(run, dataset, store, prefect_tags())


@task(name="record-learners", task_run_name="record learners")
def record_learners(record: RecordRef, plan: Plan, reports: tuple[JobReport, ...]) -> None:
    """A child run per learner; see `campaigns.recording.record_reports`."""
    recording.record_reports(record, plan.jobs, reports)


@task(name="register-ensemble", task_run_name="register ensemble")
def register_ensemble(record: RecordRef, dataset: DatasetRef, ensemble: ArtifactRef, judgement: Judgement) -> str:
    """Register the model, as champion or challenger of its data set's name; see `campaigns.promotion.registration`."""
    stage("registering the model")
    return registration.register(record, dataset, ensemble, judgement, prefect_tags())


def prefect_tags() -> dict[str, str]:
    """The flow run that this happens in, as tags."""
    named = {"flow_run_id": flow_run.get_id(), "flow_run_name": flow_run.get_name(), "flow": flow_run.get_flow_name()}
    return {f"prefect.{key}": str(value) for key, value in named.items() if value}
