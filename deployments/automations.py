"""What happens by itself: drift starts a retraining, promotions and failures are told, what stands still is noticed."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.automations import AutomationCore, ChangeFlowRunState, EventTrigger, RunDeployment, SendNotification
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ActionTypes
from prefect.events.schemas.automations import Posture
from prefect.events.schemas.events import ResourceSpecification

from deployments.catalogue import HEARTBEAT_SECONDS, TAG, DeploymentSpec
from deployments.environments import Environment

MISSED_HEARTBEATS = 4
"""So many in a row may be late on a busy machine before a run counts as dead."""
START_MINUTES = 30
"""A process is there within seconds; the job of a cluster may wait for a machine that has yet to come up."""
_NAMES = "polychoir: "


def automations(
    environment: Environment,
    deployments: Sequence[DeploymentSpec],
    ids: Mapping[str, UUID],
    block: UUID | None,
) -> tuple[AutomationCore, ...]:
    """Every automation of an environment.

    Args:
        environment: how long a schedule may stand still.
        deployments: what is deployed.
        ids: of the deployments, by the name beside the flow's own.
        block: the notification block that is told; None: a run of the `notify` deployment writes the notice.
    """

    def tell(subject: str, body: str) -> ActionTypes:
        if block is not None:
            return SendNotification(block_document_id=block, subject=subject, body=body)
        return _run(ids["notify"], {"subject": _jinja(subject), "body": _jinja(body)})

    return (
        _automation(
            "drift starts a retraining",
            "A drift that was confirmed starts a retraining of the model; the retraining itself sees to cool-down.",
            EventTrigger(
                match=_MODELS, expect={"polychoir.drift.detected"}, for_each={"prefect.resource.id"}, threshold=1
            ),
            _run(ids["retrain"], {"request": _payload("retrain")}),
        ),
        _automation(
            "a change of champion is told",
            "Promotions, refusals and rollbacks of models, and retrainings that were refused.",
            EventTrigger(match=_MODELS, expect=_DECISIONS, for_each={"prefect.resource.id"}, threshold=1),
            tell(
                "{{ event.payload.model }}: {{ event.event }}",
                "{% if event.payload.version %}version {{ event.payload.version }}"
                " (before: {{ event.payload.previous }}): {% endif %}{{ event.payload.why }}",
            ),
        ),
        _automation(
            "a failed run is told",
            "A deployed run that failed or crashed.",
            EventTrigger(
                match=_RUNS,
                match_related=_related("tag", "prefect.tag.alarmed"),
                expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
                for_each={"prefect.resource.id"},
                threshold=1,
            ),
            tell(
                "{{ flow.name }}: {{ event.event }}",
                "run {{ flow_run.name }} {{ flow_run.id }}: {{ flow_run.state.message }}",
            ),
        ),
        _crashed_when_silent(
            "a run without heartbeats is crashed",
            "A run whose process or machine is gone cannot say so itself, and would be Running for ever.",
            "prefect.flow-run.heartbeat",
            timedelta(seconds=HEARTBEAT_SECONDS * MISSED_HEARTBEATS),
            "no heartbeat: its process is gone",
        ),
        _crashed_when_silent(
            "a run that does not begin is crashed",
            "A worker that dies between taking a run and starting its process leaves it Pending for ever.",
            "prefect.flow-run.Pending",
            timedelta(minutes=START_MINUTES),
            "it was taken by a worker and never began",
        ),
        *(
            _automation(
                f"{spec.name} stands still",
                f"No scheduled run of {spec.name} was completed for {environment.stale_hours:g} hours.",
                EventTrigger(
                    match=_RUNS,
                    match_related=_related("deployment", f"prefect.deployment.{ids[spec.name]}"),
                    expect={"prefect.flow-run.Completed"},
                    posture=Posture.Proactive,
                    threshold=1,
                    within=timedelta(hours=environment.stale_hours),
                ),
                tell(
                    f"{spec.name} stands still",
                    f"no run of {spec.name} was completed for {environment.stale_hours:g} hours; is a worker up?",
                ),
            )
            for spec in deployments
            if spec.schedules
        ),
    )


def _crashed_when_silent(name: str, description: str, after: str, within: timedelta, message: str) -> AutomationCore:
    """Crashes a run of which nothing was heard for so long since the event `after`."""
    trigger = EventTrigger(
        match=_RUNS,
        after={after},
        expect={"prefect.flow-run.*"},
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=within,
    )
    crash = ChangeFlowRunState(state=StateType.CRASHED, name="Crashed", message=message, force=False)
    return _automation(name, description, trigger, crash)


_MODELS = ResourceSpecification.model_validate({"prefect.resource.id": "polychoir.model.*"})
_RUNS = ResourceSpecification.model_validate({"prefect.resource.id": "prefect.flow-run.*"})
_DECISIONS = {
    "polychoir.model.promoted",
    "polychoir.model.refused",
    "polychoir.model.rolled-back",
    "polychoir.retrain.refused",
}


def is_ours(automation: AutomationCore) -> bool:
    """Whether it was deployed from here."""
    return automation.name.startswith(_NAMES)


def _automation(name: str, description: str, trigger: EventTrigger, action: ActionTypes) -> AutomationCore:
    return AutomationCore(name=_NAMES + name, description=description, tags=[TAG], trigger=trigger, actions=[action])


def _related(role: str, resource: str) -> ResourceSpecification:
    return ResourceSpecification.model_validate({"prefect.resource.role": role, "prefect.resource.id": resource})


def _run(deployment: UUID, parameters: dict[str, Any]) -> RunDeployment:
    return RunDeployment(source="selected", deployment_id=deployment, parameters=parameters, job_variables=None)


def _payload(name: str) -> dict[str, Any]:
    """A value of the event as it is; a bare template would always give text."""
    return {"__prefect_kind": "json", "value": _jinja("{{ event.payload." + name + " | tojson }}")}


def _jinja(template: str) -> Any:
    return {"__prefect_kind": "jinja", "template": template} if "{{" in template else template
