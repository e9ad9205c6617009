"""The flow that turns a registered model into a bundle that runs without Polychoir."""

from pathlib import Path

from prefect import flow

from tasks.export import write_bundle
from training_core.campaigns.exporting import ExportConfig
from training_core.export.bundle import ExportReport


@flow(name="export-model", flow_run_name="export {request.model}")
def export_model(request: ExportConfig, store: str = ".polychoir") -> ExportReport:
    """Write a model as a bundle, compared with the model under every pattern before it is published.

    Args:
        request: which model, and in which forms.
        store: folder that keeps models; the bundle is written to `exports` in it.
    """
    return write_bundle(request, Path(store).resolve())
