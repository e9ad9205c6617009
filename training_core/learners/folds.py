"""Splitting an estimator's own training rows, to choose a setting or to know when to stop."""

import numpy as np


def deal_folds(
    num_rows: int,
    num_folds: int,
    rng: np.random.Generator,
    classes: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> np.ndarray | None:
    """Fold of every row, int64 [num_rows]; None for fewer than `2 · num_folds` rows, or where all are of one group.

    Rows are dealt like cards, class by class when `classes` [num_rows] is given, so that every fold gets its share
    of each. Rows of one group (`groups` [num_rows]) stay together and are dealt by the class of the first of them.

    Folds count from 0 on, and none is empty. There are `num_folds` of them, or as many as there are groups where those
    are fewer: settings judged on two or three large folds are worth more than settings nobody judged.
    """
    if groups is None:
        units, unit_of_row = np.arange(num_rows), np.arange(num_rows)
    else:
        _, units, unit_of_row = np.unique(groups.astype(str), return_index=True, return_inverse=True)
    if num_rows < 2 * num_folds or len(units) < 2:
        return None
    num_folds = min(num_folds, len(units))
    order = rng.permutation(len(units))
    if classes is not None:
        order = order[np.argsort(classes[units][order], kind="stable")]
    fold_of_unit = np.empty(len(units), dtype=np.int64)
    fold_of_unit[order] = np.arange(len(units)) % num_folds
    return fold_of_unit[unit_of_row]
