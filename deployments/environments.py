"""Where the deployments live: one machine, a team's server, or a cluster; what differs between them, as values."""

import os
import zoneinfo
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import pydantic
from pydantic import AfterValidator, model_validator

from training_core.addresses import holds_secret
from training_core.config import Config, explain
from training_core.errors import ConfigError, TransientError
from training_core.quantities import NonNegativeInt, PositiveFloat, PositiveInt

EnvironmentName = Literal["local", "team", "cluster"]
MIN_PASSWORD = 12
"""Characters of a password at least; nothing but the network slows down whoever guesses it."""


def _known_timezone(name: str) -> str:
    try:
        zoneinfo.ZoneInfo(name)
    except (ValueError, zoneinfo.ZoneInfoNotFoundError):
        raise ValueError("no such time zone; expected a name such as Europe/Berlin, or UTC") from None
    return name


def _cron_line(text: str) -> str:
    from prefect.client.schemas.schedules import CronSchedule

    try:
        return text and CronSchedule(cron=text).cron
    except ValueError:
        raise ValueError("no such cron line; expected five fields such as 0 6 * * *, or nothing for never") from None


TimeZone = Annotated[str, AfterValidator(_known_timezone)]
"""A name of the time zone database."""
CronLine = Annotated[str, AfterValidator(_cron_line)]
"""Minute, hour, day of the month, month, day of the week; empty for never."""


class Environment(Config):
    """One place to deploy to. The name is its identity; everything else may be set."""

    name: EnvironmentName = "local"
    pool_kind: Literal["process", "kubernetes"] = "process"
    """What a worker starts for each run: a process of its own, or a Kubernetes job."""
    image: str = ""
    """Image of a Kubernetes job, with Polychoir in it; not needed for processes."""
    store: str = ""
    """Folder of the store as the workers see it; empty: the one the command is given."""
    tracking: str = ""
    """Address of MLflow as the runs see it, without a password: those come from a worker's own environment. By default
    whatever `MLFLOW_TRACKING_URI` says there, else a database in the store, which jobs of a cluster cannot share."""
    timezone: TimeZone = "UTC"
    """Whose clock the cron lines are read by; daylight saving included."""
    monitor: CronLine = "0 6 * * *"
    """When each model with a champion is monitored."""
    maintain: CronLine = "30 3 * * *"
    """When the store is tidied up."""
    stale_hours: PositiveFloat = 26.0
    """A schedule of which no run was completed for so many hours raises an alarm; a little more than a period."""
    gpu_slots: NonNegativeInt | None = None
    """Groups of learners that train at a time, over all runs; by default one per GPU of this machine for the local
    environment, unless there is a limit already. 0: no limit, and one that is there goes. Where there is no GPU, and in
    the other environments, nothing is set."""
    gpus_per_run: NonNegativeInt = 0
    """GPUs of a Kubernetes job that trains; processes use those of their machine."""
    max_runs: PositiveInt | None = None
    """Flow runs at a time, over all workers of the pool; no limit by default."""
    notify: str = ""
    """`type/name` of a Prefect notification block, such as slack-webhook/operators, that the server tells what happens.
    By default notices are written by a run on the worker: to its log and as an artefact."""

    @property
    def protected(self) -> bool:
        """Whether others can reach the server: it must then ask for a password and for CSRF tokens."""
        return self.name != "local"

    @model_validator(mode="after")
    def _is_tracked(self) -> Self:
        if self.pool_kind == "kubernetes" and not self.tracking:
            raise ValueError(
                "its jobs share no database; set tracking=http://… to the address of MLflow as they see it"
            )
        if holds_secret(self.tracking):
            raise ValueError(
                "`tracking` holds a password, which the Prefect UI would show; give MLFLOW_TRACKING_PASSWORD, or "
                "MLFLOW_TRACKING_TOKEN"
            )
        return self

    @classmethod
    def named(cls, name: EnvironmentName, given: Mapping[str, Any] | None = None) -> Self:
        """The environment of that name, with `given` values over its own.

        Raises:
            ConfigError: one line naming the key, what was got and what was expected.
        """
        own: dict[str, Any] = {
            "local": {"timezone": local_timezone()},
            "team": {"store": "/store"},
            "cluster": {
                "store": "/store",
                "pool_kind": "kubernetes",
                "image": "polychoir:latest",
                "gpus_per_run": 1,
            },
        }[name]
        try:
            return cls.model_validate({**own, **(given or {}), "name": name})
        except pydantic.ValidationError as error:
            raise ConfigError(f"environment {name}: {explain(error, cls)}") from None


def known_name(name: str) -> EnvironmentName:
    """The name of an environment, once it is known to be one.

    Raises:
        ConfigError: there is no environment of that name.
    """
    for known in get_args(EnvironmentName):
        if name == known:
            return known
    raise ConfigError(f"environment '{name}' is unknown; known: {', '.join(get_args(EnvironmentName))}")


def local_timezone() -> str:
    """The time zone of this machine, as the database of time zones names it; UTC when it cannot be told."""
    if found := os.environ.get("TZ"):
        return found if found in zoneinfo.available_timezones() else "UTC"
    parts = Path("/etc/localtime").resolve().parts
    name = "/".join(parts[parts.index("zoneinfo") + 1 :]) if "zoneinfo" in parts else "UTC"
    return name if name in zoneinfo.available_timezones() else "UTC"


def check_protection(environment: Environment) -> None:
    """Ask a server that others can reach whether it turns away those without a password and those without a CSRF token.

    Raises:
        ConfigError: the server's address or the password is not in the environment variables, the password is short, or
            the server is open.
        TransientError: the server does not answer.
    """
    if not environment.protected:
        return
    wanted = {
        "PREFECT_API_URL": "the address of the server, such as https://prefect.example.org/api",
        "PREFECT_API_AUTH_STRING": "user:password, the same as PREFECT_SERVER_API_AUTH_STRING of the server",
    }
    if missing := [f"{name} ({why})" for name, why in wanted.items() if not os.environ.get(name)]:
        raise ConfigError(f"the {environment.name} environment can be reached by others; set {' and '.join(missing)}")
    user, colon, password = os.environ["PREFECT_API_AUTH_STRING"].partition(":")
    if not (user and colon and len(password) >= MIN_PASSWORD):
        raise ConfigError(
            f"PREFECT_API_AUTH_STRING must be user:password with at least {MIN_PASSWORD} characters of password"
        )
    url = os.environ["PREFECT_API_URL"].rstrip("/")
    # A request that reads needs the password and no token; one that is posted needs both.
    if _status("GET", f"{url}/admin/version") == 200:
        raise ConfigError(f"{url} answers without a password; set PREFECT_SERVER_API_AUTH_STRING where it runs")
    if (status := _status("GET", f"{url}/admin/version", (user, password))) != 200:
        raise ConfigError(f"{url} does not know this password (HTTP {status}); see PREFECT_API_AUTH_STRING")
    if _status("POST", f"{url}/flows/count", (user, password)) != 403:
        raise ConfigError(
            f"{url} asks for no CSRF token; set PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED=true where it runs"
        )


def _status(method: str, url: str, login: tuple[str, str] | None = None) -> int:
    """What a request that changes nothing is answered with, sent without a CSRF token."""
    import httpx

    try:
        return httpx.request(method, url, json={} if method == "POST" else None, auth=login, timeout=20).status_code
    except httpx.HTTPError as error:
        raise TransientError(f"{url} does not answer ({error}); is PREFECT_API_URL right, and the server up?") from None
