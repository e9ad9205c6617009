"""The flow that looks at what a model meets."""

from pathlib import Path

from prefect import flow
from prefect.client.schemas.objects import State

from tasks.monitoring import find_champions, publish_drift, raise_alarm, watch_window
from training_core.campaigns.watching.monitor import MonitorConfig, MonitorReport


@flow(name="monitor-model", flow_run_name="monitor {request.model}")
def monitor_model(request: MonitorConfig, store: str = ".polychoir") -> MonitorReport:
    """Compare the rows that came in with what a model was made for; a confirmed drift is told to whoever listens.

    Args:
        request: which model, which rows, and what counts as drift.
        store: folder that keeps datasets, models and what was seen of them.
    """
    report = watch_window(request, Path(store).resolve())
    publish_drift(report)
    raise_alarm(request, report)
    return report


@flow(name="monitor-champions")
def monitor_champions(store: str = ".polychoir") -> list[State[MonitorReport]]:
    """Look at what every model meets that has a champion now; one that cannot be looked at keeps no other from it.

    Args:
        store: folder that keeps datasets, models and what was seen of them.
    """
    models = find_champions(Path(store).resolve())
    return [monitor_model(MonitorConfig(model=model), store, return_state=True) for model in models]
