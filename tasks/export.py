"""The task that writes a model as a bundle."""

from pathlib import Path

from prefect import task
from prefect.artifacts import create_table_artifact

from tasks.policies import NUM_RETRIES, RETRY_DELAY_SECONDS, is_transient
from tasks.progress import stage
from training_core.campaigns import exporting
from training_core.campaigns.exporting import ExportConfig
from training_core.export.bundle import ExportReport


@task(
    name="write-bundle",
    task_run_name="write bundle of {request.model}",
    retries=NUM_RETRIES,
    retry_delay_seconds=RETRY_DELAY_SECONDS,
    retry_condition_fn=is_transient,
)
def write_bundle(request: ExportConfig, store: Path) -> ExportReport:
    """Export the model and show how it compares; see `campaigns.exporting.export_model`."""
    stage("tracing the ensemble and comparing answers")
    report = exporting.export_model(request, store)
    rows = [pattern.model_dump() | {"format": one.format} for one in report.parity for pattern in one.patterns]
    create_table_artifact(rows, key="export-parity", description=f"{report.folder}, sha256 {report.sha256}")
    return report
