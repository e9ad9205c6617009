"""The command that keeps a store from growing without end: maintain."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.console import DEFAULT_STORE, AsJson, Sets, Store, Verbose, errors_shown, print_json, request_of, screen
from training_core.errors import ConfigError

if TYPE_CHECKING:
    from training_core.campaigns.maintenance import RetentionConfig, TidyReport

app = typer.Typer()


@app.command(epilog="Examples: polychoir maintain --dry-run  ·  polychoir maintain --set cache_days=7")
def maintain(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, remove nothing.")] = False,
    store: Store = DEFAULT_STORE,
    sets: Sets = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Remove what is old and what nothing refers to: learners, ensembles, reports, results, runs, leftovers.

    What a registered model needs stays. Settings: cache_days (30), history_days (365), flow_run_days (30).
    """
    with errors_shown(as_json, verbose):
        from training_core.campaigns.maintenance import RetentionConfig

        request = request_of(RetentionConfig, {"dry_run": dry_run or None}, sets, "maintain")
        if not store.is_dir():
            raise ConfigError(f"there is no store in {store}; name its folder with --store")
        console = screen(stderr=as_json)
        report = _run_flow(request, store.resolve(), console, verbose)
        if as_json:
            print_json(report, num_bytes=report.num_bytes)
            return
        show_tidying(console, report)


def show_tidying(console: Console, report: "TidyReport") -> None:
    """What went as a table, then all of it in a line."""
    if report.tidied:
        table = Table(box=SIMPLE_HEAD)
        table.add_column("what")
        table.add_column("number", justify="right")
        table.add_column("size", justify="right")
        table.add_column("for example", overflow="ellipsis", no_wrap=True, style="dim")
        for row in report.rows():
            table.add_row(*(Text(str(value)) for value in row.values()))
        console.print(table)
    for problem in report.problems:
        console.print(Text(problem, style="yellow"), soft_wrap=True)
    console.print(report.sentence())


def _run_flow(request: "RetentionConfig", store: Path, console: Console, verbose: bool) -> "TidyReport":
    from flows.runtime import run_flow
    from flows.screen import TrainingView

    def start() -> Any:
        from flows.maintain import maintain_store

        return maintain_store(request, str(store), return_state=True)

    with TrainingView(console).live() as view:
        return run_flow(start, view, store, (), verbose)
