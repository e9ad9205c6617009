"""The task that says how a run's learners trained and what to change."""

from prefect import task
from prefect.artifacts import create_markdown_artifact

from tasks.progress import stage
from training_core.artifacts import ArtifactRef
from training_core.campaigns.advice import record as advising
from training_core.campaigns.advice.insight import RunInsight
from training_core.campaigns.advice.page import render_insight_markdown
from training_core.campaigns.recording import RecordRef
from training_core.campaigns.run_config import RunConfig
from training_core.campaigns.summary import Judgement
from training_core.evaluation.gates import require_gates
from training_core.jobs import DatasetRef, JobReport


@task(name="study-run", task_run_name="study run")
def study_run(
    record: RecordRef,
    run: RunConfig,
    dataset: DatasetRef,
    reports: tuple[JobReport, ...],
    ensemble: ArtifactRef,
    judgement: Judgement,
) -> RunInsight:
    """Analytics, diagnoses and gates of a finished run; see `campaigns.advice.record.record_insight`.

    Raises:
        GateError: the run misses one of its gates; what was found is kept all the same.
    """
    stage("looking at how the learners trained")
    insight = advising.record_insight(record, run, dataset, reports, ensemble, judgement)
    create_markdown_artifact(
        render_insight_markdown(insight, dataset.label), key="training", description=f"run {record.run_id}"
    )
    require_gates(insight.gates)
    return insight
