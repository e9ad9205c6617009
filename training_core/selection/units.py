"""Rows that belong together: the lines of one customer, a stretch of time. They are one piece of evidence, not many.

Whether a learner helps is decided by paired differences on rows held out. Taken one by one, ten rows of a customer who
likes what the learner says would make it ten times as sure as it may be.
"""

from typing import Any

import numpy as np

from training_core.evaluation.statistics import time_blocks
from training_core.seeding import generator

BEYOND_NOISE = 2.0
"""Standard errors by which a mean difference, on rows that were not trained on, has to exceed 0 to decide anything."""


def units_of(groups: np.ndarray | None, times: np.ndarray | None) -> np.ndarray | None:
    """Which unit each row belongs to, int64 [N], counted from 0; None where every row stands for itself.

    Rows with groups go by group, else rows with times by block (`evaluation.statistics.time_blocks`), as in the
    intervals of an evaluation.

    Args:
        groups: of each row, [N]; None when rows have none.
        times: of each row, [N]; None when rows have none.
    """
    if groups is not None:
        return np.unique(groups, return_inverse=True)[1].reshape(-1).astype(np.int64)
    return None if times is None or len(times) < 2 else time_blocks(times)


def of_rows(units: np.ndarray | None, rows: Any) -> np.ndarray | None:
    """The units of some rows, chosen by positions or a mask; None as for all of them."""
    return None if units is None else units[rows]


def mean_error(values: np.ndarray, units: np.ndarray | None = None) -> float:
    """Standard error of the mean of `values` [N].

    With units [N] it is sqrt(G / (G - 1) · Σ_g (Σ_{i in g} (v_i - v̄))²) / N for G units, which holds however the
    values of a unit depend on one another (Liang & Zeger 1986, Biometrika 73, for an intercept alone); infinite for a
    single unit, of which nothing can be said.
    """
    if units is None:
        return float(values.std() / np.sqrt(len(values)))
    codes = np.unique(units, return_inverse=True)[1]
    sums = np.bincount(codes, values - values.mean())
    if len(sums) < 2:
        return float("inf")
    return float(np.sqrt(len(sums) / (len(sums) - 1) * np.sum(sums**2)) / len(values))


def dealt_folds(num_rows: int, num_folds: int, seed: int, name: str, units: np.ndarray | None = None) -> np.ndarray:
    """The fold of each row, int64 [num_rows]: dealt at random in equal numbers, rows of a unit [N] to the same one.

    With fewer units than folds some folds are empty.
    """
    random = generator(seed, name)
    if units is None:
        return random.permutation(num_rows) % num_folds
    codes = np.unique(units, return_inverse=True)[1]
    return (random.permutation(int(codes.max(initial=-1)) + 1) % num_folds)[codes]
