"""The main flow: from a dataset to a tracked, registered ensemble."""

from pathlib import Path

from prefect import flow

from tasks.advice import study_run
from tasks.combination import combine_learners, keep_learners
from tasks.data import make_bags, prepare_data
from tasks.evaluation import evaluate_ensemble, publish_report
from tasks.monitoring import keep_profile
from tasks.selection import look_ahead, select_learners, survey_modalities
from tasks.tracking import record_learners, recorded, register_ensemble
from tasks.training import prepare_processes, train_cohorts
from tasks.tuning import tune_first
from training_core.campaigns.clock import RunClock
from training_core.campaigns.run_config import RunConfig
from training_core.campaigns.summary import RunSummary


@flow(name="train-ensemble", flow_run_name="train {run.title}")
def train_ensemble(run: RunConfig, store: str = ".polychoir", started: float | None = None) -> RunSummary:
    """Train, combine, judge, track and register a multimodal ensemble.

    Args:
        run: what to train, on what, and how.
        store: folder that keeps datasets, learners, ensembles and tracking; made when absent.
        started: when the command began, in seconds since the epoch, for a budget of time; by default now.
    """
    clock, place = RunClock.begin(run.budget.seconds, "flow", started), Path(store).resolve()
    prepare_processes(run)
    dataset = prepare_data(run.dataset, place)
    run = tune_first(run, dataset, place, clock)
    look_ahead(run, dataset)
    utilities = survey_modalities(run, dataset, place, clock)
    bags = make_bags(run, dataset, utilities)
    plan = select_learners(run, dataset, bags)
    with recorded(run, dataset, place) as record:
        trained = train_cohorts(plan, run, dataset, place, clock)
        record_learners(record, plan, trained.reports)
        trained = keep_learners(run, dataset, trained, place)
        ensemble = combine_learners(run, dataset, trained.reports, place)
        judgement = evaluate_ensemble(ensemble, dataset)
        insight = study_run(record, run, dataset, trained.reports, ensemble, judgement)
        keep_profile(record, ensemble, dataset, place)
        model = register_ensemble(record, dataset, ensemble, judgement)
        return publish_report(record, run, dataset, plan, trained, ensemble, judgement, insight, model, clock)
