"""Tasks about who answers for a model: hold the contest, ask a person, promote or refuse, go back."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.runtime import flow_run

from tasks.events import ModelEvent, tell
from tasks.policies import NUM_RETRIES, RETRY_DELAY_SECONDS, is_transient
from tasks.progress import stage
from training_core.campaigns.promotion import verbs
from training_core.campaigns.promotion.decide import Approval, PromotionConfig, contest_markdown
from training_core.campaigns.promotion.ledger import Action, LedgerEntry
from training_core.campaigns.promotion.proposal import Proposal
from training_core.campaigns.promotion.verbs import Outcome

_POLL_SECONDS = 2
_EVENTS: Mapping[Action, ModelEvent] = {
    "promoted": "model.promoted",
    "refused": "model.refused",
    "rolled-back": "model.rolled-back",
}
_ANSWERS: list[Callable[[Proposal], Approval]] = []


class ApprovalForm(RunInput):
    """What a person fills in where a promotion waits for them."""

    approve: bool = False
    reason: str = ""
    by: str = ""


@contextmanager
def answering(answer: Callable[[Proposal], Approval]) -> Iterator[None]:
    """Within the block `answer` is asked about promotions of this process, in place of whoever looks at the UI."""
    _ANSWERS.append(answer)
    try:
        yield
    finally:
        _ANSWERS.remove(answer)


@task(
    name="hold-contest",
    task_run_name="hold contest",
    retries=NUM_RETRIES,
    retry_delay_seconds=RETRY_DELAY_SECONDS,
    retry_condition_fn=is_transient,
)
def hold_contest(request: PromotionConfig, store: Path) -> Proposal:
    """Champion and challenger on the same fresh rows, and what follows; see `campaigns.promotion.verbs.propose`.

    What a killed process left half-done is completed first.
    """
    stage("champion against challenger")
    proposal = verbs.propose(request, store)
    shown = contest_markdown(proposal.contest, proposal.decision, proposal.title)
    create_markdown_artifact(shown, key="contest", description=proposal.title)
    return proposal


def ask_person(proposal: Proposal) -> Approval | None:
    """What a person says where one has to be asked; None when none has to, or nobody answers in time.

    The flow run pauses, and holds its process, until somebody resumes it in the Prefect UI (or through its API), where
    the contest is shown beside the form.
    """
    if not proposal.asks:
        return None
    if _ANSWERS:
        return _ANSWERS[-1](proposal)
    stage(f"waiting for a person to approve {proposal.title}")
    shown = contest_markdown(proposal.contest, proposal.decision, proposal.title)
    form = ApprovalForm.with_initial_data(description=shown, by=proposal.request.by)
    seconds = max(1, round(proposal.request.approval_hours * 3600))
    try:
        filled = pause_flow_run(wait_for_input=form, timeout=seconds, poll_interval=min(_POLL_SECONDS, seconds))
    except FlowPauseTimeout:
        get_run_logger().warning("nobody answered within %s h", proposal.request.approval_hours)
        return None
    return Approval(approve=filled.approve, reason=filled.reason, by=filled.by)


@task(name="conclude-promotion", task_run_name="conclude promotion")
def conclude_promotion(proposal: Proposal, approval: Approval | None, store: Path) -> Outcome:
    """Promote or refuse, write the ledger, and tell; see `campaigns.promotion.verbs.conclude`."""
    stage("writing the ledger")
    return _told(verbs.conclude(proposal, store, approval, flow_run=_flow_run_id()))


@task(name="roll-back", task_run_name="roll back {model}")
def roll_back(model: str, version: int, why: str, by: str, store: Path) -> Outcome:
    """Make a former champion answer again, the one before for version 0; see `campaigns.promotion.verbs.rollback`."""
    stage(f"rolling back {model}")
    return _told(verbs.rollback(model, store, version or None, why, by, flow_run=_flow_run_id()))


@task(name="complete-promotions", task_run_name="complete promotions")
def complete_promotions(store: Path) -> int:
    """Complete what killed promotions left half-done, and tell; see `campaigns.promotion.verbs.reconcile_all`."""
    completed = verbs.reconcile_all(store)
    for entry in completed:
        get_run_logger().warning("%s: completed: %s, version %s", entry.model, entry.action, entry.version)
        _tell(entry)
    return len(completed)


def _tell(done: Outcome | LedgerEntry) -> None:
    """Tell Prefect of a decision; of one that starts nothing there is nothing to tell."""
    if (event := _EVENTS.get(done.action)) is not None:
        why = f"{done.reason} ({done.why})" if done.why else done.reason
        tell(event, done.model, {"version": done.version, "previous": done.previous, "by": done.by, "why": why})


def _told(outcome: Outcome) -> Outcome:
    """The outcome, after Prefect was told of it."""
    _tell(outcome)
    get_run_logger().info("%s: %s", outcome.model, outcome.reason)
    text = f"**{outcome.model}**, version {outcome.version}: {outcome.action}\n\n{outcome.reason}"
    create_markdown_artifact(text, key="promotion", description=outcome.model)
    return outcome


def _flow_run_id() -> str:
    return str(flow_run.get_id() or "")
