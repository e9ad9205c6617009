"""Tasks that judge an ensemble and tell people about it."""

from collections.abc import Mapping
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from tasks.policies import CORE_FINGERPRINT
from tasks.progress import stage
from training_core.artifacts import ArtifactRef
from training_core.campaigns import judgement as judging
from training_core.campaigns import recording
from training_core.campaigns.advice.insight import RunInsight
from training_core.campaigns.bagging import Plan
from training_core.campaigns.clock import RunClock
from training_core.campaigns.dispatch import TrainingOutcome
from training_core.campaigns.recording import RecordRef
from training_core.campaigns.report import render_markdown
from training_core.campaigns.run_config import RunConfig
from training_core.campaigns.summary import Judgement, RunSummary
from training_core.jobs import DatasetRef


@task(
    name="evaluate-ensemble",
    task_run_name="evaluate ensemble",
    cache_policy=CORE_FINGERPRINT,
    persist_result=True,
    result_serializer="json",
)
def evaluate_ensemble(ensemble: ArtifactRef, dataset: DatasetRef) -> Judgement:
    """Judge an ensemble on the test split under every availability pattern; see `campaigns.judgement.judge`."""
    stage("judging on the test split")
    return judging.judge(ensemble, dataset)


@task(name="publish-report", task_run_name="publish report")
def publish_report(
    record: RecordRef,
    run: RunConfig,
    dataset: DatasetRef,
    plan: Plan,
    trained: TrainingOutcome,
    ensemble: ArtifactRef,
    judgement: Judgement,
    insight: RunInsight,
    model: str,
    clock: RunClock,
) -> RunSummary:
    """Write the report to the store, the tracker and the Prefect UI; see `campaigns.recording.write_report`."""
    report = recording.report_path(record)
    summary = judging.sum_up(
        run, dataset, record, plan, trained, ensemble, judgement, insight, model, str(report), clock
    )
    recording.write_report(record, summary)
    rows = [_shown(row.model_dump(mode="json")) for row in summary.leaderboard]
    create_table_artifact(rows, key="leaderboard", description=summary.dataset)
    create_markdown_artifact(render_markdown(summary), key="report", description=f"tracked as run {record.run_id}")
    return summary


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as the table in the Prefect UI has it, which shows values as they are."""
    short = {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}
    return {name: ", ".join(value) if isinstance(value, list) else value for name, value in short.items()}
