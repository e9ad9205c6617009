"""Builders of small worlds with a known answer, shared by tests that run the whole pipeline."""

import subprocess
from pathlib import Path

import numpy as np
import pandas as pd

from training_core.campaigns.run_config import RunConfig
from training_core.data.splitting.bags import Bag
from training_core.jobs import Cohort, DatasetRef, Job
from training_core.learners import LinearConfig
from training_core.recipes import MultimodalConfig


def write_source(folder: Path, num_rows: int = 400, seed: int = 0, name: str = "world", noise: float = 0.6) -> Path:
    """A source of three classes seen by two vectors and a table; each alone tells them apart fairly well."""
    folder.mkdir(parents=True, exist_ok=True)
    draws = np.random.default_rng(seed)
    label = np.arange(num_rows) % 3
    centres = {"left": draws.normal(size=(3, 4)), "right": draws.normal(size=(3, 3))}
    views = {n: (c[label] + noise * draws.normal(size=(num_rows, c.shape[1]))).astype("f4") for n, c in centres.items()}
    np.savez(folder / "views.npz", **views)  # pyright: ignore[reportArgumentType]
    table = pd.DataFrame(
        {
            "label": np.array(["red", "green", "blue"])[label],
            "size": label + noise * draws.normal(size=num_rows),
            "shop": np.array(["north", "south", "east"])[(label + (draws.random(num_rows) < 0.2)) % 3],
        }
    )
    table.to_csv(folder / "table.csv", index=False)
    source = folder / "source.yaml"
    source.write_text(
        f"name: {name}\n"
        "task: {kind: classification, target: {file: table.csv, column: label}}\n"
        "modalities:\n"
        "  left:  {kind: vector, file: views.npz, key: left}\n"
        "  right: {kind: vector, file: views.npz, key: right}\n"
        "  facts: {kind: tabular, file: table.csv, columns: [size, shop], categorical: [shop]}\n"
    )
    return source


def small_run(dataset: str | Path, **changes: object) -> RunConfig:
    """A run that takes seconds: six bags, one learner each, a few epochs."""
    settings: dict[str, object] = {
        "preset": "quick",
        "bags": {"num_bags": 6, "num_row_draws": 1},
        "learners": {"learners_per_bag": 1, "include": ("linear", "tabular_mlp")},
        "training": {"epochs": 20, "patience": 10, "lr": 0.01},
        "tabular_mlp": {"width": 16},
        "budget": {"group_size": 2},
    }
    return RunConfig.load(dataset=str(dataset), **{**settings, **changes})


def unreal_cohort(name: str) -> Cohort:
    """A group of one job on data that are nowhere, for tests in which nothing is trained."""
    data = DatasetRef(root="/data", name="world", version="1f3a", fingerprint="1f3a" * 16)
    bag = Bag(
        name="b", modalities=("vec",), sampling="bootstrap", row_fraction=1, feature_fraction=1, seed=0, row_seed=0
    )
    job = Job(name=name, recipe=MultimodalConfig(learner=LinearConfig()), dataset=data, subset=bag, seed=0)
    return Cohort(name=name, jobs=(job,))


def sleeping_child() -> subprocess.Popen[str]:
    """A process in place of one that trains, which never says a word."""
    return subprocess.Popen(["sleep", "1000"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
