"""Builders of small worlds with a known answer, shared by tests that run the whole pipeline."""

from pathlib import Path

import numpy as np
import pandas as pd

from training_core.campaigns.run_config import RunConfig


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
