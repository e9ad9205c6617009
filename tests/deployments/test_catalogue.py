"""What is deployed, where, and how it shows in the UI; no server is needed."""

import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect import Flow
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, RunDeployment, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import Event, Resource
from prefect.flows import load_flow_from_entrypoint
from prefect.server.events.schemas.automations import AutomationUpdate
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.hydration import HydrationContext, hydrate

from deployments.apply import _wanted, spelt_out
from deployments.automations import automations, is_ours
from deployments.catalogue import HEARTBEAT_SECONDS, QUEUES, TAG, DeploymentSpec, catalogue, limits
from deployments.environments import Environment, check_protection, known_name, local_timezone
from tasks.maintenance import DEPLOYED_TAG
from training_core.errors import ConfigError

SPECS = catalogue(Environment(), "/store")
CLUSTER = {"tracking": "http://mlflow:5000"}
FLOWS = Path(__file__).parents[2] / "flows"
NAMED = {spec.name: spec for spec in SPECS}
IDS = {spec.name: uuid4() for spec in SPECS}


def by_name(environment: Environment, block: UUID | None = None) -> dict[str, Any]:
    return {one.name.partition(": ")[2]: one for one in automations(environment, SPECS, IDS, block)}


def hydrated(action: RunDeployment, name: str, payload: dict[str, Any]) -> Any:
    """The parameters of a run that an event starts, as the server fills them in."""
    event = Event(event=name, resource=Resource({"prefect.resource.id": "m"}), payload=payload)
    context = HydrationContext(
        render_jinja=True, jinja_context={"event": event}, render_workspace_variables=False, raise_on_error=True
    )
    return hydrate(action.parameters or {}, context)


def fields(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field of a form, nested ones too, with the definition that it has."""
    for name, field in schema.get("properties", {}).items():
        yield name, field
    for title, definition in schema.get("definitions", {}).items():
        for name, field in definition.get("properties", {}).items():
            yield f"{title}.{name}", field


def test_every_flow_is_deployed_under_its_documented_name() -> None:
    assert {f"{spec.flow().name}/{spec.name}" for spec in SPECS} == {
        "train-ensemble/train",
        "tune-ensemble/tune",
        "evaluate-model/evaluate",
        "prepare-data/prepare",
        "export-model/export",
        "monitor-model/monitor",
        "monitor-champions/monitoring",
        "retrain-model/retrain",
        "promote-model/promote",
        "rollback-model/rollback",
        "maintain-store/maintain",
        "notify/notify",
    }


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_prefect_finds_the_flow_by_its_entrypoint(spec: DeploymentSpec) -> None:
    assert load_flow_from_entrypoint(spec.entrypoint, use_placeholder_flow=False).name == spec.flow().name


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_parameters_of_deployments_and_schedules_are_those_of_the_flow(spec: DeploymentSpec) -> None:
    flow = spec.flow()
    known = set(parameter_schema(flow).properties)
    for given in (spec.parameters, *(schedule.parameters for schedule in spec.schedules)):
        assert set(given) <= known
    for schedule in spec.schedules:
        flow.validate_parameters(dict(schedule.parameters))


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_forms_have_no_choice_between_models_and_no_field_without_a_start(spec: DeploymentSpec) -> None:
    """Prefect's form shows a choice between models badly, and a field without a default as empty."""
    schema = json.loads(parameter_schema(spec.flow()).model_dump_json())
    data = {"dataset", "model", "source"}
    for name, field in fields(schema):
        options = field.get("anyOf", ())
        assert len([one for one in options if "$ref" in one]) == 0, f"{name} is a choice between models"
        model, _, key = name.rpartition(".")
        required = "default" not in field and "$ref" not in field and "allOf" not in field
        in_a_list = model.endswith("Stage")  # whoever adds one to a list says how long it lasts
        assert not required or key in data or in_a_list, f"{name} has no default"


def test_no_flow_is_forgotten() -> None:
    modules = [import_module(f"flows.{path.stem}") for path in FLOWS.glob("*.py") if "@flow(" in path.read_text()]
    there = {one.name for module in modules for one in vars(module).values() if isinstance(one, Flow)}
    assert there == {spec.flow().name for spec in SPECS}


def test_maintenance_knows_what_was_deployed_by_its_tag() -> None:
    assert DEPLOYED_TAG == TAG


def test_whichever_models_have_a_champion_are_monitored_on_one_schedule() -> None:
    (schedule,) = NAMED["monitoring"].schedules
    assert schedule.parameters == {"store": "/store"}
    assert not NAMED["monitor"].schedules


def test_jobs_of_a_cluster_are_told_where_mlflow_is() -> None:
    with pytest.raises(ConfigError, match="tracking=http"):
        Environment.named("cluster")
    cluster = Environment.named("cluster", CLUSTER)
    for spec in catalogue(cluster, cluster.store):
        assert _wanted(spec, cluster)["job_variables"]["env"]["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
        assert spec.parameters in ({"store": "/store"}, {})
    assert "MLFLOW_TRACKING_URI" not in _wanted(NAMED["train"], Environment())["job_variables"]["env"]


def test_a_password_is_not_put_where_the_ui_shows_it() -> None:
    for address in ("https://me:hunter2@mlflow.example.org", "https://hunter2@mlflow", "http://mlflow?token=/hunter2"):
        with pytest.raises(ConfigError, match="MLFLOW_TRACKING_PASSWORD") as error:
            Environment.named("team", {"tracking": address})
        assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("wanted", automations(Environment(), SPECS, IDS, uuid4()), ids=lambda one: one.name)
def test_an_update_of_an_automation_says_all_that_the_server_asks_for(wanted: AutomationCore) -> None:
    sent = spelt_out(wanted, enabled=False).model_dump(mode="json", exclude_unset=True)  # as Prefect's client does
    assert not AutomationUpdate.model_validate(sent).enabled
    assert AutomationCore.model_validate(sent) == wanted.model_copy(update={"enabled": False})


def test_an_empty_cron_line_means_never() -> None:
    specs = catalogue(Environment(monitor="", maintain=""), "/store")
    assert not any(spec.schedules for spec in specs)


def test_schedules_are_read_by_the_clock_of_the_environment() -> None:
    specs = catalogue(Environment(timezone="Asia/Tokyo"), "/store")
    assert {schedule.timezone for spec in specs for schedule in spec.schedules} == {"Asia/Tokyo"}


def test_jobs_on_a_cluster_ask_for_gpus_where_they_train() -> None:
    specs = catalogue(Environment.named("cluster", {**CLUSTER, "gpus_per_run": 2}), "/store")
    assert {spec.name for spec in specs if spec.gpus == 2} == {"train", "tune", "retrain"}
    assert not any(spec.gpus for spec in catalogue(Environment(gpus_per_run=2), "/store"))


def test_another_model_may_be_trained_again_while_one_is() -> None:
    assert not NAMED["retrain"].alone  # a second training of the same one refuses itself, and tells


def test_urgent_comes_before_default_before_background() -> None:
    assert QUEUES["urgent"] < QUEUES["default"] < QUEUES["background"]


def test_no_gpus_no_limit() -> None:
    assert limits(0) == ()
    assert [(one.name, one.limit) for one in limits(3)] == [("tag:learners", 3)]


def test_drift_starts_a_retraining_with_values_not_text() -> None:
    automation = by_name(Environment())["drift starts a retraining"]
    (action,) = automation.actions
    assert isinstance(action, RunDeployment)
    assert action.deployment_id == IDS["retrain"]
    told = {"retrain": {"model": "sho'es <1>", "reason": "degradation", "rule": {"min_days": 3.0}}}
    assert hydrated(action, "polychoir.drift.detected", told) == {"request": told["retrain"]}
    assert automation.trigger.expect == {"polychoir.drift.detected"}


@pytest.mark.parametrize(
    ("event", "payload", "subject", "body"),
    [
        (
            "polychoir.model.promoted",
            {"model": "shoes", "version": 3, "previous": 2, "by": "ann", "why": "better"},
            "shoes: polychoir.model.promoted",
            "version 3 (before: 2): better",
        ),
        (
            "polychoir.retrain.refused",
            {"model": "shoes", "why": "too soon"},
            "shoes: polychoir.retrain.refused",
            "too soon",
        ),
    ],
)
def test_a_notice_reads_as_a_sentence(event: str, payload: dict[str, Any], subject: str, body: str) -> None:
    automation = by_name(Environment())["a change of champion is told"]
    assert event in automation.trigger.expect
    assert hydrated(automation.actions[0], event, payload) == {"subject": subject, "body": body}


def test_a_run_counts_as_dead_after_several_missed_heartbeats() -> None:
    automation = by_name(Environment())["a run without heartbeats is crashed"]
    trigger = automation.trigger
    assert isinstance(trigger, EventTrigger)
    assert trigger.posture == Posture.Proactive
    assert trigger.within.total_seconds() >= 3 * HEARTBEAT_SECONDS
    assert isinstance(automation.actions[0], ChangeFlowRunState)


def test_a_run_whose_worker_died_before_it_began_is_crashed() -> None:
    automation = by_name(Environment())["a run that does not begin is crashed"]
    trigger, (crash,) = automation.trigger, automation.actions
    assert isinstance(trigger, EventTrigger) and isinstance(crash, ChangeFlowRunState)
    assert (trigger.after, trigger.expect) == ({"prefect.flow-run.Pending"}, {"prefect.flow-run.*"})
    assert trigger.for_each == {"prefect.resource.id"} and trigger.within.total_seconds() >= 600
    assert crash.state == StateType.CRASHED and not crash.force


def test_what_has_a_schedule_is_watched_for_standing_still() -> None:
    still = {name for name in by_name(Environment()) if name.endswith("stands still")}
    assert still == {"monitoring stands still", "maintain stands still"}


def test_a_failing_notice_is_not_told_by_another_notice() -> None:
    """Otherwise each would start the next for ever."""
    automation = by_name(Environment())["a failed run is told"]
    assert automation.trigger.match_related.root["prefect.resource.id"] == "prefect.tag.alarmed"
    assert [spec.name for spec in SPECS if not spec.alarmed] == ["notify"]


def test_with_a_block_the_server_tells_by_itself() -> None:
    block = uuid4()
    told = by_name(Environment(), block)["a change of champion is told"].actions[0]
    assert isinstance(told, SendNotification)
    assert told.block_document_id == block


def test_every_automation_is_known_again_as_ours() -> None:
    assert all(is_ours(one) for one in automations(Environment(), SPECS, IDS, None))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"timezone": "Middle/Earth"}, "time zone"),
        ({"monitor": "every day"}, "cron"),
        ({"monitors": "0 6 * * *"}, "did you mean 'monitor'"),
        ({"stale_hours": 0}, "greater than 0"),
    ],
)
def test_a_mistaken_setting_is_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Environment.named("local", given)


def test_an_unknown_environment_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="known: local, team, cluster"):
        known_name("production")


def test_the_time_zone_of_the_machine_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Environment.named("local").timezone == local_timezone()
    monkeypatch.setenv("TZ", "Europe/Berlin")
    assert local_timezone() == "Europe/Berlin"
    monkeypatch.setenv("TZ", ":/not/one")
    assert local_timezone() == "UTC"


@pytest.mark.parametrize("name", ["team", "cluster"])
def test_a_server_others_can_reach_needs_a_password(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.delenv("PREFECT_API_AUTH_STRING", raising=False)
    environment = Environment.named(known_name(name), CLUSTER if name == "cluster" else {})
    with pytest.raises(ConfigError, match=r"PREFECT_API_URL.*PREFECT_API_AUTH_STRING"):
        check_protection(environment)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    for weak in ("password", "team:", ":longenoughpassword", "team:short"):
        monkeypatch.setenv("PREFECT_API_AUTH_STRING", weak)
        with pytest.raises(ConfigError, match="12 characters"):
            check_protection(environment)


def test_nobody_can_set_that_a_server_needs_no_password() -> None:
    with pytest.raises(ConfigError, match="protected"):
        Environment.named("team", {"protected": False})
    assert Environment.named("team").protected
    assert Environment.named("cluster", CLUSTER).protected


def test_this_machine_alone_needs_none() -> None:
    check_protection(Environment.named("local"))
