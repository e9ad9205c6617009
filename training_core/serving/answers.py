"""What an ensemble says about samples, as JSON: the answer, how sure it is, and what it looked at."""

import math
from typing import Any

import numpy as np

from training_core.evaluation.predictions import Predictions
from training_core.schema import Samples
from training_core.selection.ensemble import Ensemble


def answer_rows(ensemble: Ensemble, samples: Samples) -> list[dict[str, Any]]:
    """One object per sample, ready for JSON (no NaN, no infinity).

    Every one has `id`, `prediction`, `confidence` in [0, 1], `used` (modalities that learners with a say looked at),
    `missing` and `num_learners` (0: none could answer, and the answer is what is known without input).
    Classification: `prediction` is the likeliest class, `probabilities` by class. Multilabel: the labels of at least
    even probability. Both: `prediction_set`, what cannot be ruled out at the promised coverage, the likeliest first.
    Regression: `prediction` is the value (several targets: by name), `std` the error to be expected, `interval` two
    ends, null where nothing can be promised. Sets and intervals are left out where the model promises none.
    """
    predictions = ensemble.predict(samples)
    fill = _numbers if ensemble.task.kind == "regression" else _probabilities
    rows = fill(ensemble, predictions)
    names = ensemble.spec.names
    masks, kind_of_row = np.unique(samples.availability(names), axis=0, return_inverse=True)
    looked_at = [_looked_at(ensemble, dict(zip(names, mask, strict=True))) for mask in masks.tolist()]
    for i, row in enumerate(rows):
        used, missing = looked_at[kind_of_row.reshape(-1)[i]]
        row["confidence"] = float(predictions.confidence[i])
        row["used"], row["missing"] = used, missing
        row["num_learners"] = int(predictions.num_learners[i])
    return [{"id": str(name)} | row for name, row in zip(samples.ids, rows, strict=True)]


def _probabilities(ensemble: Ensemble, predictions: Predictions) -> list[dict[str, Any]]:
    classes, single = ensemble.task.classes, ensemble.task.kind == "classification"
    order = np.argsort(-predictions.values, axis=1, kind="stable")
    rows: list[dict[str, Any]] = []
    for i, values in enumerate(predictions.values.tolist()):
        best: Any = classes[order[i, 0]] if single else [n for n, p in zip(classes, values, strict=True) if p >= 0.5]
        row = {"prediction": best, "probabilities": dict(zip(classes, values, strict=True))}
        if predictions.sets is not None:
            row["prediction_set"] = [classes[k] for k in order[i] if predictions.sets[i, k]]
        rows.append(row)
    return rows


def _numbers(ensemble: Ensemble, predictions: Predictions) -> list[dict[str, Any]]:
    targets = ensemble.task.targets
    rows: list[dict[str, Any]] = []
    for i, values in enumerate(predictions.values):
        row = {"prediction": _named(targets, values)}
        if predictions.std is not None:
            row["std"] = _named(targets, predictions.std[i])
        if predictions.lower is not None and predictions.upper is not None:
            row["interval"] = {
                "lower": _named(targets, predictions.lower[i]),
                "upper": _named(targets, predictions.upper[i]),
            }
        rows.append(row)
    return rows


def _named(targets: tuple[str, ...], values: np.ndarray) -> Any:
    """One number, or several by the names of their targets; null for what is not finite."""
    plain = [value if math.isfinite(value) else None for value in values.tolist()]
    return plain[0] if len(targets) == 1 else dict(zip(targets, plain, strict=True))


def _looked_at(ensemble: Ensemble, available: dict[str, bool]) -> tuple[list[str], list[str]]:
    """Modalities used and missing where those marked are there."""
    there = frozenset(name for name, here in available.items() if here)
    speaking = ensemble.rule(there).weights
    seen = {name for member in ensemble.members if member.name in speaking for name in member.modalities}
    return [name for name in available if name in seen & there], [name for name in available if name not in there]
