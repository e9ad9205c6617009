"""What learners of boosted trees share: settings, the rows that tell when to stop, and how large trees are."""

import math
from typing import Annotated, ClassVar

import numpy as np

from training_core.learners.estimator import EstimatorConfig
from training_core.learners.folds import deal_folds
from training_core.quantities import PositiveFloat, PositiveInt, SearchChoices, SearchRange

VALIDATION_FOLDS = 7
"""One row in seven judges when to stop, or as near to it as whole groups come."""
UNJUDGED_ROUNDS = 50
"""Rounds when there are too few rows, or a single group, and none can be held out."""


class BoostingConfig(EstimatorConfig):
    """Settings of every kind of boosted trees."""

    method: ClassVar[str | None] = "boosted trees"
    quality_prior: ClassVar[float] = 0.75

    learning_rate: Annotated[PositiveFloat, SearchRange(0.02, 0.3, log=True)] = 0.1
    max_rounds: PositiveInt = 400
    patience: PositiveInt = 15
    """Rounds without a better validation loss before it stops."""
    max_leaves: Annotated[PositiveInt | None, SearchChoices(None, 4, 8, 16, 31, 63)] = None
    """Leaves of a tree; None for one per 200 rows, between 7 and 31."""

    def leaves(self, num_rows: int) -> int:
        """Leaves of a tree for so many rows."""
        return self.max_leaves or num_leaves(num_rows)


def hold_out(
    num_rows: int, classes: np.ndarray | None, groups: np.ndarray | None, rng: np.random.Generator
) -> np.ndarray | None:
    """Which rows judge when to stop, bool [num_rows]; None when there are too few, or a single group.

    Of groups, which may be few and uneven, the fold is taken that holds the fewest classes whole, then that which comes
    nearest to one row in seven.

    Args:
        num_rows: rows to learn from.
        classes: their classes, so that each is among both; None for values.
        groups: whose rows stay together, or None.
        rng: deals the rows.
    """
    folds = deal_folds(num_rows, VALIDATION_FOLDS, rng, classes, groups)
    if folds is None:
        return None
    held_out = folds == (0 if groups is None else _best_fold(folds, classes))
    if classes is not None:  # a class that would be held out whole is learnt from instead
        held_out &= np.isin(classes, classes[~held_out])
    return held_out if held_out.any() else None


def _best_fold(folds: np.ndarray, classes: np.ndarray | None) -> int:
    """The fold that judges best: it holds the fewest classes whole, lacks the fewest, and is nearest to a seventh."""
    share = len(folds) / VALIDATION_FOLDS

    def fault(fold: int) -> tuple[int, int, float]:
        inside = folds == fold
        lost = 0 if classes is None else len(np.setdiff1d(classes[inside], classes[~inside]))
        lacking = 0 if classes is None else len(np.setdiff1d(classes, classes[inside]))
        return lost, lacking, abs(int(inside.sum()) - share)

    return min(range(int(folds.max()) + 1), key=fault)


def all_rounds(best: int, held_out: np.ndarray) -> int:
    """Rounds with all rows, when `best` were best without those held out: more rows bear as many more rounds."""
    num_rows, num_held = len(held_out), int(held_out.sum())
    if num_held <= math.ceil(num_rows / VALIDATION_FOLDS):
        return math.ceil(max(best, 1) * VALIDATION_FOLDS / (VALIDATION_FOLDS - 1))
    return math.ceil(max(best, 1) * num_rows / (num_rows - num_held))


def num_leaves(num_rows: int) -> int:
    """Leaves of a tree for so many rows: one per 200, between 7 and 31."""
    return min(max(num_rows // 200, 7), 31)


def tried_fraction(num_columns: int) -> float:
    """Share of columns each split looks at: all of a few, about 8 of some, a tenth of many.

    Trying few makes trees differ and a wide table quick: on 649 columns a tenth was both the fastest and the best.
    """
    return min(max(0.1, 8 / max(num_columns, 1)), 1.0)
