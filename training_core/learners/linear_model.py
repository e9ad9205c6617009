"""What linear learners keep: a fit, and for ratings the levels whose expected value is the answer.

A straight line through ratings runs past the ends of their scale, and bends nowhere in between. Where a regression
target has few levels, they are learnt as classes, and the answer is their mean by the classes' probabilities: what
minimises the squared error if the probabilities are right.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from training_core.learners.linear_fit import LinearFit, fit_linear, softmax
from training_core.learners.saved_state import read_array, read_number
from training_core.schema import TaskKind

MAX_LEVELS = 10
"""A target with more values is a measurement: as many classes would take long and have few rows each."""
MIN_LEVEL_ROWS = 200
"""With fewer rows a class for each level is too much to learn."""
TEXT_START: Mapping[TaskKind, float] = {"classification": 0.3, "multilabel": 0.3, "regression": 2.0}
"""Where the search for the penalty of TF-IDF columns begins. Their rows have length 1, so that coefficients are large
and bear less of a penalty than those of standardised columns."""


@dataclass(frozen=True)
class LinearModel:
    """A linear model of one or several outputs."""

    fit: LinearFit
    levels: np.ndarray | None = None
    """The ratings that the fit has classes for, ascending, float64 [levels]; None when it gives outputs themselves."""

    def raw(self, matrix: Any) -> np.ndarray:
        """Logits or values [N, outputs]; the expected rating is one output."""
        raw = self.fit.raw(matrix)
        return raw if self.levels is None else expected_rating(raw, self.levels)

    def learnt(self) -> dict[str, Any]:
        """Everything as plain values and arrays."""
        return {**vars(self.fit), **({} if self.levels is None else {"levels": self.levels})}

    @classmethod
    def restored(cls, learnt: dict[str, Any], num_columns: int, num_outputs: int) -> Self:
        """What `learnt` gave, for a matrix of `num_columns`; ratings are one output, others `num_outputs`.

        Raises:
            Exception: one of `saved_state.MALFORMED`; something is missing, or of another type or shape.
        """
        levels = read_array(learnt, "levels", np.float64, None) if "levels" in learnt else None
        if levels is not None:
            num_outputs = len(levels)
            if not (np.diff(levels) > 0).all() or num_outputs < 2:
                raise ValueError("the levels of a rating do not ascend")
        coefficients = read_array(learnt, "coefficients", np.float64, num_columns, num_outputs)
        intercepts = read_array(learnt, "intercepts", np.float64, num_outputs)
        return cls(LinearFit(coefficients, intercepts, read_number(learnt, "strength")), levels)


def learn_models(
    task: TaskKind,
    matrix: Any,
    target: np.ndarray,
    weight: np.ndarray | None,
    *,
    groups: np.ndarray | None,
    rng: np.random.Generator,
    strength: float | None,
    start: Mapping[TaskKind, float],
) -> tuple[LinearModel, ...]:
    """One model of all outputs, or one for each output when they are ratings.

    Arguments as for `fit_linear`, but that `start` is by task: ratings are learnt as a classification.
    """
    how: dict[str, Any] = {"groups": groups, "rng": rng, "strength": strength}
    levels = rating_levels(target) if task == "regression" else None
    if levels is None:
        return (LinearModel(fit_linear(task, matrix, target, weight, start=start[task], **how)),)
    how["start"] = start["classification"]
    codes = [np.searchsorted(own, column) for own, column in zip(levels, target.T, strict=True)]
    fits = [fit_linear("classification", matrix, column, weight, **how) for column in codes]
    return tuple(LinearModel(fit, own) for fit, own in zip(fits, levels, strict=True))


def restore_models(saved: dict[str, Any], num_columns: int, num_outputs: int) -> tuple[LinearModel, ...]:
    """The models that `save_models` described, which together give `num_outputs`.

    Raises:
        Exception: one of `saved_state.MALFORMED`; something is missing, or of another type or shape.
    """
    models = tuple(LinearModel.restored(saved[str(i)], num_columns, num_outputs) for i in range(len(saved)))
    if sum(num_outputs if model.levels is None else 1 for model in models) != num_outputs:
        raise ValueError(f"{len(models)} linear models do not give {num_outputs} outputs")
    return models


def save_models(models: tuple[LinearModel, ...]) -> dict[str, Any]:
    """Models as plain values and arrays, by their position."""
    return {str(i): model.learnt() for i, model in enumerate(models)}


def rating_levels(target: np.ndarray) -> list[np.ndarray] | None:
    """The levels of every column of `target` [N, K], ascending; None unless all are ratings and rows are enough."""
    levels = [np.unique(column) for column in target.T]
    few = all(2 <= len(own) <= MAX_LEVELS for own in levels)
    return levels if few and len(target) >= MIN_LEVEL_ROWS else None


def expected_rating(raw: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """The mean level [N, 1] by the probabilities of logits [N, levels]."""
    return (softmax(raw) @ levels)[:, None]
