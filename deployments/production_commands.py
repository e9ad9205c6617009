"""The commands that let a store work by itself: up and deploy."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.console import DEFAULT_STORE, AsJson, Store, Verbose, errors_shown, print_json, screen
from training_core.errors import ConfigError

if TYPE_CHECKING:
    from deployments.apply import Applied
    from deployments.environments import EnvironmentName
    from deployments.up import Addresses

app = typer.Typer()

EnvironmentSets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change the environment, e.g. timezone=UTC. Repeatable."),
]
_COLOURS = {"created": "green", "updated": "yellow", "unchanged": "dim", "removed": "red"}


@app.command(epilog="Example: polychoir up --store /data/polychoir")
def up(
    port: Annotated[
        int | None,
        typer.Option("--port", min=1, max=65535, help="Of the Prefect server.", show_default="4200, or a free one"),
    ] = None,
    mlflow_port: Annotated[
        int | None,
        typer.Option("--mlflow-port", min=1, max=65535, help="Of MLflow's pages.", show_default="5000, or a free one"),
    ] = None,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Flow runs at a time.")] = 4,
    sets: EnvironmentSets = None,
    store: Store = DEFAULT_STORE,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Run a Prefect server, a worker and MLflow's pages on this machine, with everything deployed; Ctrl-C stops all."""
    with errors_shown(as_json, verbose):
        from deployments.up import UpConfig
        from deployments.up import up as bring_up
        from training_core.settings import parse_overrides

        console = screen(stderr=True)

        def ready(addresses: "Addresses") -> None:
            if as_json:
                print_json(addresses)
            _show_addresses(console, addresses)

        config = UpConfig(port=port, mlflow_port=mlflow_port, runs=runs)
        bring_up(
            store.resolve(),
            config,
            lambda line: console.print(Text(line, style="dim")),
            ready,
            parse_overrides(sets or []),
        )
        console.print("stopped")


@app.command(
    epilog="Examples: polychoir deploy  ·  polychoir deploy --set timezone=Europe/Berlin --set monitor='0 7 * * 1-5'"
    "  ·  polychoir deploy --environment team --prune"
)
def deploy(
    environment: Annotated[
        str, typer.Option("--environment", "-e", help="local, team or cluster.", metavar="NAME")
    ] = "local",
    sets: EnvironmentSets = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Also remove what was deployed earlier and is not any more.")
    ] = False,
    store: Store = DEFAULT_STORE,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Put deployments, schedules, limits and automations on a Prefect server; what is there already stays as it is.

    The server is that of PREFECT_API_URL, else the store's own, whether it is up or not.
    """
    with errors_shown(as_json, verbose):
        from deployments.environments import known_name
        from training_core.settings import parse_overrides

        name, given = known_name(environment), parse_overrides(sets or [])
        if name != "local" and store != DEFAULT_STORE:
            given.setdefault("store", str(store.absolute()))  # where it is for the workers, link or not
        console = screen(stderr=as_json)
        with console.status("deploying"):
            applied = _deployed(name, given, store.resolve(), prune, verbose)
        if as_json:
            print_json(applied)
            return
        show_applied(console, applied)


def _deployed(name: "EnvironmentName", given: dict[str, Any], store: Path, prune: bool, verbose: bool) -> "Applied":
    """Apply to the server of `PREFECT_API_URL`, else to the store's own, which is started for it when none runs."""
    from flows.runtime import prefect_at

    if name != "local" and not os.environ.get("PREFECT_API_URL"):
        # Said before a server of the store's own is started for nothing.
        raise ConfigError(f"the {name} environment has a server of its own; set PREFECT_API_URL to its address")
    with prefect_at(store, verbose):
        from deployments.apply import apply
        from deployments.environments import Environment

        return apply(Environment.named(name, given), store, prune)


def show_applied(console: Console, applied: "Applied") -> None:
    """What was done, thing by thing; of what was left alone only the number."""
    table = Table("", "", "", box=None, show_header=False)
    for change in applied.changes:
        if change.action != "unchanged":
            table.add_row(Text(change.action, style=_COLOURS[change.action]), change.kind, change.name)
    if table.row_count:
        console.print(table)
    counts = {action: applied.count(action) for action in ("created", "updated", "removed", "unchanged")}
    told = ", ".join(f"{number} {action}" for action, number in counts.items() if number)
    console.print(f"{applied.environment} at {applied.server}: {told}")


def _show_addresses(console: Console, addresses: "Addresses") -> None:
    table = Table("", "", box=None, show_header=False)
    table.add_row("Prefect", addresses.prefect)
    # Not into the log of whoever runs it as a service.
    password = Path(addresses.login).read_text() if console.is_terminal else f"in {addresses.login}"
    table.add_row("asks for", Text(password))
    table.add_row("MLflow", addresses.mlflow)
    table.add_row("to stop", f"Ctrl-C, or kill {addresses.pid}")
    console.print(table)
