"""The command that searches for better settings: tune."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

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

if TYPE_CHECKING:
    from training_core.campaigns.run_config import RunConfig
    from training_core.campaigns.tuning.summary import StudySummary

app = typer.Typer()


@app.command(
    epilog="Examples: polychoir tune RUN.yaml --trials 60  ·  polychoir tune shoes --seconds 600 "
    "--set tuning.learner=tabular_mlp"
)
def tune(
    run: RunSource,
    trials: Annotated[
        int | None,
        typer.Option("--trials", min=1, help="Trials in all, those of earlier calls counted.", show_default="50"),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option("--seconds", min=1.0, help="Begin no trial after so many seconds; unlimited by default."),
    ] = None,
    store: Store = DEFAULT_STORE,
    preset: PresetOption = None,
    seed: Seed = None,
    sets: Sets = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Search for better settings of a run. The same command again goes on; what it finds is a RUN.yaml for train."""
    with errors_shown(as_json, verbose):
        from training_core.campaigns.run_config import RunConfig

        path, dataset = (Path(run), None) if run.endswith((".yaml", ".yml")) else (None, run)
        tuning = {name: value for name, value in (("trials", trials), ("seconds", seconds)) if value is not None}
        config = RunConfig.load(path, sets or [], dataset=dataset, preset=preset, seed=seed, tuning=tuning or None)
        check_dataset(config.dataset, store)
        _check_space(config, store.resolve())
        console = screen(stderr=as_json)
        summary = _run_flow(config, store.resolve(), console, verbose)
        if as_json:
            print_json(summary)
            return
        from flows.tuning_screen import show_study

        show_study(console, summary)


def _check_space(config: "RunConfig", store: Path) -> None:
    """Find out at once what is wrong with the search, where the data are in the store already."""
    from training_core.campaigns.bagging import resolve_dataset
    from training_core.campaigns.tuning.campaign import Tuner

    if not config.dataset.endswith((".yaml", ".yml")):
        Tuner(config, resolve_dataset(config.dataset, store), store)


def _run_flow(config: "RunConfig", store: Path, console: Console, verbose: bool) -> "StudySummary":
    from flows.runtime import run_flow
    from flows.tuning_screen import TuningView

    def start() -> Any:
        from flows.tune import tune_ensemble

        return tune_ensemble(config, str(store), return_state=True)

    with TuningView(console, config.tuning).live() as view:
        return run_flow(start, view, store, config.trackers, verbose)
