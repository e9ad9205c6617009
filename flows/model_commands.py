"""The commands about who answers for a model: models, promote, rollback, retire."""

import getpass
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markdown import Markdown
from rich.status import Status
from rich.table import Table
from rich.text import Text

from flows.console import DEFAULT_STORE, AsJson, Sets, Store, Verbose, errors_shown, print_json, request_of, screen
from training_core.errors import ConfigError
from training_core.quantities import format_bytes

if TYPE_CHECKING:
    import pandas as pd

    from training_core.campaigns.promotion.decide import Approval, PromotionConfig
    from training_core.campaigns.promotion.integration import IntegrationReport
    from training_core.campaigns.promotion.ledger import LedgerEntry
    from training_core.campaigns.promotion.proposal import Proposal
    from training_core.campaigns.promotion.verbs import Outcome
    from training_core.jobs import Event

app = typer.Typer()

_HISTORY = 10  # decisions that are shown; the ledger has them all

Name = Annotated[str, typer.Argument(help="Name of a registered model.", metavar="MODEL")]
Why = Annotated[str, typer.Option("--why", help="Reason, for the ledger.", metavar="TEXT")]
By = Annotated[str | None, typer.Option("--by", help="Who decides, for the ledger.", show_default="who is logged in")]


@app.command(
    epilog="Examples: polychoir models  ·  polychoir models shoes  ·  polychoir models shoes@challenger --check"
)
def models(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A name for its versions; NAME@ALIAS or models:/NAME/VERSION with --check or --against.",
            metavar="[MODEL]",
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Is it fit to be built in: status, files, libraries, answers, gates?")
    ] = False,
    export: Annotated[bool, typer.Option("--export", help="With --check: also try an export.")] = False,
    against: Annotated[
        list[str] | None,
        typer.Option("--against", help="Show what differs from this version or alias. Repeatable.", metavar="VERSION"),
    ] = None,
    store: Store = DEFAULT_STORE,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """List registered models, or the versions of one: which answers, where each comes from, what was decided."""
    with errors_shown(as_json, verbose):
        if model is None and (check or against):
            raise ConfigError("--check and --against are about one model; name it, such as shoes@challenger")
        if check and against:
            raise ConfigError("--check and --against answer different questions; give one of them at a time")
        if export and not check:
            raise ConfigError("--export is a part of --check; give both")
        place, console = store.resolve(), screen(stderr=as_json)
        if model is None:
            _list_models(place, console, as_json)
        elif check:
            _check_model(model, place, export, console, as_json)
        elif against:
            _compare(model, tuple(against), place, console, as_json)
        else:
            _list_versions(model, place, console, as_json)


@app.command(
    epilog="Examples: polychoir promote shoes --why 'summer range'  ·  polychoir promote shoes --challenger 4 --ask"
)
def promote(
    model: Name,
    challenger: Annotated[
        str | None,
        typer.Option("--challenger", help="Alias or version that is to take over.", show_default="challenger"),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset", help="With rows neither has seen.", show_default="the newest version of the champion's"
        ),
    ] = None,
    rows: Annotated[
        str | None,
        typer.Option("--rows", help="unseen: all that neither was trained on; test: of those, the test split."),
    ] = None,
    ask: Annotated[bool, typer.Option("--ask", help="Show the figures and ask before promoting.")] = False,
    approve: Annotated[bool, typer.Option("--approve", help="Answer yes beforehand, as a person.")] = False,
    why: Why = "",
    by: By = None,
    store: Store = DEFAULT_STORE,
    sets: Sets = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Let a challenger take over where it does better than the champion on rows that neither was trained on."""
    with errors_shown(as_json, verbose):
        from training_core.campaigns.promotion.decide import PromotionConfig

        if ask and not approve and not sys.stdin.isatty():
            raise ConfigError("--ask needs a terminal to ask in; give --approve, or leave both out")
        given = {"model": model, "challenger": challenger, "dataset": dataset, "rows": rows, "why": why}
        given |= {"by": by if by is not None else _user(), "approval": ask or approve or None}
        request = request_of(PromotionConfig, given, sets, "promote")
        console = screen(stderr=as_json)
        outcome = _promote(request, store.resolve(), console, approve, verbose)
        if as_json:
            print_json(outcome)
            return
        _show_outcome(console, outcome)


@app.command(epilog="Examples: polychoir rollback shoes --why 'complaints'  ·  polychoir rollback shoes --version 2")
def rollback(
    model: Name,
    version: Annotated[
        int, typer.Option("--version", min=0, help="Version to go back to.", show_default="the champion before")
    ] = 0,
    why: Why = "",
    by: By = None,
    store: Store = DEFAULT_STORE,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Make a former champion answer again, at once and without a contest. Twice goes back two champions."""
    with errors_shown(as_json, verbose):

        def start(status: Status) -> Any:
            from flows.promote import rollback_model

            who = by if by is not None else _user()
            return rollback_model(model, why, str(store.resolve()), version, who, return_state=True)

        console = screen(stderr=as_json)
        outcome = _run(start, store.resolve(), console, verbose)
        if as_json:
            print_json(outcome)
            return
        _show_outcome(console, outcome)


@app.command(epilog="Example: polychoir retire models:/shoes/3 --why 'trained on wrong prices'")
def retire(
    model: Annotated[str, typer.Argument(help="models:/NAME/VERSION or NAME@ALIAS; not a champion.", metavar="MODEL")],
    why: Why = "",
    by: By = None,
    store: Store = DEFAULT_STORE,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Say that a version is not to be used any more: it loses its aliases and is never taken as the latest."""
    with errors_shown(as_json, verbose):
        from training_core.campaigns.promotion.verbs import retire as retire_version

        outcome = retire_version(model, store.resolve(), why, by if by is not None else _user())
        if as_json:
            print_json(outcome)
            return
        _show_outcome(screen(), outcome)


def _promote(request: "PromotionConfig", store: Path, console: Console, approve: bool, verbose: bool) -> "Outcome":
    def start(status: Status) -> Any:
        from flows.promote import promote_model
        from tasks.promotion import answering
        from training_core.campaigns.promotion.decide import Approval

        def answer(proposal: "Proposal") -> Approval:
            if approve:
                return Approval(approve=True, reason=request.why, by=request.by)
            status.stop()  # it would draw over the question
            return _ask(proposal, console)

        with answering(answer):
            return promote_model(request, str(store), return_state=True)

    return _run(start, store, console, verbose)


def _ask(proposal: "Proposal", console: Console) -> "Approval":
    from training_core.campaigns.promotion.decide import Approval, contest_markdown

    console.print(Markdown(contest_markdown(proposal.contest, proposal.decision, proposal.title)))
    yes = typer.confirm(f"Promote {proposal.title}?", default=False, err=True)
    reason = typer.prompt("Reason", default="", show_default=False, err=True)
    return Approval(approve=yes, reason=reason, by=proposal.request.by)


def _run(start: Callable[[Status], Any], store: Path, console: Console, verbose: bool) -> "Outcome":
    """Run a flow with what it is at as a line on the screen."""
    from flows.runtime import run_flow

    with console.status("starting") as status:

        def view(event: "Event") -> None:
            if event["event"] == "stage":
                status.update(event["text"])

        return run_flow(lambda: start(status), view, store, ("mlflow",), verbose)


def _list_models(store: Path, console: Console, as_json: bool) -> None:
    from training_core.campaigns.promotion.verbs import reconcile_all
    from training_core.tracking.registry import CHALLENGER, CHAMPION, open_registry

    reconcile_all(store)
    registry = open_registry(("mlflow",), store)
    rows = []
    for name in registry.models():
        versions = registry.versions(name)
        by_alias = {alias: one for one in versions for alias in one.aliases}
        champion, rival = by_alias.get(CHAMPION), by_alias.get(CHALLENGER)
        rows.append(
            {
                "model": name,
                "champion": champion.version if champion else None,
                "challenger": rival.version if rival else None,
                "versions": len(versions),
                "newest": _when(versions[0].created),
                "dataset": champion.dataset if champion else None,
                "metric": champion.metric if champion else None,
                "score": champion.scores.get(champion.metric or "") if champion else None,
            }
        )
    if as_json:
        print_json({"models": rows, "registry": registry.location})
        return
    if not rows:
        console.print(f"no models in {registry.location} yet; polychoir train makes one")
        return
    table = _table("model", "champion", "challenger", "versions", "newest", "dataset", "score")
    for row in rows:
        score = "–" if row["score"] is None else f"{row['metric']} {row['score']:.4f}"
        table.add_row(
            *(_cell(row[c]) for c in ("model", "champion", "challenger", "versions", "newest", "dataset")), score
        )
    console.print(table)


def _list_versions(model: str, store: Path, console: Console, as_json: bool) -> None:
    from training_core.campaigns.promotion.ledger import Ledger
    from training_core.campaigns.promotion.lineage import lineage
    from training_core.campaigns.promotion.verbs import reconcile
    from training_core.tracking.registry import open_registry

    name = open_registry(("mlflow",), store).find(model).name
    reconcile(store, name)
    table = lineage(name, store)
    history = [entry for entry in Ledger(store, name).entries() if entry.stage == "done"]
    if as_json:
        rows = json.loads(table.to_json(orient="records", date_format="iso"))
        print_json({"model": name, "versions": rows, "ledger": [json.loads(one.model_dump_json()) for one in history]})
        return
    shown = _table("version", "aliases", "trained", "dataset", "parent", "score", "size", "decided")
    for row in table.to_dict("records"):
        score = "–" if row["score"] is None or row["score"] != row["score"] else f"{row['metric']} {row['score']:.4f}"
        shown.add_row(
            str(row["version"]),
            "retired" if row["retired"] else row["aliases"],
            f"{row['created']:%Y-%m-%d %H:%M}",
            _cell(row["dataset"]),
            _cell(row["parent"]).removeprefix(f"models:/{name}/"),
            score,
            format_bytes(row["size_bytes"]) if row["size_bytes"] else "–",
            _cell(row["decided"]),
        )
    console.print(shown)
    for entry in history[-_HISTORY:]:
        console.print(_told(entry), soft_wrap=True)


def _check_model(model: str, store: Path, export: bool, console: Console, as_json: bool) -> None:
    from training_core.campaigns.promotion.integration import prepare_for_integration

    report: IntegrationReport = prepare_for_integration(model, store, export=export)
    if as_json:
        print_json(report, ready=report.ready)
    else:
        for one in report.checks:
            mark = Text("ok  ", style="green") if one.passed else Text("FAIL", style="bold red")
            console.print(Text.assemble(mark, f"  {one.kind}: {one.name}  ", (one.message, "dim")), soft_wrap=True)
    if not report.ready:
        raise typer.Exit(1)


def _compare(model: str, against: tuple[str, ...], store: Path, console: Console, as_json: bool) -> None:
    from training_core.campaigns.promotion.lineage import compare_versions
    from training_core.tracking.registry import open_registry

    found = open_registry(("mlflow",), store).find(model)
    table: pd.DataFrame = compare_versions(found.name, (found.version, *against), store)
    if as_json:
        print_json({"model": found.name, "differences": json.loads(table.to_json(orient="index"))})
        return
    shown = _table("", *map(str, table.columns))
    for name, row in table.iterrows():
        shown.add_row(str(name), *(f"{cell:.4f}" if isinstance(cell, float) else _cell(cell) for cell in row))
    console.print(shown)


def _show_outcome(console: Console, outcome: "Outcome") -> None:
    style = "bold yellow" if outcome.action == "refused" else "bold green"
    console.print(Text.assemble((f"{outcome.action}: ", style), outcome.reason), soft_wrap=True)
    if outcome.champion is not None:
        console.print(Text(f"{outcome.uri} is version {outcome.champion}", style="cyan"))


def _told(entry: "LedgerEntry") -> Text:
    who = f" by {entry.by}" if entry.by else ""
    why = f" ({entry.why})" if entry.why else ""
    return Text.assemble(
        (f"{_when(entry.time)}  ", "dim"), f"{entry.action}{who}: version {entry.version}: {entry.reason}{why}"
    )


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def _cell(value: object) -> str:
    return "–" if value is None or value != value else str(value)


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))


def _user() -> str:
    """Who is logged in; empty where nobody can say."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""
