"""What there is to watch in rows: their features, gaps, predictions and answers, as plain columns by name."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from training_core.data.views import RowSource
from training_core.errors import DataError
from training_core.evaluation import metrics
from training_core.evaluation.predictions import Predictions
from training_core.monitoring.tally import PerformanceTally
from training_core.schema import DataSpec, ModalitySpec, Samples, TaskSpec
from training_core.seeding import generator

Predict = Callable[[Samples], Predictions]
"""What answers samples: `Ensemble.predict`, for one."""
OTHER = "other"
"""The last category of every scale: whatever is none of those it names."""
CONFIDENCE = "prediction/confidence"
PATTERN = "pattern/available"
_BLOCK_BYTES = 8_000_000
_FEWEST_BLOCK_ROWS = 4  # of the largest images
_MOST_BLOCK_ROWS = 4096
_MOST_CELLS = 20_000_000  # columns are held at once: 160 MB
_FEWEST_ROWS = 1000


@dataclass
class Columns:
    """Columns of the measured rows, all of those rows or those that can have it.

    `numbers`: float64 [n], NaN where missing. `categories`: codes int64 [n], -1 where missing. `shares`: (rows that
    have the property, rows). `patterns`: rows per set of available modalities. `performance`: None when no answer or
    no target is known.
    """

    num_rows: int
    measured_rows: int
    numbers: dict[str, np.ndarray] = field(default_factory=dict)
    categories: dict[str, np.ndarray] = field(default_factory=dict)
    shares: dict[str, tuple[int, int]] = field(default_factory=dict)
    patterns: Counter[tuple[str, ...]] = field(default_factory=Counter)
    performance: PerformanceTally | None = None


def drawn_rows(source: RowSource, max_rows: int, max_vector_features: int, seed: int) -> RowSource:
    """At most `max_rows` rows of `source`, drawn without replacement and in order; fewer of very many columns."""
    wide = sum(m.num_features for m in source.spec.modalities if _watches_elements(m, max_vector_features))
    limit = min(max_rows, max(_FEWEST_ROWS, _MOST_CELLS // max(1, wide)))
    if len(source) <= limit:
        return source
    rows = generator(seed, "monitored rows").choice(len(source), limit, replace=False)
    return source.subset(np.sort(rows))


def blocks_of(source: RowSource, num_rows: int) -> Iterator[Samples]:
    """The rows of `source`, drawn from `num_rows`, in blocks of bounded size.

    Stored arrays are read in chunks of neighbouring rows, so what rows lie between those drawn counts, too.
    """
    row_bytes = 1 + 4 * sum(m.num_features for m in source.spec.modalities) * num_rows / max(1, len(source))
    yield from source.blocks(int(min(_MOST_BLOCK_ROWS, max(_FEWEST_BLOCK_ROWS, _BLOCK_BYTES / row_bytes))))


def columns_of(
    source: RowSource, num_rows: int, max_vector_features: int, predict: Predict | None, each: Callable[[Samples], None]
) -> Columns:
    """The columns of `source`, read block by block; `each` block is shown to a caller that wants the arrays.

    Args:
        source: the rows to measure.
        num_rows: how many they were drawn from.
        max_vector_features: vectors of at most so many features give a column for each.
        predict: gives the predictions to watch; None: none are.
        each: called with every block.
    """
    spec = source.spec
    found = Columns(num_rows, len(source))
    numbers: dict[str, list[np.ndarray]] = {}
    categories: dict[str, list[np.ndarray]] = {}
    told: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for block in blocks_of(source, num_rows):
        each(block)
        parts: dict[str, np.ndarray] = {}
        for modality in spec.modalities:
            there = block.available[modality.name]
            _add_share(found, f"missing/{modality.name}", ~there)
            values = block.inputs[modality.name][there]
            if modality.kind == "tabular":
                _table(found, modality, values, parts, categories)
            else:
                parts |= _summary(modality, values, max_vector_features)
        if len(spec.modalities) > 1:
            found.patterns.update(_patterns(block, spec))
        if block.target is not None:
            _answers(found, "target", spec.task, block.target, parts, categories)
        if predict is not None:
            predicted = predict(block)
            said = np.argmax(predicted.values, axis=1) if spec.task.kind == "classification" else predicted.values
            _answers(found, "prediction", spec.task, said, parts, categories)
            parts[CONFIDENCE] = predicted.confidence
            if block.target is not None:
                told.append((block.target, predicted.values, predicted.confidence))
        for name, values in parts.items():
            numbers.setdefault(name, []).append(values)
    found.numbers = {name: np.concatenate(values) for name, values in numbers.items()}
    found.categories = {name: np.concatenate(values) for name, values in categories.items()}
    found.performance = _performance(spec.task, told)
    return found


def check_same(spec: DataSpec, given: DataSpec) -> None:
    """Whether rows of `given` can be measured as rows of `spec`.

    Raises:
        DataError: a modality is missing or another, or the task is another.
    """
    for modality in spec.modalities:
        other = next((m for m in given.modalities if m.name == modality.name), None)
        if other is None:
            raise DataError(
                f"the rows have no modality '{modality.name}', which the profile watches; they have "
                f"{', '.join(given.names)}. Give one that is missing as unavailable"
            )
        if (other.kind, other.shape, other.columns) != (modality.kind, modality.shape, modality.columns):
            raise DataError(
                f"modality '{modality.name}' is {other.kind} {list(other.shape)} in the rows and {modality.kind} "
                f"{list(modality.shape)} in the profile, or has other columns or categories; prepare the rows with the "
                "description the model was trained with"
            )
    if spec.task != given.task:
        raise DataError("the rows have another task than the profile; prepare them with the model's description")


def category_names(spec: DataSpec) -> dict[str, tuple[str, ...]]:
    """The categories of every column of codes, by its name; those of patterns are known from the rows only."""
    found = {
        f"input/{modality.name}.{column.name}": column.categories
        for modality in spec.modalities
        if modality.kind == "tabular"
        for column in modality.columns
        if column.categories is not None
    }
    if spec.task.kind == "classification":
        found |= {f"{family}/class": spec.task.classes for family in ("target", "prediction")}
    return found


def _watches_elements(modality: ModalitySpec, max_vector_features: int) -> bool:
    return modality.kind == "tabular" or (modality.kind == "vector" and modality.num_features <= max_vector_features)


def _table(
    found: Columns,
    modality: ModalitySpec,
    values: np.ndarray,
    parts: dict[str, np.ndarray],
    categories: dict[str, list[np.ndarray]],
) -> None:
    for place, column in enumerate(modality.columns):
        name = f"{modality.name}.{column.name}"
        cells = values[:, place].astype(np.float64)
        known = np.isfinite(cells)
        _add_share(found, f"missing/{name}", ~known)
        if column.categories is None:
            parts[f"input/{name}"] = cells
        else:
            codes = np.where(known, cells, -1.0).astype(np.int64)
            categories.setdefault(f"input/{name}", []).append(codes)


def _summary(modality: ModalitySpec, values: np.ndarray, max_vector_features: int) -> dict[str, np.ndarray]:
    """A few numbers for each row of an array or a text."""
    prefix = f"input/{modality.name}"
    if modality.kind == "text":
        return {
            f"{prefix}.characters": np.array([len(text) for text in values], np.float64),
            f"{prefix}.words": np.array([len(text.split()) for text in values], np.float64),
        }
    if _watches_elements(modality, max_vector_features):
        return {f"{prefix}[{i}]": values[:, i].astype(np.float64) for i in range(modality.num_features)}
    flat = values.reshape(len(values), modality.num_features).astype(np.float64)
    known = np.isfinite(flat)
    count = known.sum(axis=1)
    safe = np.maximum(count, 1)
    mean = np.where(known, flat, 0.0).sum(axis=1) / safe
    spread = np.sqrt((np.where(known, flat - mean[:, None], 0.0) ** 2).sum(axis=1) / safe)
    empty = np.where(count > 0, 0.0, np.nan)
    return {f"{prefix}.mean": mean + empty, f"{prefix}.spread": spread + empty}


def _answers(
    found: Columns,
    family: str,
    task: TaskSpec,
    values: np.ndarray,
    parts: dict[str, np.ndarray],
    categories: dict[str, list[np.ndarray]],
) -> None:
    """Classes, labels or values as columns; of a target that is unknown (-1 or NaN) nothing counts."""
    if task.kind == "classification":
        categories.setdefault(f"{family}/class", []).append(values.astype(np.int64))
        return
    for place, name in enumerate(task.classes if task.kind == "multilabel" else task.targets):
        column = values[:, place].astype(np.float64)
        if task.kind == "multilabel":
            _add_share(found, f"{family}/{name}", column[np.isfinite(column)] > 0.5)
        else:
            parts[f"{family}/{name}"] = column


def _add_share(found: Columns, name: str, has: np.ndarray) -> None:
    hits, rows = found.shares.get(name, (0, 0))
    found.shares[name] = hits + int(has.sum()), rows + len(has)


def _patterns(block: Samples, spec: DataSpec) -> Counter[tuple[str, ...]]:
    there = block.availability(spec.names)
    kinds, count = np.unique(there, axis=0, return_counts=True) if len(there) else (there, np.empty(0, np.int64))
    names = np.asarray(spec.names, object)
    return Counter({tuple(names[kind]): int(rows) for kind, rows in zip(kinds, count, strict=True)})


def _performance(task: TaskSpec, told: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> PerformanceTally | None:
    if not told:
        return None
    target, prediction, confidence = (np.concatenate(column) for column in zip(*told, strict=True))
    known = task.answered(target)
    if not known.any():
        return None
    target, prediction = target[known], prediction[known]
    right = np.argmax(prediction, axis=1) == target if task.kind == "classification" else None
    loss = metrics.loss(task, target, prediction) if right is None else 1.0 - right
    return PerformanceTally(
        score=metrics.score(task, target, prediction),
        loss=float(loss.mean()),
        loss_std=float(loss.std()),
        hits=None if right is None else int(right.sum()),
        confidence=float(confidence[known].mean()),
        num_rows=len(target),
    )
