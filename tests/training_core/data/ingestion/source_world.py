"""A small source with every kind of modality, in memory until it is written."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from training_core.data.ingestion.ingest import prepare_dataset
from training_core.data.storage.dataset import Dataset
from training_core.data.storage.store import DatasetStore

NUM_ROWS = 40
IDS = [f"s{i:02d}" for i in range(NUM_ROWS)]


class World:
    """A source in memory, with every kind of modality: change what you like, then prepare it."""

    def __init__(self, folder: Path) -> None:
        draws = np.random.default_rng(0)
        self.folder = folder
        self.meta = pd.DataFrame(
            {
                "sample_id": IDS,
                "label": [("cat", "dog")[i % 2] for i in range(NUM_ROWS)],
                "price": draws.normal(size=NUM_ROWS).round(3),
                "wet": [i % 2 for i in range(NUM_ROWS)],
                "red": [i % 3 == 0 for i in range(NUM_ROWS)],
                "user": [f"u{i // 4}" for i in range(NUM_ROWS)],
                "ts": [f"2026-01-{1 + i // 2:02d}" for i in range(NUM_ROWS)],
                "split": ["test" if i % 4 == 0 else "train" for i in range(NUM_ROWS)],
                "title": [f"title {i}" for i in range(NUM_ROWS)],
                "body": [f"schöner Text {i}" for i in range(NUM_ROWS)],
                "age": draws.integers(18, 80, NUM_ROWS).astype(object),
                "city": [("Köln", "Ulm", "Bonn")[i % 3] for i in range(NUM_ROWS)],
            }
        )
        self.photo = draws.random((NUM_ROWS, 6, 6)).astype(np.float32)
        self.clicks = draws.random((NUM_ROWS, 5, 2))
        self.vec = draws.random((NUM_ROWS, 4)).astype(np.float32)
        self.extra: dict[str, np.ndarray] = {}
        self.source: dict[str, Any] = {
            "name": "shoes",
            "task": {"kind": "classification", "target": {"file": "meta.csv", "column": "label"}},
            "modalities": {
                "photo": {"kind": "image", "file": "photo.npy"},
                "review": {"kind": "text", "file": "meta.csv", "columns": ["title", "body"]},
                "clicks": {"kind": "sequence", "file": "arrays.npz", "key": "clicks"},
                "vec": {"kind": "vector", "file": "arrays.npz", "key": "vec"},
                "table": {"kind": "tabular", "file": "meta.csv", "columns": ["age", "city"], "categorical": ["city"]},
            },
        }

    @property
    def store(self) -> DatasetStore:
        return DatasetStore(self.folder / "store")

    def write(self) -> Path:
        self.meta.to_csv(self.folder / "meta.csv", index=False)
        np.save(self.folder / "photo.npy", self.photo)
        np.savez(self.folder / "arrays.npz", clicks=self.clicks, vec=self.vec, **self.extra)
        path = self.folder / "source.yaml"
        path.write_text(yaml.safe_dump(self.source, sort_keys=False, allow_unicode=True), encoding="utf-8")
        return path

    def prepare(self) -> Dataset:
        return prepare_dataset(self.write(), self.store)

    def keep_only(self, *modalities: str) -> None:
        self.source["modalities"] = {name: self.source["modalities"][name] for name in modalities}


def column(name: str) -> dict[str, str]:
    return {"file": "meta.csv", "column": name}
