"""Tasks that tidy up: the store, and what the Prefect server remembers."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun
from prefect.exceptions import ObjectNotFound

from tasks.progress import stage
from training_core.campaigns import maintenance
from training_core.campaigns.maintenance import RetentionConfig, Tidied, TidyReport

_PAGE = 200
FLOWS = (
    "train-ensemble",
    "tune-ensemble",
    "prepare-data",
    "evaluate-model",
    "export-model",
    "monitor-model",
    "monitor-champions",
    "retrain-model",
    "promote-model",
    "rollback-model",
    "maintain-store",
    "notify",
)
"""Names of our flows: a server may be shared with others, whose runs are none of ours."""
DEPLOYED_TAG = "polychoir"
"""Tag of every run of our deployments."""


@task(name="forget-flow-runs", task_run_name="forget old flow runs")
def forget_flow_runs(request: RetentionConfig, store: Path) -> Tidied:
    """Let the Prefect server forget flow runs on a store that ended more than `request.flow_run_days` days ago.

    Their task runs go with them. Runs that are not over stay, however old, and so do those of other flows and stores.
    """
    stage("looking for old flow runs")
    with get_client(sync_client=True) as client:
        ended = _ended_before(client, datetime.now(UTC) - timedelta(days=request.flow_run_days))
        old = [run for run in ended if _is_of(run, store)]
        forgotten = [run.name for run in old if request.dry_run or _forget(client, run.id)]
    return Tidied(kind="flow runs", names=tuple(forgotten))


@task(name="tidy-store", task_run_name="tidy the store")
def tidy_store(request: RetentionConfig, store: Path, before: tuple[Tidied, ...]) -> TidyReport:
    """Remove what is old and what nothing refers to; see `campaigns.maintenance.tidy`."""
    stage("tidying the store")
    return maintenance.tidy(store, request, before)


@task(name="publish-tidying", task_run_name="publish what was tidied")
def publish_tidying(report: TidyReport) -> None:
    """Show in the Prefect UI what went, and what could not."""
    create_table_artifact(report.rows(), key="maintenance", description=report.sentence())
    if report.problems:
        create_markdown_artifact("\n".join(f"- {problem}" for problem in report.problems), key="maintenance-problems")


def _ended_before(client: SyncPrefectClient, moment: datetime) -> Iterator[FlowRun]:
    """Runs of our flows that are over, and were before a moment."""
    ours = FlowFilter(name=FlowFilterName(any_=list(FLOWS)))
    ended = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(TERMINAL_STATES))),
        end_time=FlowRunFilterEndTime.model_validate({"before_": moment}),
    )
    offset = 0
    while found := client.read_flow_runs(flow_filter=ours, flow_run_filter=ended, limit=_PAGE, offset=offset):
        yield from found
        offset += len(found)


def _is_of(run: FlowRun, store: Path) -> bool:
    """Whether a run worked on a store. A notice has none: it belongs to whoever deployed it.

    A relative path is somebody's who had another working folder, so nobody knows which store it names.
    """
    place = run.parameters.get("store")
    if place is None:
        return DEPLOYED_TAG in run.tags
    return isinstance(place, str) and Path(place).is_absolute() and Path(place).resolve() == store


def _forget(client: SyncPrefectClient, run: UUID) -> bool:
    """Delete a flow run; False when somebody else did."""
    try:
        client.delete_flow_run(run)
    except ObjectNotFound:
        return False
    return True
