"""The `polychoir` command."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from flows import (
    data_commands,
    evaluation_commands,
    export_commands,
    maintenance_commands,
    model_commands,
    serving_commands,
    tuning_commands,
    watching_commands,
)
from flows.console import (
    DEFAULT_STORE,
    AsJson,
    PresetOption,
    RunSource,
    Seed,
    Sets,
    Store,
    Verbose,
    check_dataset,
    errors_shown,
    print_json,
    screen,
)
from training_core.errors import ConfigError

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

Budget = Annotated[
    float | None,
    typer.Option("--budget", min=1.0, metavar="SECONDS", help="Be done within so many seconds; unlimited by default."),
]
Profile = Annotated[
    bool, typer.Option("--profile", help="Also look at what the steps of each net spend their time on; prints where.")
]


@app.command(epilog="Example: polychoir demo --store /data/polychoir")
def demo(
    store: Store = DEFAULT_STORE,
    seed: Seed = None,
    profile: Profile = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Run the whole main job on real data: handwritten digits seen as three modalities. About a minute on a CPU."""

    def run() -> "RunConfig":
        from training_core.campaigns.run_config import RunConfig
        from training_core.data.ingestion.digits import write_digits_source

        source = write_digits_source(store / "demo")
        # A kind of each method, and copies of the net, so that a stack is trained, too.
        shown = {"include": ("lightgbm", "extra_trees", "kernel_ridge", "fusion_net"), "net_copies": 4}
        return RunConfig.load(dataset=str(source), preset="quick", learners=shown, seed=seed, profile=profile or None)

    _train(run, store, as_json, verbose)


@app.command(
    epilog="Examples: polychoir train RUN.yaml  ·  polychoir train shoes --preset best --budget 300 "
    "--set bags.num_bags=30"
)
def train(
    run: RunSource,
    store: Store = DEFAULT_STORE,
    preset: PresetOption = None,
    seed: Seed = None,
    budget: Budget = None,
    sets: Sets = None,
    profile: Profile = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Train an ensemble: bags, learner selection, training, combination, evaluation, tracking."""

    def load() -> "RunConfig":
        from training_core.campaigns.run_config import RunConfig

        path, dataset = (Path(run), None) if run.endswith((".yaml", ".yml")) else (None, run)
        limits = None if budget is None else {"seconds": budget}
        return RunConfig.load(
            path, sets or [], dataset=dataset, preset=preset, seed=seed, profile=profile or None, budget=limits
        )

    _train(load, store, as_json, verbose)


@app.command(epilog="Example: polychoir predict models:/digits/1 new.csv --output predictions.csv")
def predict(
    model: Annotated[
        str, typer.Argument(help="models:/NAME/VERSION, a model's name, or an ensemble's folder.", metavar="MODEL")
    ],
    samples: Annotated[
        Path, typer.Argument(help="csv, tsv, jsonl, parquet or npz; whole modalities may be absent.", metavar="INPUT")
    ],
    id_column: Annotated[
        str | None, typer.Option("--id", help="Column of the ids; `id` by default, else row numbers.", metavar="COLUMN")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write a CSV here instead of stdout.")] = None,
    store: Store = DEFAULT_STORE,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Predict, with a confidence per row, for a file that may lack modalities."""
    with errors_shown(as_json, verbose):
        from training_core.campaigns.prediction import predict_file

        if output is not None and not output.absolute().parent.is_dir():
            raise ConfigError(f"cannot write {output}: there is no folder {output.absolute().parent}")
        table, missing = predict_file(model, samples, store.resolve(), id_column)
        confidence = float(table["confidence"].mean())
        if as_json:
            rows = json.loads(table.to_json(orient="records"))
            print_json({"rows": rows, "missing": missing, "mean_confidence": confidence})
            return
        if output is not None:
            table.to_csv(output, index=False)
        else:
            table.to_csv(sys.stdout, index=False)
        absent = f", without {', '.join(missing)}" if missing else ""
        screen(stderr=True).print(f"{len(table)} rows{absent}; mean confidence {confidence:.3f}")


def main() -> None:
    """Entry point of the console script."""
    app.add_typer(data_commands.app)
    app.add_typer(tuning_commands.app)
    app.add_typer(evaluation_commands.app)
    app.add_typer(export_commands.app)
    app.add_typer(maintenance_commands.app)
    app.add_typer(model_commands.app)
    app.add_typer(serving_commands.app)
    app.add_typer(watching_commands.app)
    app()


def _train(load: "Callable[[], RunConfig]", store: Path, as_json: bool, verbose: bool) -> None:
    """Run the training flow and show it; `load` gives the run's configuration."""
    with errors_shown(as_json, verbose):
        config = load()
        check_dataset(config.dataset, store)
        console = screen(stderr=as_json)
        summary = _run_flow(config, store.resolve(), console, verbose)
        if as_json:
            print_json(summary)
            return
        from flows.screen import show_profile, show_summary

        show_summary(console, summary)
        if config.profile:
            show_profile(console, summary)


def _run_flow(config: "RunConfig", store: Path, console: Console, verbose: bool) -> "RunSummary":
    from flows.runtime import began, run_flow
    from flows.screen import TrainingView

    def start() -> Any:
        from flows.train_ensemble import train_ensemble

        return train_ensemble(config, str(store), began(), return_state=True)

    with TrainingView(console).live() as view:
        summary = run_flow(start, view, store, config.trackers, verbose)
    _remember_closing(summary)
    return summary


def _remember_closing(summary: "RunSummary") -> None:
    """What came after training took this long, which the next run with a budget will reckon with."""
    from flows.runtime import began
    from training_core.campaigns.clock import RunClock

    if (use := summary.budget) is not None and use.seconds is not None:
        clock = RunClock.begin(use.seconds, "flow", began())
        clock.remember_closing(use.closing_seconds, time.time() - use.training_ended)


if __name__ == "__main__":
    main()
