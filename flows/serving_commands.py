"""The command that lets a model answer over HTTP: serve."""

import logging
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from flows.console import DEFAULT_STORE, AsJson, Store, Verbose, errors_shown, facts, print_json, request_of, screen
from training_core.quantities import format_bytes

if TYPE_CHECKING:
    from training_core.serving.config import ServingConfig
    from training_core.serving.current import Served

app = typer.Typer()


@app.command(
    epilog="Examples: polychoir serve shoes  ·  polychoir serve models:/shoes/3 --port 0 --json  ·  "
    "polychoir serve shoes --host 0.0.0.0 --token-env SHOES_TOKEN --allow-host models.example.org"
)
def serve(
    model: Annotated[
        str,
        typer.Argument(
            help="A model's name (its champion, followed when another is promoted), NAME@ALIAS, models:/NAME/VERSION, "
            "or an ensemble's folder.",
            metavar="MODEL",
        ),
    ],
    port: Annotated[int | None, typer.Option("--port", help="0: any that is free.", show_default="8770")] = None,
    host: Annotated[
        str | None,
        typer.Option(
            "--host", help="Address to listen on; others than this machine's need a token.", show_default="127.0.0.1"
        ),
    ] = None,
    max_rows: Annotated[
        int | None, typer.Option("--max-rows", help="Rows in one request.", show_default="1024")
    ] = None,
    max_bytes: Annotated[
        int | None, typer.Option("--max-bytes", help="Length of one request.", show_default="16000000")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", help="For one request.", metavar="SECONDS", show_default="30")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Requests answered at the same time.", show_default="1")
    ] = None,
    check_every: Annotated[
        float | None,
        typer.Option("--check-every", help="Look for a new version so often.", metavar="SECONDS", show_default="10"),
    ] = None,
    token_env: Annotated[
        str | None,
        typer.Option("--token-env", help="Environment variable with the token requests must bring.", metavar="NAME"),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", help="Also answer requests for this host name. Repeatable.", metavar="NAME"),
    ] = None,
    store: Store = DEFAULT_STORE,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Let a model answer over HTTP, on this machine alone unless told otherwise. Ends with Ctrl-C or SIGTERM."""
    given = {
        "port": port,
        "host": host,
        "max_rows": max_rows,
        "max_bytes": max_bytes,
        "timeout_seconds": timeout,
        "workers": workers,
        "check_seconds": check_every,
        "token_env": token_env,
        "allowed_hosts": tuple(allow_host) if allow_host else None,
    }
    with errors_shown(as_json, verbose):
        from training_core.campaigns.serving import RegisteredModel
        from training_core.serving.config import ServingConfig
        from training_core.serving.current import CurrentModel
        from training_core.serving.server import run_server

        config = request_of(ServingConfig, given, None, "serve")
        config.token()  # before a model is read
        console = screen(stderr=True)
        with console.status(f"reading {model}"):
            current = CurrentModel(RegisteredModel(model, store.resolve()))
        _log_to_stderr(verbose)

        def ready(address: str) -> None:
            if as_json:
                print_json({"url": address, "model": current.now.uri})
            else:
                show_served(console, current.now, config, address)

        run_server(current, config, ready)
        if not as_json:
            console.print("stopped", style="dim")


def show_served(console: Console, served: "Served", config: "ServingConfig", address: str) -> None:
    """Where the model answers, and within which limits."""
    grid = facts()
    grid.add_row("model", Text(served.uri, style="bold green"))
    grid.add_row("answers at", Text(f"{address}/predict", style="cyan"))
    grid.add_row("explained at", Text(f"{address}/docs", style="cyan"))
    limits = f"{config.max_rows:,} rows, {format_bytes(config.max_bytes)}, {config.timeout_seconds:g} s a request"
    grid.add_row("limits", limits)
    grid.add_row("asks for", f"the token in ${config.token_env}" if config.token_env else "nothing: this machine only")
    console.print(grid)


def _log_to_stderr(verbose: bool) -> None:
    """A line per request, and what happens to the model."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger: Any = logging.getLogger() if verbose else logging.getLogger("training_core.serving")
    logger.addHandler(handler)
    logging.getLogger("training_core.serving").setLevel(logging.INFO)
