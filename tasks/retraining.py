"""Tasks that train a model again: may it be, on which rows, what came of it, and who is told."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect import task
from prefect.artifacts import create_markdown_artifact

from tasks.events import tell
from tasks.progress import stage
from training_core.campaigns.promotion.decide import PromotionConfig
from training_core.campaigns.promotion.verbs import Outcome as Promotion
from training_core.campaigns.summary import RunSummary
from training_core.campaigns.watching import retraining as again
from training_core.campaigns.watching import showing
from training_core.campaigns.watching.retraining import RetrainConfig, RetrainPlan, RetrainReport


@contextmanager
def retraining(request: RetrainConfig, store: Path) -> Iterator[RetrainPlan]:
    """What is to be trained, and for as long as the block lasts nobody else retrains the model.

    The plan of whoever is not the first says so. A block that raises is remembered as a failure, which is no reason to
    hold back the next one.
    """
    with again.in_flight(request.model, store) as is_first:
        plan = plan_retraining(request, store) if is_first else again.already_running(request, store)
        try:
            yield plan
        except BaseException as error:
            again.fail_retraining(request, plan, store, error)
            raise


@task(name="plan-retraining", task_run_name="plan retraining")
def plan_retraining(request: RetrainConfig, store: Path) -> RetrainPlan:
    """Whether the model may be trained again, and on what; see `campaigns.watching.retraining.plan_retraining`."""
    stage(f"looking what is new for {request.model}")
    return again.plan_retraining(request, store)


@task(name="refuse-retraining", task_run_name="refuse retraining")
def refuse_retraining(plan: RetrainPlan) -> RetrainReport:
    """Nothing is trained: say why."""
    report = RetrainReport(plan=plan, outcome="refused", why=plan.refusal)
    create_markdown_artifact(showing.retraining_markdown(report), key="retraining", description=plan.model)
    tell("retrain.refused", plan.model, {"why": plan.refusal})
    return report


@task(name="propose-challenger", task_run_name="propose challenger")
def propose_challenger(request: RetrainConfig, plan: RetrainPlan, trained: RunSummary) -> PromotionConfig | None:
    """What the challenger is to be compared by; see `campaigns.watching.retraining.promotion_of`."""
    return again.promotion_of(request, plan, trained)


@task(name="conclude-retraining", task_run_name="conclude retraining")
def conclude_retraining(
    request: RetrainConfig, plan: RetrainPlan, trained: RunSummary, promotion: Promotion | None, store: Path
) -> RetrainReport:
    """Remember and show what came of it; see `campaigns.watching.retraining.conclude_retraining`."""
    report = again.conclude_retraining(request, plan, trained, promotion, store)
    create_markdown_artifact(showing.retraining_markdown(report), key="retraining", description=plan.model)
    return report
