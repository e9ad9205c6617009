"""The flow that keeps the store and the server from growing without end."""

from pathlib import Path

from prefect import flow

from tasks.maintenance import forget_flow_runs, publish_tidying, tidy_store
from tasks.promotion import complete_promotions
from training_core.campaigns.maintenance import RetentionConfig, TidyReport

_USUAL = RetentionConfig()


@flow(name="maintain-store", flow_run_name="maintain {store}")
def maintain_store(request: RetentionConfig = _USUAL, store: str = ".polychoir") -> TidyReport:
    """Remove what is old and what nothing refers to any more; no registered model, and nothing that runs.

    First what a killed promotion left half-done is completed, on a dry run as well.

    Args:
        request: how long what is kept, and whether only to say what would go.
        store: folder that keeps datasets, learners, ensembles and tracking.
    """
    place = Path(store).resolve()
    complete_promotions(place)
    forgotten = forget_flow_runs(request, place)
    report = tidy_store(request, place, (forgotten,))
    publish_tidying(report)
    return report
