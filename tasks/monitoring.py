"""Tasks that watch a model: keep its profile, compare a window with it, show and tell what was found."""

from pathlib import Path

from prefect import task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from tasks.events import tell
from tasks.policies import NUM_RETRIES, RETRY_DELAY_SECONDS, is_transient
from tasks.progress import stage
from training_core.artifacts import ArtifactRef
from training_core.campaigns.promotion import changes
from training_core.campaigns.recording import RecordRef
from training_core.campaigns.watching import monitor as watching
from training_core.campaigns.watching import profiles, showing
from training_core.campaigns.watching.monitor import MonitorConfig, MonitorReport
from training_core.jobs import DatasetRef


@task(name="keep-profile", task_run_name="keep profile")
def keep_profile(record: RecordRef, ensemble: ArtifactRef, dataset: DatasetRef, store: Path) -> ArtifactRef:
    """Make the profile that later windows are compared with; see `campaigns.watching.profiles.publish_profile`."""
    stage("making the profile of what it was trained on")
    return profiles.publish_profile(ensemble, dataset, store, record)


@task(
    name="find-champions",
    task_run_name="find champions",
    retries=NUM_RETRIES,
    retry_delay_seconds=RETRY_DELAY_SECONDS,
    retry_condition_fn=is_transient,
)
def find_champions(store: Path) -> tuple[str, ...]:
    """Name the models with a champion; see `campaigns.promotion.changes.champions`."""
    return changes.champions(store)


@task(
    name="watch-window",
    task_run_name="watch {request.model}",
    retries=NUM_RETRIES,
    retry_delay_seconds=RETRY_DELAY_SECONDS,
    retry_condition_fn=is_transient,
)
def watch_window(request: MonitorConfig, store: Path) -> MonitorReport:
    """Compare a window of rows with the model's profile; see `campaigns.watching.monitor.monitor`."""
    stage(f"comparing what {request.model} meets with its profile")
    return watching.monitor(request, store)


@task(name="publish-drift", task_run_name="publish drift")
def publish_drift(report: MonitorReport) -> None:
    """Show what was found in the Prefect UI, under the same keys for every window."""
    create_table_artifact(showing.check_rows(report), key="drift", description=f"{report.model}, {report.window}")
    create_markdown_artifact(showing.to_markdown(report), key="drift-report", description=report.retrain.reason)
    if report.report:
        create_link_artifact(Path(report.report).as_uri(), key="drift-page", link_text="the whole page")


@task(name="raise-alarm", task_run_name="raise alarm")
def raise_alarm(request: MonitorConfig, report: MonitorReport) -> None:
    """Tell of a drift that calls for a retraining; of others nobody is told but by what is shown."""
    if report.retrain.retrain:
        tell("drift.detected", report.model, showing.alarm(request, report))
