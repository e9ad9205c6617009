"""How predictions hold up when modalities are missing: one row of scores per availability pattern."""

from collections.abc import Callable, Iterable

import numpy as np

from training_core.config import Config
from training_core.evaluation.calibration import expected_calibration_error
from training_core.evaluation.metrics import calibration_error, metrics
from training_core.evaluation.predictions import Predictions
from training_core.schema import MAX_ENUMERATED, Pattern, TaskSpec, patterns_to_judge


class PatternScore(Config):
    """How good predictions are when only the modalities `available` may be looked at."""

    available: tuple[str, ...]
    missing: tuple[str, ...]
    score: float
    """The task's headline metric."""
    ece: float | None
    """Expected calibration error of the confidence; None for regression, where confidence is no probability."""
    confidence: float
    """Mean confidence."""
    metrics: dict[str, float]
    num_rows: int


def pattern_score(
    task: TaskSpec, pattern: Pattern, predictions: Predictions, target: np.ndarray, names: Iterable[str]
) -> PatternScore:
    """Judge predictions that were made under `pattern`; `target` as in `Samples`, `names` all modalities in order.

    Raises:
        DataError: there are no rows.
    """
    names = tuple(names)
    found = metrics(task, target, predictions.values)
    ece = None
    if task.kind == "classification":
        right = np.argmax(predictions.values, axis=1) == target
        ece = expected_calibration_error(predictions.confidence, right)
    elif task.kind == "multilabel":
        ece = calibration_error(task, target, predictions.values)
    return PatternScore(
        available=tuple(n for n in names if n in pattern),
        missing=tuple(n for n in names if n not in pattern),
        score=found[task.metric],
        ece=ece,
        confidence=float(np.mean(predictions.confidence)),
        metrics=found,
        num_rows=len(target),
    )


def pattern_table(
    task: TaskSpec,
    predict: Callable[[Pattern], Predictions],
    target: np.ndarray,
    names: Iterable[str],
) -> list[PatternScore]:
    """One row per pattern, the full set first: every pattern of up to `schema.MAX_ENUMERATED` modalities.

    Of more modalities: the full set, and each single modality hidden.

    `predict(pattern)` predicts all rows with every modality outside `pattern` hidden. Modalities that a row lacks
    anyway stay missing, so a row may be judged under less than the pattern says.

    Raises:
        DataError: there are no rows.
    """
    names = tuple(names)
    few = len(names) <= MAX_ENUMERATED
    patterns = [p for p in patterns_to_judge(names) if few or len(names) - len(p) <= 1]
    return [pattern_score(task, pattern, predict(pattern), target, names) for pattern in patterns]
