"""The one side effect of this package: making a Prefect server hold exactly what the catalogue says.

Name is identity. What is there and as it should be is left alone, so applying twice changes nothing. What people
switched off in the UI (a paused deployment or schedule, a disabled automation) stays as they left it.
"""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from deployments.catalogue import (
    LEARNERS_LIMIT,
    POOL,
    QUEUES,
    RUN_SETTINGS,
    TAG,
    DeploymentSpec,
    catalogue,
    limits,
)
from deployments.environments import Environment, check_protection
from deployments.forms import form_schema
from training_core.config import Config
from training_core.errors import ConfigError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.schemas.automations import AutomationCore

CONTAINERS = Path(__file__).parent / "containers"
Outcome = Literal["created", "updated", "unchanged", "removed"]


class Change(Config):
    """What became of one thing on the server."""

    kind: Literal["pool", "queue", "limit", "deployment", "automation"]
    name: str
    action: Outcome


class Applied(Config):
    """What an `apply` did, thing by thing."""

    environment: str
    server: str
    """Address of the API."""
    changes: tuple[Change, ...]

    def count(self, action: Outcome) -> int:
        """How many things that became of."""
        return sum(change.action == action for change in self.changes)


def apply(environment: Environment, store: Path, prune: bool = False) -> Applied:
    """Make the server of `PREFECT_API_URL` hold the pool, queues, limits, deployments and automations it should.

    Args:
        environment: where to.
        store: the one that the runs work in, unless the environment names another.
        prune: also remove what was deployed from here earlier and is not in the catalogue any more.

    Raises:
        ConfigError: a protected environment without its password, an open server, an unknown notification block, or a
            pool of another kind.
        TransientError: the server of a protected environment does not answer.
    """
    from prefect.client.orchestration import get_client

    check_protection(environment)
    specs = catalogue(environment, environment.store or str(store))
    with get_client(sync_client=True) as client:
        server = _Server(client, prune)
        server.put_pool(environment)
        server.put_queues()
        server.put_limits(environment)
        ids = {spec.name: server.put_deployment(spec, environment) for spec in specs}
        server.put_automations(environment, specs, ids)
        server.remove_deployments(keep=set(ids.values()))
        return Applied(environment=environment.name, server=str(client.api_url), changes=tuple(server.changes))


def detected_gpus() -> int:
    """How many GPUs this process may use."""
    from training_core.isolation import gpu_names

    return len(gpu_names())


class _Server:
    """One pass over a server: what is done to it, and a note of each."""

    def __init__(self, client: "SyncPrefectClient", prune: bool) -> None:
        self._client = client
        self._prune = prune
        self.changes: list[Change] = []

    def put_pool(self, environment: Environment) -> None:
        """The work pool all runs go through."""
        from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
        from prefect.exceptions import ObjectNotFound

        wanted: dict[str, Any] = {
            "description": "Runs of Polychoir.",
            "concurrency_limit": environment.max_runs,
        }
        if environment.pool_kind == "kubernetes":
            wanted["base_job_template"] = kubernetes_template(environment.image)
        try:
            found = self._client.read_work_pool(POOL)
        except ObjectNotFound:
            self._client.create_work_pool(WorkPoolCreate(name=POOL, type=environment.pool_kind, **wanted))
            return self._note("pool", POOL, "created")
        if found.type != environment.pool_kind:
            raise ConfigError(
                f"the server has a work pool '{POOL}' of kind {found.type}, and the {environment.name} environment "
                f"needs {environment.pool_kind}; delete the pool in the Prefect UI, or set pool_kind={found.type}"
            )
        same = all(getattr(found, key) == value for key, value in wanted.items())
        if not same:
            self._client.update_work_pool(POOL, WorkPoolUpdate(**wanted))
        return self._note("pool", POOL, "unchanged" if same else "updated")

    def put_queues(self) -> None:
        """The queues of the pool, by priority; those that people added stay."""
        there = {queue.name: queue for queue in self._client.read_work_queues(work_pool_name=POOL)}
        for name, priority in QUEUES.items():
            if (found := there.get(name)) is None:
                self._client.create_work_queue(name, priority=priority, work_pool_name=POOL)
            elif found.priority != priority:
                self._client.update_work_queue(found.id, priority=priority)
            self._note("queue", name, _outcome(found is not None, found is not None and found.priority == priority))

    def put_limits(self, environment: Environment) -> None:
        """Limits of tasks by tag; one that is there stays unless another, or none, is asked for in so many words."""
        slots = environment.gpu_slots
        wanted = limits((detected_gpus() if environment.name == "local" else 0) if slots is None else slots)
        there = {one.name: one for one in self._client.read_global_concurrency_limits(limit=200)}
        for spec in wanted:
            found = there.get(spec.name)
            same = found is not None and (slots is None or (found.limit == spec.limit and found.active))
            if not same:
                self._client.upsert_global_concurrency_limit_by_name(spec.name, spec.limit)
            self._note("limit", spec.name, _outcome(found is not None, same))
        if LEARNERS_LIMIT in there and slots == 0:
            self._client.delete_global_concurrency_limit_by_name(LEARNERS_LIMIT)
            self._note("limit", LEARNERS_LIMIT, "removed")

    def put_deployment(self, spec: DeploymentSpec, environment: Environment) -> UUID:
        """A deployment under its name; its id stays when it is there already."""
        from prefect.client.schemas.actions import DeploymentScheduleCreate
        from prefect.exceptions import ObjectNotFound

        flow = spec.flow()
        name = f"{flow.name}/{spec.name}"
        wanted = _wanted(spec, environment)
        try:
            found = self._client.read_deployment_by_name(name)
        except ObjectNotFound:
            found = None
        active: Mapping[str | None, bool] = {}
        if found is not None:
            there = json.loads(found.model_dump_json())
            if all(_there(there, key) == value for key, value in wanted.items()):
                self._note("deployment", name, "unchanged")
                return found.id
            active = {schedule.slug: schedule.active for schedule in found.schedules}
        schedules = [
            DeploymentScheduleCreate.model_validate({**schedule, "active": active.get(schedule["slug"], True)})
            for schedule in wanted.pop("schedules")
        ]
        deployment = self._client.create_deployment(
            self._client.create_flow(flow), spec.name, schedules=schedules, **wanted
        )
        self._note("deployment", name, _outcome(found is not None, False))
        return deployment

    def put_automations(
        self, environment: Environment, specs: Sequence[DeploymentSpec], ids: Mapping[str, UUID]
    ) -> None:
        """Every automation under its name; copies of one are removed."""
        from deployments.automations import automations, is_ours

        there = [automation for automation in self._client.read_automations() if is_ours(automation)]
        listed = automations(environment, specs, ids, self._block(environment.notify))
        for wanted in listed:
            same_name = [one for one in there if one.name == wanted.name]
            for copy in same_name[1:]:
                self._client.delete_automation(copy.id)
            if not same_name:
                self._client.create_automation(wanted)
                self._note("automation", wanted.name, "created")
                continue
            found = same_name[0]
            if not (same := _plain(found) == _plain(wanted)):
                self._client.update_automation(found.id, spelt_out(wanted, found.enabled))
            self._note("automation", wanted.name, _outcome(True, same))
        names = {wanted.name for wanted in listed}
        for stray in there:  # what a schedule that is not there any more had raised, too
            if stray.name not in names:
                self._client.delete_automation(stray.id)
                self._note("automation", stray.name, "removed")

    def remove_deployments(self, keep: set[UUID]) -> None:
        """With `prune`, deployments that were made from here and are not wanted any more."""
        from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags

        if not self._prune:
            return
        ours = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG]))
        for found in self._client.read_deployments(deployment_filter=ours):
            if found.id not in keep:
                self._client.delete_deployment(found.id)
                self._note("deployment", found.name, "removed")

    def _block(self, notify: str) -> UUID | None:
        """The id of a notification block by `type/name`."""
        from prefect.exceptions import ObjectNotFound

        if not notify:
            return None
        kind, _, name = notify.partition("/")
        try:
            return self._client.read_block_document_by_name(name, kind).id
        except ObjectNotFound:
            raise ConfigError(
                f"notify={notify}: the server has no such block; make one in the Prefect UI under Blocks, and name it "
                "as type/name, such as slack-webhook/operators"
            ) from None

    def _note(self, kind: Any, name: str, action: Outcome) -> None:
        self.changes.append(Change(kind=kind, name=name, action=action))


def kubernetes_template(image: str) -> dict[str, Any]:
    """The base job template of a Kubernetes pool, with the image filled in."""
    template = json.loads((CONTAINERS / "kubernetes-job-template.json").read_text())
    template["variables"]["properties"]["image"]["default"] = image
    return template


def spelt_out(automation: "AutomationCore", enabled: bool) -> "AutomationCore":
    """An automation with every field set, as an update of one needs it.

    Prefect's client sends what was set and leaves defaults out; its server has none for the fields of a trigger. An
    owner, which only a creation may name, stays unset.
    """
    return type(automation).model_validate({**automation.model_dump(exclude={"owner_resource"}), "enabled": enabled})


def _wanted(spec: DeploymentSpec, environment: Environment) -> dict[str, Any]:
    """What the server should hold of a deployment, in JSON, by the names `create_deployment` has for it."""
    from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions

    flow = spec.flow()
    alone = ConcurrencyOptions(collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
    settings = {**RUN_SETTINGS, **({"MLFLOW_TRACKING_URI": environment.tracking} if environment.tracking else {})}
    return {
        "description": flow.description,
        "version": version("polychoir"),
        "entrypoint": spec.entrypoint,
        "work_pool_name": POOL,
        "work_queue_name": spec.queue,
        "tags": [TAG, "alarmed"] if spec.alarmed else [TAG],
        "parameters": dict(spec.parameters),
        "parameter_openapi_schema": form_schema(flow),
        "enforce_parameter_schema": True,
        "job_variables": {"env": settings, **({"gpus": str(spec.gpus)} if spec.gpus else {})},
        "concurrency_limit": 1 if spec.alone else None,
        "concurrency_options": alone if spec.alone else None,
        "schedules": [
            {
                "slug": schedule.slug,
                "schedule": {"cron": schedule.cron, "timezone": schedule.timezone, "day_or": True},
                "parameters": dict(schedule.parameters),
            }
            for schedule in sorted(spec.schedules, key=lambda one: one.slug)
        ],
    }


def _there(found: Mapping[str, Any], key: str) -> Any:
    """What a server holds of a deployment, in the form of `_wanted`."""
    if key == "concurrency_limit":
        return (found["global_concurrency_limit"] or {}).get("limit")
    if key == "schedules":
        kept = ("slug", "schedule", "parameters")
        return sorted(({name: one[name] for name in kept} for one in found[key]), key=lambda one: str(one["slug"]))
    return found[key]


def _plain(automation: Any) -> dict[str, Any]:
    """An automation without what the server adds and people switch; sets compare whatever their order."""
    return automation.model_dump(exclude={"id", "enabled", "created", "updated", "owner_resource"})


def _outcome(there: bool, same: bool) -> Outcome:
    if not there:
        return "created"
    return "unchanged" if same else "updated"
