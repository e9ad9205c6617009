"""Tasks of the full evaluation of a model: find it, retrain what it is compared with, measure, tell people."""

from pathlib import Path

from prefect import task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from tasks.policies import NUM_RETRIES, RETRY_DELAY_SECONDS, is_transient
from tasks.progress import announce, stage
from tasks.tracking import prefect_tags
from training_core.campaigns.evaluation import keeping, measure, oracle, subject
from training_core.campaigns.evaluation.config import EvaluationConfig
from training_core.campaigns.evaluation.keeping import KeptEvaluation
from training_core.campaigns.evaluation.oracle import OracleRef
from training_core.campaigns.evaluation.outcome import EvaluationReport
from training_core.campaigns.evaluation.subject import ModelRef
from training_core.campaigns.run_config import RunConfig
from training_core.jobs import DatasetRef


@task(name="find-models", task_run_name="find models")
def find_models(request: EvaluationConfig, store: Path) -> tuple[ModelRef, ...]:
    """The judged model, then those it is compared with; see `campaigns.evaluation.subject.find_model`."""
    stage("finding the model")
    return tuple(subject.find_model(name, store) for name in (request.model, *request.against))


@task(name="plan-oracles", task_run_name="plan oracles")
def plan_oracles(request: EvaluationConfig, models: tuple[ModelRef, ...], store: Path) -> tuple[RunConfig, ...]:
    """The runs that train oracles, none when none is asked for; see `campaigns.evaluation.oracle.oracle_runs`."""
    return oracle.oracle_runs(models[0], store) if request.oracle else ()


@task(
    name="train-oracle",
    task_run_name="train oracle",
    retries=NUM_RETRIES,
    retry_delay_seconds=RETRY_DELAY_SECONDS,
    retry_condition_fn=is_transient,
    tags=["learners"],
)
def train_oracle(run: RunConfig, store: Path) -> OracleRef:
    """An ensemble on some modalities only; see `campaigns.evaluation.oracle.train_oracle`."""
    stage(f"training an oracle for {', '.join(run.modalities)}")
    return oracle.train_oracle(run, store, announce)


@task(name="measure-model", task_run_name="measure model")
def measure_model(
    request: EvaluationConfig,
    models: tuple[ModelRef, ...],
    dataset: DatasetRef,
    store: Path,
    oracles: tuple[OracleRef, ...],
) -> EvaluationReport:
    """Judge the model in every way; see `campaigns.evaluation.measure.evaluate`."""
    stage("measuring the model")
    return measure.evaluate(request, models, dataset, store, oracles)


@task(name="publish-evaluation", task_run_name="publish evaluation")
def publish_evaluation(report: EvaluationReport, store: Path, out: Path | None) -> KeptEvaluation:
    """Write it to a folder, the tracker and the Prefect UI; see `campaigns.evaluation.keeping.keep`."""
    kept = keeping.keep(report, store, out, prefect_tags())
    create_table_artifact(keeping.pattern_rows(report), key="evaluation-patterns", description=report.model)
    create_markdown_artifact(keeping.to_markdown(report), key="evaluation", description=f"tracked as {kept.run_id}")
    create_link_artifact(Path(kept.report).as_uri(), key="evaluation-page", link_text="the whole page")
    return kept
