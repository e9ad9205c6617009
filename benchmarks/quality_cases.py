"""Data sets for the comparison of quality: bundled ones, made-up ones, and any folder of sources."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml

from training_core.data.ingestion.digits import write_digits_source
from training_core.data.synthetic import SyntheticConfig, SyntheticModality, make_synthetic

TEST_SHARE = 0.3


@dataclass(frozen=True)
class Case:
    """A data set, and how its source is written with the split of a seed."""

    name: str
    write: Callable[[Path, int], Path]
    """Folder and seed to the path of a `source.yaml`."""
    has_own_split: bool = False
    """Its split is given, so that a seed changes nothing in it."""


def bundled_cases() -> tuple[Case, ...]:
    """What needs no files: digits in three views and in halves, and two synthetic worlds."""
    return (
        Case("digits", lambda folder, seed: with_split(write_digits_source(folder / "all"), folder, seed)),
        Case("halves", write_halves),
        Case(
            "planted",
            lambda folder, seed: with_split(make_synthetic(planted(seed)).write(folder / "all"), folder, seed),
        ),
        Case("mixed", lambda folder, seed: with_split(make_synthetic(mixed(seed)).write(folder / "all"), folder, seed)),
    )


def cases_in(folder: Path) -> tuple[Case, ...]:
    """One case per `source.yaml` in the folders of `folder`."""
    return tuple(case_of(source) for source in sorted(folder.glob("*/source.yaml")))


def case_of(source: Path) -> Case:
    """The case of a SOURCE.yaml, called as the folder it is in."""
    given = "file" in (yaml.safe_load(source.read_text()).get("split") or {})
    return Case(
        source.resolve().parent.name, lambda folder, seed: with_split(source, folder, seed), has_own_split=given
    )


def with_split(source: Path, folder: Path, seed: int) -> Path:
    """The same source in `folder`, split at random by `seed`; one whose split is given keeps it."""
    folder.mkdir(parents=True, exist_ok=True)
    described: dict[str, Any] = yaml.safe_load(source.read_text())
    if "file" not in (described.get("split") or {}):
        described["split"] = {"test": TEST_SHARE, "seed": seed}
    for file in source.parent.iterdir():
        link = folder / file.name
        if file != source and file.resolve() != folder.resolve() and not link.exists():
            link.symlink_to(file.resolve())
    path = folder / "source.yaml"
    path.write_text(yaml.safe_dump(described, sort_keys=False))
    return path


def write_halves(folder: Path, seed: int) -> Path:
    """Scikit-learn's digits as the upper and the lower four rows of their pixels: neither half is enough."""
    from sklearn.datasets import load_digits

    place = folder / "all"
    place.mkdir(parents=True, exist_ok=True)
    loaded: Any = load_digits()
    images = np.asarray(loaded.images, np.float32)
    np.savez(place / "halves.npz", top=images[:, :4].reshape(-1, 32), bottom=images[:, 4:].reshape(-1, 32))
    (place / "labels.csv").write_text("digit\n" + "\n".join(str(int(label)) for label in loaded.target) + "\n")
    described = {
        "name": "halves",
        "task": {"kind": "classification", "target": {"file": "labels.csv", "column": "digit"}},
        "modalities": {name: {"kind": "vector", "file": "halves.npz", "key": name} for name in ("top", "bottom")},
    }
    (place / "source.yaml").write_text(yaml.safe_dump(described, sort_keys=False))
    return with_split(place / "source.yaml", folder, seed)


def planted(seed: int) -> SyntheticConfig:
    """Five classes told by two independent views, one of which is repeated, beside one that tells nothing."""
    return SyntheticConfig(
        name="planted",
        num_rows=2500,
        num_outputs=5,
        seed=seed,
        modalities=(
            SyntheticModality(name="left", strength=2.0, size=20),
            SyntheticModality(name="right", strength=1.6, size=20),
            SyntheticModality(name="echo", role="redundant", copies="left", size=20),
            SyntheticModality(name="hum", role="noise", size=20),
        ),
    )


def mixed(seed: int) -> SyntheticConfig:
    """Three classes told by an image, a table, a sequence and a text, each missing now and then."""
    return SyntheticConfig(
        name="mixed",
        num_rows=2000,
        num_outputs=3,
        label_noise=0.02,
        seed=seed,
        modalities=(
            SyntheticModality(name="photo", kind="image", strength=1.8, missing=0.1),
            SyntheticModality(name="facts", kind="tabular", strength=1.4, size=12, missing=0.1),
            SyntheticModality(name="clicks", kind="sequence", strength=1.4, size=8, missing=0.1),
            SyntheticModality(name="note", kind="text", strength=1.4, size=12, missing=0.2),
        ),
    )


def cpu_seconds() -> float:
    """Of this process and of all that it and its children began, those that have ended included."""
    this = psutil.Process()
    used = 0.0
    for process in (this, *this.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            used += times.user + times.system + times.children_user + times.children_system
    return used
