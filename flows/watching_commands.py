"""The commands that watch a model in production and train it again: monitor, retrain."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.console import (
    DEFAULT_STORE,
    AsJson,
    Sets,
    Store,
    Verbose,
    errors_shown,
    facts,
    print_json,
    request_of,
    screen,
)

if TYPE_CHECKING:
    from training_core.campaigns.watching.monitor import MonitorConfig, MonitorReport
    from training_core.campaigns.watching.retraining import RetrainConfig, RetrainReport

app = typer.Typer()

_CHECKS_SHOWN = 12
_STYLES = {"drift": "bold red", "warning": "yellow", "ok": "bold green", "insufficient_data": "dim"}
Model = Annotated[
    str,
    typer.Argument(
        help="A model's name (its champion), NAME@ALIAS, models:/NAME/VERSION, or a folder.", metavar="MODEL"
    ),
]


@app.command(
    epilog="Examples: polychoir monitor shoes  ·  polychoir monitor shoes november.csv --label November  ·  "
    "polychoir monitor shoes --set drift.reference=rolling"
)
def monitor(
    model: Model,
    rows_from: Annotated[
        str | None,
        typer.Argument(
            help="A dataset, or a file of rows (csv, tsv, jsonl, parquet, npz) without answers.  "
            "By default the latest version of the data it was trained on.",
            metavar="[ROWS]",
        ),
    ] = None,
    rows: Annotated[
        str | None,
        typer.Option(
            "--rows",
            help="new: rows that came after the model and were in no earlier window; all; test.",
            show_default="new",
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option("--label", help="What the window is called; one seen before is not counted again."),
    ] = None,
    season: Annotated[
        str | None, typer.Option("--season", help="What it is compared within, under a seasonal reference.")
    ] = None,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Train the model again at once when that is called for.")
    ] = False,
    store: Store = DEFAULT_STORE,
    sets: Sets = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Compare what a model meets with what it was made for: features, gaps, answers, confidence, score."""
    with errors_shown(as_json, verbose):
        from training_core.campaigns.watching.monitor import MonitorConfig
        from training_core.campaigns.watching.retraining import called_for

        given = {"model": model, "dataset": rows_from, "rows": rows, "label": label, "season": season}
        request = request_of(MonitorConfig, given, sets, "monitor")
        console = screen(stderr=as_json)
        report = _monitor(request, store.resolve(), console, verbose)
        again = None
        if retrain and report.retrain.retrain:
            again = _retrain(called_for(request, report), store.resolve(), console, verbose)
        if as_json:
            print_json(report, **({"retrained": json.loads(again.model_dump_json())} if again else {}))
            return
        show_monitoring(console, report)
        if again is not None:
            show_retraining(console, again)


@app.command(
    epilog="Examples: polychoir retrain shoes  ·  polychoir retrain shoes --promote ask  ·  "
    "polychoir retrain shoes --force --set recent_rows=5000"
)
def retrain(
    model: Model,
    dataset: Annotated[
        str | None,
        typer.Argument(help="A version of its data, name@version.  By default the latest.", metavar="[DATASET]"),
    ] = None,
    reason: Annotated[str | None, typer.Option("--reason", help="What it is for; kept with what comes of it.")] = None,
    promote: Annotated[
        str | None,
        typer.Option(
            "--promote",
            help="if_better: take over when better on fresh rows; ask, never: wait for `polychoir promote`.",
            show_default="if_better",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Also in the cool-down, or when nothing is new.")] = False,
    store: Store = DEFAULT_STORE,
    sets: Sets = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Train a model again on what is new; it takes over when it is better on rows that neither has seen."""
    with errors_shown(as_json, verbose):
        from training_core.campaigns.watching.retraining import RetrainConfig

        given = {"model": model, "dataset": dataset, "reason": reason, "promote": promote, "force": force or None}
        request = request_of(RetrainConfig, given, sets, "retrain")
        console = screen(stderr=as_json)
        report = _retrain(request, store.resolve(), console, verbose)
        if as_json:
            print_json(report)
            return
        show_retraining(console, report)


def show_monitoring(console: Console, report: "MonitorReport") -> None:
    """What moved as a table, then what is confirmed and called for in a few lines."""
    serious = report.drift.of("drift", "warning")[:_CHECKS_SHOWN] if report.drift else ()
    if serious:
        table = Table(title="What moved", title_justify="left", title_style="bold", box=SIMPLE_HEAD)
        table.add_column("check", overflow="fold")
        for name in ("verdict", "effect / threshold", "q", "reference", "window", "rows"):
            table.add_column(name, justify="right")
        for check in serious:
            table.add_row(
                check.name,
                Text(check.verdict, style=_STYLES[check.verdict]),
                f"{check.strength:.2f}",
                "" if check.q_value is None else f"{check.q_value:.2g}",
                _number(check.reference_value),
                _number(check.window_value),
                f"{check.window_rows:,}",
            )
        console.print(table)
    grid = facts()
    grid.add_row("window", f"{report.window}: {report.num_rows:,} rows of {report.dataset}")
    if report.num_late:
        grid.add_row("", f"answers of {report.num_late:,} earlier rows have become known")
    if report.not_counted:
        grid.add_row("", report.not_counted)
    if report.drift:
        grid.add_row("this window", Text(_said(report.drift.verdict), style=_STYLES[report.drift.verdict]))
    grid.add_row("confirmed", Text(_said(report.verdict), style=_STYLES[report.verdict]))
    if report.confirmed:
        grid.add_row("", ", ".join(report.confirmed))
    grid.add_row("retrain", f"{'yes' if report.retrain.retrain else 'no'}: {report.retrain.reason}")
    grid.add_row("model", Text(report.version, style="cyan"))
    if report.report:
        grid.add_row("report", Text(report.report, style="cyan"))
    console.print(grid)


def show_retraining(console: Console, report: "RetrainReport") -> None:
    """What came of it in a few lines."""
    plan, grid = report.plan, facts()
    grid.add_row("retraining", Text(report.outcome, style="bold green" if report.outcome == "promoted" else "yellow"))
    grid.add_row("", report.why)
    if plan.run is not None:
        judged = f"{plan.num_hold_out:,} newer ones judge"
        grid.add_row("rows", f"{plan.num_training:,} of {plan.latest} train, {plan.num_new:,} came in since, {judged}")
        grid.add_row("", plan.trains_on)
    grid.add_row("champion before", Text(plan.champion, style="cyan"))
    if report.version:
        grid.add_row("trained", Text(report.version, style="cyan"))
    console.print(grid)


def _said(verdict: str) -> str:
    from training_core.campaigns.watching.showing import SAYS

    return SAYS[verdict]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _monitor(request: "MonitorConfig", store: Path, console: Console, verbose: bool) -> "MonitorReport":
    from training_core.campaigns.watching.monitor import find_watched

    find_watched(request.model, store)  # at once, not after a server has started

    def start() -> Any:
        from flows.monitor import monitor_model

        return monitor_model(request, str(store), return_state=True)

    return _run(start, store, console, verbose)


def _retrain(request: "RetrainConfig", store: Path, console: Console, verbose: bool) -> "RetrainReport":
    from training_core.campaigns.watching.monitor import find_watched

    find_watched(request.model, store)

    def start() -> Any:
        from flows.retrain import retrain_model

        return retrain_model(request, str(store), return_state=True)

    return _run(start, store, console, verbose)


def _run(start: Any, store: Path, console: Console, verbose: bool) -> Any:
    from flows.runtime import run_flow
    from flows.screen import TrainingView

    with TrainingView(console).live() as view:
        return run_flow(start, view, store, ("mlflow",), verbose)
