"""The flow that searches for better settings of a run."""

from pathlib import Path

from prefect import flow

from tasks.data import prepare_data
from tasks.training import prepare_processes
from tasks.tuning import publish_study, recorded_study, run_trials
from training_core.campaigns.run_config import RunConfig
from training_core.campaigns.tuning.summary import StudySummary


@flow(name="tune-ensemble", flow_run_name="tune {run.title}")
def tune_ensemble(run: RunConfig, store: str = ".polychoir") -> StudySummary:
    """Search for better settings, as `run.tuning` says; the same study again goes on where it stopped.

    Args:
        run: the run whose settings are tuned.
        store: folder that keeps datasets, learners, studies and tracking; made when absent.
    """
    prepare_processes(run)
    place = Path(store).resolve()
    dataset = prepare_data(run.dataset, place)
    with recorded_study(run, dataset, place) as record:
        summary = run_trials(run, dataset, place)
        return publish_study(record, run, dataset, summary, place)
