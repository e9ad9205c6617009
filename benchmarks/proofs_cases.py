"""The cases of `proofs.py`: those of the comparison of quality, tables cut into modalities, and more made-up worlds."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from quality_cases import Case, bundled_cases, cases_in, with_split

from training_core.data.synthetic import SyntheticConfig, SyntheticModality, make_synthetic


def all_cases(sources: Path | None, num_rows: int) -> tuple[Case, ...]:
    """Bundled cases, cut tables and worlds; those of `sources` cut down to `num_rows` rows."""
    return (
        *bundled_cases(),
        Case("wine", cut("wine", {"acids": range(5), "colour": range(5, 13)})),
        Case("cancer", cut("breast_cancer", {"mean": range(10), "error": range(10, 20), "worst": range(20, 30)})),
        Case("iris", cut("iris", {"sepal": range(2), "petal": range(2, 4)})),
        Case("diabetes", cut("diabetes", {"body": range(4), "serum": range(4, 10)}, "regression")),
        Case("values", world(values)),
        Case("labels", world(labels)),
        *(
            Case(case.name, sliced(case, num_rows), case.has_own_split)
            for case in (cases_in(sources) if sources else ())
        ),
    )


def world(config: Callable[[int], SyntheticConfig]) -> Callable[[Path, int], Path]:
    """How a made-up world is written, another one and another split for every seed."""
    return lambda folder, seed: with_split(make_synthetic(config(seed)).write(folder / "all"), folder, seed)


def values(seed: int) -> SyntheticConfig:
    """Two numbers told by a vector and a table, beside a repetition and noise."""
    return SyntheticConfig(
        name="values",
        task="regression",
        num_rows=2000,
        num_outputs=2,
        label_noise=0.2,
        seed=seed,
        modalities=(
            SyntheticModality(name="left", strength=1.0, size=16),
            SyntheticModality(name="facts", kind="tabular", strength=1.0, size=12, missing=0.1),
            SyntheticModality(name="echo", role="redundant", copies="left", size=16),
            SyntheticModality(name="hum", role="noise", size=16),
        ),
    )


def labels(seed: int) -> SyntheticConfig:
    """Four labels told by three views, one of them a text, beside noise."""
    return SyntheticConfig(
        name="labels",
        task="multilabel",
        num_rows=2000,
        num_outputs=4,
        seed=seed,
        modalities=(
            SyntheticModality(name="left", strength=1.6, size=16),
            SyntheticModality(name="right", strength=1.2, size=16, missing=0.1),
            SyntheticModality(name="note", kind="text", strength=1.2, size=12),
            SyntheticModality(name="hum", role="noise", size=16),
        ),
    )


def cut(name: str, views: Mapping[str, range], kind: str = "classification") -> Callable[[Path, int], Path]:
    """How a table of scikit-learn is written with its columns dealt to modalities."""

    def write(folder: Path, seed: int) -> Path:
        from sklearn import datasets

        loaded: Any = getattr(datasets, f"load_{name}")()
        columns = [f"c{i:02d}" for i in range(loaded.data.shape[1])]
        place = folder / "all"
        place.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(loaded.data, columns=columns).assign(target=loaded.target).to_csv(place / "rows.csv", index=False)
        described = {
            "name": name.replace("_", "-"),
            "task": {"kind": kind, "target": {"file": "rows.csv", "column": "target"}},
            "modalities": {
                view: {"kind": "tabular", "file": "rows.csv", "columns": [columns[i] for i in chosen]}
                for view, chosen in views.items()
            },
        }
        (place / "source.yaml").write_text(yaml.safe_dump(described, sort_keys=False))
        return with_split(place / "source.yaml", folder, seed)

    return write


def sliced(case: Case, num_rows: int) -> Callable[[Path, int], Path]:
    """The same case with only so many rows of its tables, drawn by the seed and left in their order."""

    def write(folder: Path, seed: int) -> Path:
        source = case.write(folder, seed)
        for file in list(source.parent.iterdir()):
            read = {".csv": pd.read_csv, ".parquet": pd.read_parquet}.get(file.suffix)
            if read is None:
                continue
            rows = read(file.resolve())
            if len(rows) <= num_rows:
                continue
            kept = np.sort(np.random.default_rng(seed).choice(len(rows), num_rows, replace=False))
            file.unlink()
            rows = rows.iloc[kept].reset_index(drop=True)
            rows.to_csv(file, index=False) if file.suffix == ".csv" else rows.to_parquet(file)
        return source

    return write
