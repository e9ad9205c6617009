"""Rows with known answers for domain reports."""

from collections.abc import Mapping

import numpy as np

from training_core.evaluation.domains.judged import JudgedRows
from training_core.evaluation.predictions import Predictions
from training_core.schema import TaskSpec


def predictions(values: np.ndarray) -> Predictions:
    values = np.asarray(values, dtype=np.float64)
    return Predictions(values=values, confidence=np.ones(len(values)), num_learners=np.ones(len(values), np.int64))


def judged(
    task: TaskSpec,
    target: np.ndarray,
    values: np.ndarray,
    patterns: Mapping[str, np.ndarray] | None = None,
    modalities: tuple[str, ...] = (),
    **columns: np.ndarray,
) -> JudgedRows:
    """`patterns` are named by their modalities, joined with `+`."""
    return JudgedRows(
        task=task,
        target=np.asarray(target),
        predictions=predictions(values),
        modalities=modalities,
        patterns={frozenset(name.split("+")): predictions(found) for name, found in (patterns or {}).items()},
        columns=columns,
    )


def two_classes(num_rows: int = 400, noise: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Class codes [N] and probabilities [N, 2] that rank them fairly well."""
    draws = np.random.default_rng(seed)
    target = draws.integers(0, 2, num_rows)
    yes = 1 / (1 + np.exp(-(2 * target - 1 + noise * draws.normal(size=num_rows))))
    return target, np.stack([1 - yes, yes], axis=1)
