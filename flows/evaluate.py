"""The flow that judges a trained model in every way."""

from pathlib import Path

from prefect import flow

from tasks.data import in_use, prepare_data
from tasks.model_evaluation import find_models, measure_model, plan_oracles, publish_evaluation, train_oracle
from training_core.campaigns.evaluation.config import EvaluationConfig
from training_core.campaigns.evaluation.keeping import KeptEvaluation


@flow(name="evaluate-model", flow_run_name="evaluate {request.title}")
def evaluate_model(request: EvaluationConfig, store: str = ".polychoir", out: str = "") -> KeptEvaluation:
    """Judge a model on rows it was not trained on, and write a report.

    Args:
        request: which model, on what, and how thoroughly.
        store: folder that keeps datasets, learners, ensembles and tracking.
        out: folder for the report; by default one in the store.
    """
    place = Path(store).resolve()
    dataset = prepare_data(request.dataset, place)
    models = find_models(request, place)
    with in_use(dataset):
        oracles = tuple(train_oracle(run, place) for run in plan_oracles(request, models, place))
        report = measure_model(request, models, dataset, place, oracles)
        return publish_evaluation(report, place, Path(out) if out else None)
