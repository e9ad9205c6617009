"""A small stream with a known change: rows come in by weeks, and what they mean turns round at some point."""

from pathlib import Path

import numpy as np
import pandas as pd

from training_core.artifacts import open_published
from training_core.campaigns.bagging import dataset_ref
from training_core.campaigns.library import fit_ensemble
from training_core.campaigns.run_config import RunConfig
from training_core.campaigns.watching.profiles import publish_profile
from training_core.data.ingestion.ingest import append_to_dataset, prepare_dataset
from training_core.data.storage.store import Dataset, DatasetStore

WEEK = 150


def frame(
    first: int, num_rows: int, *, shift: float = 0.0, turned: bool = False, labelled: bool = True, seed: int = 0
) -> pd.DataFrame:
    """Rows `first`, `first` + 1, … of the stream: two numbers and a category, the answer of which is mostly the sign.

    `shift` moves the numbers of `here`, in standard deviations; `turned` turns the answer round.
    """
    draws = np.random.default_rng([seed, first])
    here, there = draws.normal(size=(2, num_rows))
    label = (here + there + 0.3 * draws.normal(size=num_rows) > 0) != turned
    return pd.DataFrame(
        {
            "sample": [f"row-{i}" for i in range(first, first + num_rows)],
            "day": np.arange(first, first + num_rows, dtype=float),
            "label": np.where(label, "up", "down") if labelled else None,
            "here": here + shift,
            "there": there,
            "shop": draws.choice(["north", "south"], num_rows),
        }
    )


def write(folder: Path, rows: pd.DataFrame, *, times: bool = True, quarantine: bool = False) -> Path:
    """A source of two tables."""
    folder.mkdir(parents=True, exist_ok=True)
    rows.to_csv(folder / "rows.csv", index=False)
    (folder / "source.yaml").write_text(
        "name: stream\n"
        "task: {kind: classification, target: {file: rows.csv, column: label}}\n"
        "id: {file: rows.csv, column: sample}\n"
        + ("time: {file: rows.csv, column: day}\n" if times else "")
        + (f"quality: {{quarantine: {str(quarantine).lower()}, accept: [target_missing]}}\n" if quarantine else "")
        + "split: {test: 0.25}\n"
        "modalities:\n"
        "  first:  {kind: tabular, file: rows.csv, columns: [here, shop], categorical: [shop]}\n"
        "  second: {kind: tabular, file: rows.csv, columns: [there]}\n"
    )
    return folder / "source.yaml"


def begin(place: Path, num_rows: int = 4 * WEEK, *, times: bool = True) -> Dataset:
    """The first weeks as a data set in the store `place / "store"`."""
    source = write(place / "first", frame(0, num_rows), times=times)
    return prepare_dataset(source, DatasetStore(place / "store" / "datasets"))


def more(place: Path, rows: pd.DataFrame, *, times: bool = True, quarantine: bool = False) -> Dataset:
    """Rows that came in since, as a version that has them too."""
    source = write(place / str(rows["sample"].iloc[0]), rows, times=times, quarantine=quarantine)
    return append_to_dataset(source, DatasetStore(place / "store" / "datasets"))


def quick_run(dataset: str, seed: int = 0) -> RunConfig:
    """A run of a second."""
    return RunConfig.load(
        dataset=dataset,
        seed=seed,
        preset="tiny",
        bags={"num_bags": 3, "num_row_draws": 1},
        learners={"learners_per_bag": 1, "include": ("linear",)},
    )


def train(place: Path, dataset: Dataset, seed: int = 0) -> str:
    """The folder of an ensemble of it, with its profile."""
    store = place / "store"
    fitted = fit_ensemble(quick_run(dataset.ref, seed), store, processes=False)
    publish_profile(open_published(fitted.folder), dataset_ref(dataset, store), store, None)
    return str(fitted.folder)
