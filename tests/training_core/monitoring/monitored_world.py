"""Rows of every kind of modality with a known distribution, shifted or not, for the tests of monitoring."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from training_core.data.views import HeldSamples
from training_core.evaluation.predictions import Predictions
from training_core.schema import ColumnSpec, DataSpec, ModalitySpec, Samples, TaskSpec

WORDS = np.array(["the", "dress", "fits", "well", "but", "blue", "one", "was", "not", "so", "good", "for"], object)
COLOURS = ("red", "green", "blue")
SPEC = DataSpec(
    modalities=(
        ModalitySpec(
            name="facts",
            kind="tabular",
            shape=(3,),
            columns=(ColumnSpec(name="size"), ColumnSpec(name="age"), ColumnSpec(name="colour", categories=COLOURS)),
        ),
        ModalitySpec(name="left", kind="vector", shape=(4,)),
        ModalitySpec(name="photo", kind="image", shape=(1, 6, 6)),
        ModalitySpec(name="clicks", kind="sequence", shape=(5, 2)),
        ModalitySpec(name="review", kind="text", columns=(ColumnSpec(name="body"),)),
    ),
    task=TaskSpec.classification(("no", "yes")),
)


def world(
    num_rows: int, seed: int = 0, shift: Mapping[str, float] | None = None, missing: Mapping[str, float] | None = None
) -> Samples:
    """Standard normal numbers, equally likely colours and words; `shift` moves a modality, `missing` takes it away."""
    random, moved, absent = np.random.default_rng(seed), shift or {}, missing or {}
    table = random.normal(size=(num_rows, 2)) + moved.get("facts", 0.0)
    colour = random.integers(0, 3, num_rows).astype(np.float64)
    words = WORDS[: len(WORDS) // 2] if moved.get("review") else WORDS
    inputs: dict[str, np.ndarray] = {
        "facts": np.column_stack([table, colour]),
        "left": (random.normal(size=(num_rows, 4)) + moved.get("left", 0.0)).astype(np.float32),
        "photo": (random.normal(size=(num_rows, 1, 6, 6)) + moved.get("photo", 0.0)).astype(np.float32),
        "clicks": (random.normal(size=(num_rows, 5, 2)) + moved.get("clicks", 0.0)).astype(np.float32),
        "review": np.array([" ".join(random.choice(words, 8)) for _ in range(num_rows)], object),
    }
    return Samples(
        inputs=inputs,
        available={name: random.random(num_rows) >= absent.get(name, 0.1) for name in inputs},
        ids=np.arange(num_rows).astype(str).astype(object),
        target=(table[:, 0] + random.normal(size=num_rows) > 0).astype(np.int64),
    )


def held(samples: Samples, spec: DataSpec = SPEC) -> HeldSamples:
    return HeldSamples(samples, spec)


def answer(samples: Samples) -> Predictions:
    """What a model that knows the world of `world` says: it looks at `size` alone."""
    size = np.where(samples.available["facts"], samples.inputs["facts"][:, 0], 0.0)
    yes = 1 / (1 + np.exp(-1.7 * size))
    values = np.column_stack([1 - yes, yes])
    return Predictions(values, values.max(axis=1), np.ones(len(values), np.int64))


def table_of(values: np.ndarray, task: TaskSpec | None = None, target: np.ndarray | None = None) -> HeldSamples:
    """A table of numbers [N, columns] alone, always there."""
    columns = tuple(ColumnSpec(name=f"x{i}") for i in range(values.shape[1]))
    spec = DataSpec(
        modalities=(ModalitySpec(name="facts", kind="tabular", shape=(len(columns),), columns=columns),),
        task=task or TaskSpec.classification(2),
    )
    rows = len(values)
    ids = np.arange(rows).astype(str).astype(object)
    return HeldSamples(Samples({"facts": values}, {"facts": np.ones(rows, bool)}, ids, target), spec)


def without_target(samples: Samples) -> Samples:
    return replace(samples, target=None)
