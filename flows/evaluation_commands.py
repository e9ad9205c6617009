"""The command that judges a trained model: evaluate."""

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
from training_core.errors import ConfigError
from training_core.quantities import format_seconds

if TYPE_CHECKING:
    from training_core.campaigns.evaluation.config import EvaluationConfig
    from training_core.campaigns.evaluation.keeping import KeptEvaluation

app = typer.Typer()


@app.command(epilog="Examples: polychoir evaluate models:/shoes/3 shoes  ·  polychoir evaluate shoes shoes --oracle")
def evaluate(
    model: Annotated[
        str, typer.Argument(help="models:/NAME/VERSION, a model's name, or an ensemble's folder.", metavar="MODEL")
    ],
    dataset: Annotated[
        str, typer.Argument(help="A dataset (name or name@version) or a SOURCE.yaml.", metavar="DATASET")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the report; by default one in the store.")
    ] = None,
    rates: Annotated[
        str | None,
        typer.Option("--rates", help="Missing rates, in [0, 1).", show_default="0,0.1,…,0.9", metavar="RATE,…"),
    ] = None,
    oracle: Annotated[
        bool, typer.Option("--oracle", help="Also retrain on just the modalities of each pattern, to see the gap.")
    ] = False,
    against: Annotated[
        list[str] | None,
        typer.Option("--against", help="Another model to compare with on the same rows. Repeatable.", metavar="MODEL"),
    ] = None,
    rows: Annotated[
        str, typer.Option("--rows", help="test: the test split; unseen: every row it was not trained on.")
    ] = "test",
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Root of every random draw.", show_default="0")
    ] = None,
    store: Store = DEFAULT_STORE,
    sets: Sets = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Judge a model in every way: intervals, patterns, missing rates, calibration, conflicts, worth, cost."""
    with errors_shown(as_json, verbose):
        from training_core.campaigns.evaluation.config import EvaluationConfig

        given = {"model": model, "dataset": dataset, "rows": rows, "oracle": oracle, "against": tuple(against or ())}
        request = request_of(EvaluationConfig, {**given, "rates": _rates(rates), "seed": seed}, sets, "evaluate")
        if out is not None and out.exists() and not out.is_dir():
            raise ConfigError(f"{out} is a file; give a folder for the report")
        console = screen(stderr=as_json)
        kept = _run_flow(request, store.resolve(), out, console, verbose)
        if as_json:
            places = {"report": kept.report, "folder": kept.folder, "run_id": kept.run_id, "tracking": kept.tracking}
            print_json(kept.result, **places)
            return
        show_evaluation(console, kept)


def show_evaluation(console: Console, kept: "KeptEvaluation") -> None:
    """The patterns as a table, then what came of it in a few lines."""
    report = kept.result
    table = Table(title="When modalities are missing", title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    table.add_column("available", overflow="fold")
    for name in (report.metric, "interval", "calibration error", "over best single", "rows"):
        table.add_column(name, justify="right")
    if any(one.oracle for one in report.patterns):
        table.add_column("oracle gap", justify="right")
    for one in report.patterns:
        lead = one.lead_over_best_single
        cells = [
            ", ".join(one.ensemble.available),
            f"{one.ensemble.score:.4f}",
            f"{one.interval.low:.3f} to {one.interval.high:.3f}",
            "–" if one.ensemble.ece is None else f"{one.ensemble.ece:.3f}",
            f"{lead.difference:+.4f}",
            f"{one.ensemble.num_rows}",
        ]
        oracle = "" if one.oracle is None else f"{one.oracle.gap.difference:+.4f}"
        table.add_row(*cells, *([oracle] if len(table.columns) > len(cells) else []))
    console.print(table)
    console.print(_verdict(kept))


def _verdict(kept: "KeptEvaluation") -> Table:
    report = kept.result
    curve, interval, point = report.curve("ensemble", "random"), report.full.interval, report.selective.at(0.8)
    grid = facts()
    headline = f"{report.metric} {report.score:.4f}   {interval.low:.3f} to {interval.high:.3f}"
    grid.add_row("model", Text(f"{headline} on {report.rows.num_rows:,} rows", style="bold green"))
    if curve.relative_area is not None:
        kept_score = f"{curve.relative_area:.3f} of the score is kept, mean over missing rates up to"
        grid.add_row("robustness", f"{kept_score} {curve.points[-1].rate:.0%}")
    grid.add_row("surest 80%", f"{report.selective.risk_name} {point.risk:.4f}   all rows {report.selective.risk:.4f}")
    worth = ", ".join(f"{one.modality} {one.shapley_share:.0%}" for one in report.modalities)
    grid.add_row("worth", worth)
    one_row, in_batch = report.cost.milliseconds_single, report.cost.milliseconds_batch
    grid.add_row(
        "time", f"{one_row:.3g} ms for one row, {in_batch:.3g} ms a row in a batch of {report.cost.batch_rows:,}"
    )
    for name, reason in report.failures.items():
        grid.add_row("", Text(f"{name} failed: {reason}", style="yellow"))
    grid.add_row("took", format_seconds(report.seconds))
    grid.add_row("report", Text(kept.report, style="cyan"))
    grid.add_row("tracked as", Text(f"{kept.run_id} in {kept.tracking}", style="cyan"))
    return grid


def _rates(text: str | None) -> tuple[float, ...] | None:
    """Rates given as `0,0.3,0.6`.

    Raises:
        ConfigError: one is not a number; whether it is in range is the configuration's business.
    """
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise ConfigError(
            f"--rates is {text!r}; give numbers in [0, 1) with commas between, such as 0,0.3,0.6"
        ) from None


def _run_flow(
    request: "EvaluationConfig", store: Path, out: Path | None, console: Console, verbose: bool
) -> "KeptEvaluation":
    from flows.runtime import run_flow
    from flows.screen import TrainingView

    def start() -> Any:
        from flows.evaluate import evaluate_model

        return evaluate_model(request, str(store), str(out.resolve()) if out else "", return_state=True)

    with TrainingView(console).live() as view:
        return run_flow(start, view, store, request.trackers, verbose)
