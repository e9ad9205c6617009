"""The small world of the kills: rows that come in bit by bit, and runs on them that train for some seconds."""

from pathlib import Path
from typing import Any

from running_store import small_rows, write_source

from training_core.artifacts import open_published
from training_core.campaigns.bagging import resolve_dataset
from training_core.campaigns.judgement import judge
from training_core.campaigns.library import fit_ensemble
from training_core.campaigns.run_config import RunConfig
from training_core.data.ingestion.ingest import append_to_dataset, prepare_dataset
from training_core.data.storage.store import DatasetStore

FIRST_ROWS, MORE_ROWS = 600, 200
NUM_LEARNERS = 6
_SETTINGS: dict[str, Any] = {
    "preset": "quick",
    "bags": {"num_bags": NUM_LEARNERS, "num_row_draws": 1},
    "learners": {"learners_per_bag": 1, "include": ["tabular_mlp"]},
    "training": {"epochs": 80, "patience": 80, "lr": 0.01},
    "tabular_mlp": {"width": 16},
    "budget": {"group_size": 1, "workers": 2},
}


def settings(dataset: str, seed: int, **changed: dict[str, Any]) -> dict[str, Any]:
    """What a run is told, as a form would send it; `changed` are sections."""
    merged = {**_SETTINGS, **{name: {**_SETTINGS.get(name, {}), **section} for name, section in changed.items()}}
    return {**merged, "dataset": dataset, "seed": seed}


def prepare(name: str, store: Path, folder: Path) -> str:
    """The first rows as a data set of a store: `name@version`."""
    return prepare_dataset(_source(name, folder, 0, FIRST_ROWS), DatasetStore(store / "datasets")).ref


def append(name: str, store: Path, folder: Path, number: int) -> str:
    """The next rows, for the `number`-th time from 0 on."""
    source = _source(name, folder, FIRST_ROWS + number * MORE_ROWS, MORE_ROWS)
    return append_to_dataset(source, DatasetStore(store / "datasets")).ref


def undisturbed(run: dict[str, Any], store: Path) -> str:
    """`predictions_sha256` of a run in a store where nothing is killed."""
    config = RunConfig.model_validate(run)
    fitted = fit_ensemble(config, store)
    return judge(open_published(fitted.folder), resolve_dataset(config.dataset, store)).predictions_sha256


def _source(name: str, folder: Path, first: int, num_rows: int) -> Path:
    """A SOURCE.yaml of the rows from `first` on."""
    return write_source(folder / f"{name}-{first}", name, small_rows(first, num_rows))
