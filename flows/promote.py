"""The flows that change who answers for a model: promotion, with or without a person's approval, and rollback."""

from pathlib import Path

from prefect import flow

from tasks.promotion import ask_person, conclude_promotion, hold_contest, roll_back
from training_core.campaigns.promotion.decide import PromotionConfig
from training_core.campaigns.promotion.verbs import Outcome


@flow(name="promote-model", flow_run_name="promote {request.model}")
def promote_model(request: PromotionConfig, store: str = ".polychoir") -> Outcome:
    """Let a challenger take over where it does better than the champion on rows that neither was trained on.

    Args:
        request: which model, and what the challenger has to show for it.
        store: folder that keeps datasets, ensembles, the ledger and tracking.
    """
    place = Path(store).resolve()
    proposal = hold_contest(request, place)
    approval = ask_person(proposal)
    return conclude_promotion(proposal, approval, place)


@flow(name="rollback-model", flow_run_name="roll back {model}")
def rollback_model(model: str, why: str = "", store: str = ".polychoir", version: int = 0, by: str = "") -> Outcome:
    """Make a former champion answer again, at once.

    Args:
        model: name of the registered model.
        why: reason, for the ledger.
        store: folder that keeps datasets, ensembles, the ledger and tracking.
        version: the version to go back to; 0: the champion before the present one.
        by: who asks, for the ledger.
    """
    return roll_back(model, version, why, by, Path(store).resolve())
