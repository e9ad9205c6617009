"""The main flow: from a dataset to a tracked, registered ensemble."""

import time
from pathlib import Path

from prefect import flow

from tasks.combination import combine_learners
from tasks.data import make_bags, prepare_data
from tasks.evaluation import evaluate_ensemble, publish_report
from tasks.selection import select_learners
from tasks.tracking import record_learners, recorded, register_ensemble
from tasks.training import train_cohorts
from training_core.campaigns.run_config import RunConfig
from training_core.campaigns.summary import RunSummary


@flow(name="train-ensemble", flow_run_name="train {run.title}")
def train_ensemble(run: RunConfig, store: str = ".polychoir") -> RunSummary:
    """Train, combine, judge, track and register a multimodal ensemble.

    Args:
        run: what to train, on what, and how.
        store: folder that keeps datasets, learners, ensembles and tracking; made when absent.
    """
    start, place = time.monotonic(), Path(store).resolve()
    dataset = prepare_data(run.dataset, place)
    bags = make_bags(run, dataset)
    plan = select_learners(run, dataset, bags)
    with recorded(run, dataset, place) as record:
        reports = train_cohorts(plan, run, place)
        record_learners(record, plan, reports)
        ensemble = combine_learners(run, dataset, reports, place)
        judgement = evaluate_ensemble(ensemble, dataset)
        model = register_ensemble(record, dataset, ensemble, judgement)
        seconds = time.monotonic() - start
        return publish_report(record, run, dataset, reports, ensemble, judgement, model, seconds)
