"""What is deployed: every flow under a name, with its queue, defaults and schedules. Values, no side effects."""

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from deployments.environments import CronLine, Environment, TimeZone
from training_core.config import Config
from training_core.quantities import NonNegativeInt, PositiveInt

if TYPE_CHECKING:
    from prefect import Flow

POOL = "polychoir"
TAG = "polychoir"
"""What marks everything that was deployed from here, so that what is no longer listed can be removed."""

Queue = Literal["urgent", "default", "background"]
QUEUES: Mapping[Queue, int] = {"default": 5, "urgent": 1, "background": 10}
"""Priority of each queue, 1 first. `default` comes with the pool, and at priority 1: it has to make room first."""


LEARNERS_LIMIT = "tag:learners"
"""The limit that training a group of learners is counted by; its tasks carry the tag `learners`."""
HEARTBEAT_SECONDS = 30
"""How often a flow run says that it lives; the shortest Prefect allows."""
RUN_SETTINGS: Mapping[str, str] = {
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
    "PREFECT_LOGGING_EXTRA_LOGGERS": "training_core",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_CLASS": "tasks.run_log.WorkersLog",
    # Its default is pickle: whoever can write a result would run code in who reads it.
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""Environment variables of every deployed run, wherever it runs."""


class ScheduleSpec(Config):
    """When a deployment runs by itself, and with which parameters."""

    slug: str
    """Identity of the schedule within its deployment."""
    cron: CronLine
    timezone: TimeZone
    parameters: Mapping[str, Any] = {}


class DeploymentSpec(Config):
    """A flow that can be started from the Prefect UI, by a schedule, by an automation or through the REST API."""

    entrypoint: str
    """Dotted path of the flow; the package is installed where workers run, so that no checkout is needed."""
    name: str
    """Name beside the flow's own: `train` of `train-ensemble/train`."""
    queue: Queue = "default"
    parameters: Mapping[str, Any] = {}
    """Defaults of the form."""
    schedules: tuple[ScheduleSpec, ...] = ()
    alone: bool = False
    """Whether a run is cancelled while another one of this deployment goes on."""
    gpus: NonNegativeInt = 0
    """GPUs of a Kubernetes job; a process uses those of its machine."""
    alarmed: bool = True
    """Whether a run of it that fails is told; not so of the one that tells, which would go round for ever."""

    def flow(self) -> "Flow[..., Any]":
        """The flow itself."""
        module, _, attribute = self.entrypoint.rpartition(".")
        return getattr(import_module(module), attribute)


class LimitSpec(Config):
    """How many tasks of a tag run at a time, over all flow runs of a server."""

    name: str
    """`tag:` and the tag, as the server names limits of tags."""
    limit: PositiveInt


def catalogue(environment: Environment, store: str) -> tuple[DeploymentSpec, ...]:
    """Every deployment of an environment.

    Args:
        environment: where to.
        store: folder of the store as the workers see it.
    """
    place = {"store": store}
    gpus = environment.gpus_per_run if environment.pool_kind == "kubernetes" else 0

    def on_schedule(slug: str, cron: str) -> tuple[ScheduleSpec, ...]:
        one = ScheduleSpec(slug=slug, cron=cron, timezone=environment.timezone, parameters=place)
        return (one,) if cron else ()

    return (
        DeploymentSpec(entrypoint="flows.train_ensemble.train_ensemble", name="train", parameters=place, gpus=gpus),
        DeploymentSpec(
            entrypoint="flows.tune.tune_ensemble", name="tune", queue="background", parameters=place, gpus=gpus
        ),
        DeploymentSpec(entrypoint="flows.evaluate.evaluate_model", name="evaluate", parameters=place),
        DeploymentSpec(entrypoint="flows.prepare_data.prepare_data_flow", name="prepare", parameters=place),
        DeploymentSpec(entrypoint="flows.export.export_model", name="export", parameters=place),
        DeploymentSpec(entrypoint="flows.monitor.monitor_model", name="monitor", queue="urgent", parameters=place),
        # Which models have a champion is asked when it runs, where it runs: the first one is watched from then on.
        DeploymentSpec(
            entrypoint="flows.monitor.monitor_champions",
            name="monitoring",
            queue="urgent",
            parameters=place,
            schedules=on_schedule("daily", environment.monitor),
            alone=True,
        ),
        # Not `alone`: a second one of the same model refuses itself and tells; another model may be trained meanwhile.
        DeploymentSpec(entrypoint="flows.retrain.retrain_model", name="retrain", parameters=place, gpus=gpus),
        DeploymentSpec(entrypoint="flows.promote.promote_model", name="promote", queue="urgent", parameters=place),
        DeploymentSpec(entrypoint="flows.promote.rollback_model", name="rollback", queue="urgent", parameters=place),
        DeploymentSpec(
            entrypoint="flows.maintain.maintain_store",
            name="maintain",
            queue="background",
            parameters=place,
            schedules=on_schedule("nightly", environment.maintain),
            alone=True,
        ),
        DeploymentSpec(entrypoint="flows.notify.notify", name="notify", queue="urgent", alarmed=False),
    )


def limits(gpu_slots: int) -> tuple[LimitSpec, ...]:
    """Limits by tag: groups of learners, one per GPU, so that no more wait at a machine than it can train."""
    return (LimitSpec(name=LEARNERS_LIMIT, limit=gpu_slots),) if gpu_slots else ()
