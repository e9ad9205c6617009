"""The `polychoir` command."""

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from training_core.errors import ConfigError, PolychoirError, UserError

if TYPE_CHECKING:
    from training_core.campaigns.run_config import RunConfig
    from training_core.campaigns.summary import RunSummary

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Train multimodal ensembles that keep predicting when a modality is missing.",
    epilog="Start with [bold]polychoir demo[/]. Every command explains itself with --help.",
)

Store = Annotated[
    Path, typer.Option("--store", help="Folder for datasets, learners, models and tracking.", show_default=True)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout; everything else on stderr.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one setting, e.g. training.epochs=20. Repeatable."),
]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Root of every random choice.", show_default="0")]
PresetOption = Annotated[
    str | None, typer.Option("--preset", help="quick, balanced or best.", show_default="balanced", metavar="NAME")
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show library logs, and tracebacks of errors.")]

DEFAULT_STORE = Path(".polychoir")


@app.command(epilog="Example: polychoir demo --store /data/polychoir")
def demo(store: Store = DEFAULT_STORE, seed: Seed = None, as_json: AsJson = False, verbose: Verbose = False) -> None:
    """Run the whole main job on real data: handwritten digits seen as three modalities. About a minute on a CPU."""

    def run() -> "RunConfig":
        from training_core.campaigns.run_config import RunConfig
        from training_core.data.digits import write_digits_source

        source = write_digits_source(store / "demo")
        return RunConfig.load(dataset=str(source), preset="quick", seed=seed)

    _train(run, store, as_json, verbose)


@app.command(epilog="Example: polychoir prepare shoes/source.yaml --set split.test=0.2")
def prepare(
    source: Annotated[Path, typer.Argument(help="SOURCE.yaml that describes the files.", metavar="SOURCE.yaml")],
    store: Store = DEFAULT_STORE,
    sets: Sets = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Check the files a SOURCE.yaml describes and publish them as an immutable, versioned dataset."""
    with _errors(as_json, verbose):
        from training_core.data.ingest import prepare_dataset
        from training_core.data.store import DatasetStore
        from training_core.settings import parse_overrides

        dataset = prepare_dataset(source, DatasetStore(store / "datasets"), parse_overrides(sets or []))
        splits = {split: len(dataset.rows(split)) for split in ("train", "validation", "test")}
        if as_json:
            _print_json(
                {"dataset": dataset.ref, "fingerprint": dataset.fingerprint, "path": str(dataset.path), "rows": splits}
            )
            return
        modalities = ", ".join(f"{m.name} ({m.kind})" for m in dataset.spec.modalities)
        _stderr().print(f"{dataset.num_rows} rows ({splits['train']} train, {splits['test']} test), {modalities}")
        print(dataset.ref)


@app.command(epilog="Examples: polychoir train RUN.yaml  ·  polychoir train shoes --preset best --set bags.num_bags=30")
def train(
    run: Annotated[
        str,
        typer.Argument(help="RUN.yaml, SOURCE.yaml, or a dataset (name or name@version).", metavar="RUN"),
    ],
    store: Store = DEFAULT_STORE,
    preset: PresetOption = None,
    seed: Seed = None,
    sets: Sets = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Train an ensemble: bags, learner selection, training, combination, evaluation, tracking."""

    def load() -> "RunConfig":
        from training_core.campaigns.run_config import RunConfig

        if run.endswith((".yaml", ".yml")):
            return RunConfig.load(Path(run), sets or [], preset=preset, seed=seed)
        return RunConfig.load(None, sets or [], dataset=run, preset=preset, seed=seed)

    _train(load, store, as_json, verbose)


@app.command(epilog="Example: polychoir predict models:/digits/1 new.csv --output predictions.csv")
def predict(
    model: Annotated[
        str, typer.Argument(help="models:/NAME/VERSION, a model's name, or an ensemble's folder.", metavar="MODEL")
    ],
    samples: Annotated[
        Path, typer.Argument(help="csv, tsv, parquet or npz; whole modalities may be absent.", metavar="INPUT")
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write a CSV here instead of stdout.")] = None,
    store: Store = DEFAULT_STORE,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Predict, with a confidence per row, for a file that may lack modalities."""
    with _errors(as_json, verbose):
        from training_core.campaigns.prediction import predict_file

        if output is not None and not output.absolute().parent.is_dir():
            raise ConfigError(f"cannot write {output}: there is no folder {output.absolute().parent}")
        table, missing = predict_file(model, samples, store.resolve())
        confidence = float(table["confidence"].mean())
        if as_json:
            rows = json.loads(table.to_json(orient="records"))
            _print_json({"rows": rows, "missing": missing, "mean_confidence": confidence})
            return
        if output is not None:
            table.to_csv(output, index=False)
        else:
            table.to_csv(sys.stdout, index=False)
        absent = f", without {', '.join(missing)}" if missing else ""
        _stderr().print(f"{len(table)} rows{absent}; mean confidence {confidence:.3f}")


def main() -> None:
    """Entry point of the console script."""
    app()


def _train(load: "Callable[[], RunConfig]", store: Path, as_json: bool, verbose: bool) -> None:
    """Run the training flow and show it; `load` gives the run's configuration."""
    with _errors(as_json, verbose):
        config = load()
        _check_dataset(config, store)
        screen = _console(stderr=as_json)
        summary = _run_flow(config, store.resolve(), screen, verbose)
        if as_json:
            _print_json(json.loads(summary.model_dump_json()))
            return
        from flows.screen import show_summary

        show_summary(screen, summary)


def _check_dataset(config: "RunConfig", store: Path) -> None:
    """Find out at once, not after a server has started, that there is no such dataset or its source is malformed."""
    from training_core.data.source import load_source
    from training_core.data.store import DatasetStore

    if config.dataset.endswith((".yaml", ".yml")):
        load_source(Path(config.dataset))
    else:
        DatasetStore(store / "datasets").open(config.dataset)


def _run_flow(config: "RunConfig", store: Path, screen: Console, verbose: bool) -> "RunSummary":
    from flows.runtime import drain, owner_tags, prefect_at
    from flows.screen import TrainingView
    from training_core.campaigns.recording import tracker_at

    with TrainingView(screen).live() as view:
        view({"event": "stage", "text": "starting Prefect"})
        with prefect_at(store, verbose, meanwhile=tracker_at(config.tracker, str(store)).connect):
            from prefect import tags
            from prefect.task_runners import ThreadPoolTaskRunner

            from flows.train_ensemble import train_ensemble
            from tasks.progress import listening
            from training_core.campaigns.bagging import num_workers

            runner: Any = ThreadPoolTaskRunner(max_workers=num_workers(config))
            flow = train_ensemble.with_options(task_runner=runner)
            with listening(view), tags(*owner_tags()):
                state = flow(config, str(store), return_state=True)
            if state.state_details.flow_run_id:
                drain(state.state_details.flow_run_id)
            return state.result()


@contextmanager
def _errors(as_json: bool, verbose: bool) -> Iterator[None]:
    """Errors as users meet them: one line and exit code 2 for what they can mend, 1 for the rest."""
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    try:
        yield
    except PolychoirError as error:
        _fail(str(error), 2 if isinstance(error, UserError) else 1, as_json, verbose)
    except KeyboardInterrupt:
        _fail("interrupted; run the same command again to go on where it stopped", 130, as_json, verbose=False)
    except BrokenPipeError:
        raise typer.Exit(0) from None
    except Exception as error:
        traceback.print_exc()
        _fail(f"this is a bug in Polychoir: {type(error).__name__}: {error}", 1, as_json, verbose=False)


def _fail(message: str, code: int, as_json: bool, verbose: bool) -> None:
    if verbose:
        traceback.print_exc()
    if as_json:
        _print_json({"error": message})
    _stderr().print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)
    raise typer.Exit(code)


def _print_json(value: Any) -> None:
    print(json.dumps(value))


def _stderr() -> Console:
    return _console(stderr=True)


def _console(stderr: bool) -> Console:
    """A console; wide enough for the tables when it is no terminal, whose width nobody knows."""
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 120
    return console


if __name__ == "__main__":
    main()
