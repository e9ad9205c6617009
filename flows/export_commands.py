"""The command that turns a model into files that run without Polychoir: export."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from flows.console import DEFAULT_STORE, AsJson, Store, Verbose, errors_shown, facts, print_json, screen
from training_core.errors import ConfigError
from training_core.quantities import format_bytes, format_seconds

if TYPE_CHECKING:
    from training_core.export.bundle import ExportReport

app = typer.Typer()


@app.command(
    epilog="Examples: polychoir export models:/shoes/3 --out shoes-3  ·  polychoir export shoes --format pt2 "
    "--format safetensors --out shoes-3"
)
def export(
    model: Annotated[
        str, typer.Argument(help="models:/NAME/VERSION, a model's name, or an ensemble's folder.", metavar="MODEL")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make; must not be there yet.")],
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help="onnx (always), pt2, safetensors, triton. Repeatable.",
            show_default="onnx",
            metavar="FORMAT",
        ),
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option("--check", help="Also compare answers on the rows of this file.", metavar="INPUT"),
    ] = None,
    store: Store = DEFAULT_STORE,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Write a model as a bundle that answers with numpy and ONNX Runtime alone, compared with the model beforehand."""
    with errors_shown(as_json, verbose):
        if out.exists():
            raise ConfigError(f"{out} is there already; give a folder that is not, or remove it")
        from training_core.campaigns.prediction import find_ensemble
        from training_core.data.frames import read_samples
        from training_core.export.bundle import export_bundle
        from training_core.selection.ensemble import Ensemble

        _, ensemble = find_ensemble(model, store.resolve())
        samples = None if check is None else read_samples(check, Ensemble.load(ensemble.path).spec)
        console = screen(stderr=as_json)
        with console.status("tracing the ensemble and comparing answers"):
            report = export_bundle(ensemble, out, tuple(formats or ("onnx",)), samples)  # pyright: ignore[reportArgumentType]
        if as_json:
            differences = {one.format: one.difference for one in report.parity}
            print_json(report, difference=differences)
            return
        show_export(console, report)


def show_export(console: Console, report: "ExportReport") -> None:
    """What was written, and how it compares."""
    grid = facts()
    grid.add_row("bundle", Text(report.folder, style="bold green"))
    size = f"{format_bytes(report.num_bytes)}, {len(report.learners)} learners, {', '.join(report.formats)}"
    grid.add_row("holds", size)
    for one in report.parity:
        where = f"{len(one.patterns)} patterns of missing modalities"
        grid.add_row(one.format, f"at most {one.difference:.2g} away from the model over {where}")
    grid.add_row("sha256", report.sha256)
    grid.add_row("try it", Text(f"python {report.folder}/inference.py --check", style="cyan"))
    grid.add_row("took", format_seconds(report.seconds))
    console.print(grid)
