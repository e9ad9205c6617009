"""The flow that trains a model again, and lets it take over when it is better."""

from pathlib import Path

from prefect import flow

from flows.promote import promote_model
from flows.train_ensemble import train_ensemble
from tasks.retraining import conclude_retraining, propose_challenger, refuse_retraining, retraining
from training_core.campaigns.watching.retraining import RetrainConfig, RetrainReport


@flow(name="retrain-model", flow_run_name="retrain {request.model}")
def retrain_model(request: RetrainConfig, store: str = ".polychoir") -> RetrainReport:
    """Train a model again on what is new, and promote it when it is better on rows that neither has seen.

    Args:
        request: which model, what for, and what holds it back.
        store: folder that keeps datasets, learners, ensembles and tracking.
    """
    place = Path(store).resolve()
    with retraining(request, place) as plan:
        if plan.run is None:
            return refuse_retraining(plan)
        trained = train_ensemble(plan.run, str(place))
        asked = propose_challenger(request, plan, trained)
        promotion = promote_model(asked, str(place)) if asked else None
        return conclude_retraining(request, plan, trained, promotion, place)
