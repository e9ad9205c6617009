"""Whether an export answers like the ensemble it was made from, under every pattern of missing modalities."""

import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from training_core.config import Config
from training_core.errors import GateError
from training_core.evaluation.predictions import Predictions
from training_core.export.probing import some_missing
from training_core.quantities import NonNegativeFloat, NonNegativeInt
from training_core.schema import DataSpec, Pattern, Samples, pattern_key, patterns_to_judge
from training_core.selection.ensemble import Ensemble

TOLERANCE = 1e-5
"""How far an answer may be off: in probability, or for values in standard deviations of the target."""
_SINGLE_ROWS = 4
"""Rows of every pattern that are also asked for one at a time."""
_EDGE = 1e-3
"""Share of classes or labels that may be on the other side of the edge of a prediction set."""

Answers = Mapping[str, np.ndarray]
Predict = Callable[[Samples], Answers]


class PatternParity(Config):
    """How an export compares under one pattern."""

    available: str
    """The modalities that are there, joined by `+`."""
    difference: NonNegativeFloat
    """Greatest difference of any number in an answer."""
    num_rows: NonNegativeInt
    """Rows asked for at once; some of them again, one at a time."""


class Parity(Config):
    """How an export compares."""

    format: str
    patterns: tuple[PatternParity, ...]
    """Every pattern of up to four modalities; of more the full set, each one missing, and each alone. The last is of
    rows that lack different modalities."""

    @property
    def difference(self) -> float:
        """Greatest difference of any answer."""
        return max(pattern.difference for pattern in self.patterns)


def check_parity(
    name: str, ensemble: Ensemble, predict: Predict, samples: Samples, difference: Callable[..., float]
) -> Parity:
    """Ask `predict` and `ensemble` the same.

    Args:
        name: of the format that `predict` runs.
        ensemble: what it was made from.
        predict: answers for raw samples, in the form of `as_answers`.
        samples: raw, all modalities there.
        difference: between two answers; the bundle's own.

    Raises:
        GateError: they differ by more than `TOLERANCE`; the pattern is named.
    """
    units = answer_units(ensemble)
    mixed = some_missing(samples)
    asked: list[tuple[Pattern | None, Samples]] = [
        (pattern, samples.without(set(ensemble.spec.names) - pattern))
        for pattern in patterns_to_judge(ensemble.spec.names)
    ]
    asked.append((None, mixed))
    found = []
    for pattern, part in asked:
        wanted = as_answers(ensemble.predict(part))
        worst = _gap(predict(part), wanted, units, difference)
        for row in range(min(_SINGLE_ROWS, len(part))):
            one = slice(row, row + 1)
            expected = {name: values[one] for name, values in wanted.items()}
            worst = max(worst, _gap(predict(part.take(one)), expected, units, difference))
        key = "mixed" if pattern is None else pattern_key(pattern, ensemble.spec.names)
        if not worst <= TOLERANCE:
            raise GateError(
                f"the {name} export differs from the ensemble by {worst:.3g} with {key} available, expected at most "
                f"{TOLERANCE:g}; nothing was published"
            )
        found.append(PatternParity(available=key, difference=worst, num_rows=len(part)))
    return Parity(format=name, patterns=tuple(found))


def _gap(said: Answers, wanted: Answers, units: list[float] | None, difference: Callable[..., float]) -> float:
    if "sets" in wanted and (said["sets"] != wanted["sets"]).sum() > max(1.0, _EDGE * wanted["sets"].size):
        return float("inf")
    return difference(said, wanted, units)


def as_answers(predictions: Predictions) -> dict[str, np.ndarray]:
    """Predictions as the arrays a graph gives; what is not promised is not there."""
    fields = ("values", "confidence", "num_learners", "std", "sets", "lower", "upper")
    named = {name: getattr(predictions, name) for name in fields}
    return {name: values for name, values in named.items() if values is not None}


def answer_units(ensemble: Ensemble) -> list[float] | None:
    """What counts as 1 when answers are compared: of regression the targets' standard deviations; else None."""
    std = ensemble.manifest.prior_std
    return [max(value, 1e-12) for value in std] if ensemble.task.kind == "regression" and std else None


def plain_arrays(samples: Samples, spec: DataSpec) -> dict[str, Any]:
    """Raw samples as people have them: category names, texts, and a table as columns."""
    arrays: dict[str, Any] = {}
    for modality in spec.modalities:
        values = samples.inputs[modality.name]
        if modality.kind == "text":
            arrays[modality.name] = np.array([str(text) for text in values])
        elif modality.kind == "tabular":
            arrays[modality.name] = {
                column.name: values[:, i] if column.categories is None else _names(values[:, i], column.categories)
                for i, column in enumerate(modality.columns)
            }
        else:
            arrays[modality.name] = values
    return arrays


def load_runtime(folder: Path) -> ModuleType:
    """The bundle's own `inference.py`, as whoever gets the bundle will import it."""
    name = "bundle_inputs"
    sys.path.insert(0, str(folder))
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.modules.pop(name, None)
    try:
        spec = importlib.util.spec_from_file_location("polychoir_bundle_inference", folder / "inference.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop(name, None)
        sys.dont_write_bytecode = written


def _names(codes: np.ndarray, categories: tuple[str, ...]) -> np.ndarray:
    return np.array(["" if np.isnan(code) else categories[int(code)] for code in codes], dtype=str)
