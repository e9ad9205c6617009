"""Linear models with a penalty whose strength is chosen on the training rows: the core of the linear learners."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from training_core.learners.folds import deal_folds
from training_core.schema import TaskKind

NUM_FOLDS = 3
NUM_SCORE_FOLDS = 5
"""Folds of out-of-fold scores: each model sees four fifths of the rows, nearly as many as there will be."""
STEP = 3.0
"""Strengths tried lie this factor apart: the loss is flat enough around its minimum not to look closer."""
MAX_STEPS = 8
"""How far the search may walk from where it starts: a factor of STEP**8 = 6561 either way."""
MAX_SEARCH_ROWS: dict[TaskKind, int] = {"classification": 6_000, "multilabel": 6_000, "regression": 20_000}
"""The strength is chosen on at most this many rows: logistic fits are slower by ten times. It is the inverse variance
of a Gaussian prior on the coefficients, so its best value depends little on the number of rows."""
ABSENT_INTERCEPT = -30.0
"""Log-odds of a class that no row of a fold holds: the same penalty for every strength tried."""
MAX_CHOLESKY_COLUMNS = 1_000
"""Beyond this, conjugate gradients solve the normal equations faster than a factorisation of them."""


@dataclass(frozen=True)
class LinearFit:
    """Raw outputs are `matrix @ coefficients + intercepts`."""

    coefficients: np.ndarray
    """[columns, outputs] float64."""
    intercepts: np.ndarray
    """[outputs] float64."""
    strength: float
    """The penalty: `strength / 2 · |coefficients|²` beside the summed loss."""

    def raw(self, matrix: Any) -> np.ndarray:
        """Logits or values [N, outputs]."""
        return np.asarray(matrix @ self.coefficients) + self.intercepts


def fit_linear(
    task: TaskKind,
    matrix: Any,
    target: np.ndarray,
    weight: np.ndarray | None,
    *,
    groups: np.ndarray | None,
    rng: np.random.Generator,
    strength: float | None,
    start: float,
) -> LinearFit:
    """Logistic regression (classes jointly, labels one by one) or ridge regression.

    `matrix` [N, columns] is dense or CSR; `target` is codes [N] of at least two classes that all occur, labels 0/1
    [N, L] or values [N, K]. With `strength` None it is chosen by cross-validation on these rows, log loss or squared
    error, walking from `start` towards the better neighbour until neither is; rows that cannot be split (too few, or
    all of one group) keep `start`.
    """
    fit, num_outputs = _fitter(task, target)
    if strength is None:
        strength = choose_strength(task, matrix, target, weight, groups=groups, rng=rng, start=start)
    return fit(matrix, target, weight, num_outputs, strength)


def fit_out_of_fold(
    task: TaskKind,
    matrix: Any,
    target: np.ndarray,
    weight: np.ndarray | None,
    *,
    groups: np.ndarray | None,
    rng: np.random.Generator,
    start: float,
) -> tuple[LinearFit, np.ndarray]:
    """The mean of the models of five folds, and what each says of the rows it did not see, float64 [N, outputs].

    Fewer groups than five make as many folds.

    Raw outputs are linear in the coefficients, so the mean model gives the mean of the models' raw outputs. Arguments
    as for `fit_linear`, whose search chooses one strength for all folds. Of rows that cannot be split the model says 0:
    what it said of rows it has seen would be taken for more than it is worth.
    """
    fit, num_outputs = _fitter(task, target)
    classes = target if task == "classification" else None
    folds = deal_folds(len(target), NUM_SCORE_FOLDS, rng, classes, groups)
    if folds is None:
        nothing = LinearFit(np.zeros((matrix.shape[1], num_outputs)), np.zeros(num_outputs), start)
        return nothing, np.zeros((len(target), num_outputs))
    strength = choose_strength(task, matrix, target, weight, groups=groups, rng=rng, start=start)
    raw, fits = np.zeros((len(target), num_outputs)), []
    for fold in range(int(folds.max()) + 1):
        inside, outside = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        fits.append(
            fit(matrix[inside], target[inside], None if weight is None else weight[inside], num_outputs, strength)
        )
        raw[outside] = fits[-1].raw(matrix[outside])
    mean = LinearFit(
        np.mean([one.coefficients for one in fits], axis=0), np.mean([one.intercepts for one in fits], axis=0), strength
    )
    return mean, raw


def choose_strength(
    task: TaskKind,
    matrix: Any,
    target: np.ndarray,
    weight: np.ndarray | None,
    *,
    groups: np.ndarray | None,
    rng: np.random.Generator,
    start: float,
) -> float:
    """The penalty with the least cross-validated log loss or squared error; `start` where rows cannot be split."""
    fit, num_outputs = _fitter(task, target)
    rows = np.arange(len(target))
    if len(rows) > MAX_SEARCH_ROWS[task]:
        rows = np.sort(rng.choice(rows, MAX_SEARCH_ROWS[task], replace=False))
    groups = None if groups is None else groups[rows]
    folds = deal_folds(len(rows), NUM_FOLDS, rng, target[rows] if task == "classification" else None, groups)
    if folds is None:
        return start
    part = (matrix[rows], target[rows], None if weight is None else weight[rows])

    def judge(candidate: float) -> float:
        return _cross_validate(task, fit, *part, folds, num_outputs, candidate)

    return walk_down(judge, start)


def _fitter(task: TaskKind, target: np.ndarray) -> "tuple[Callable[..., LinearFit], int]":
    """How a model of one strength is fitted, and how many raw outputs it has."""
    num_outputs = int(target.max()) + 1 if task == "classification" else target.shape[1]
    return _fit_ridge if task == "regression" else _fit_logistic, num_outputs


def walk_down(loss: Callable[[float], float], start: float) -> float:
    """The best of `start · STEP**k`, found by walking from `start` while the loss falls; ties keep the nearer one."""
    best, best_loss = start, loss(start)
    for factor in (STEP, 1 / STEP):
        moved = False
        for _ in range(MAX_STEPS):
            candidate_loss = loss(best * factor)
            if not candidate_loss < best_loss:
                break
            best, best_loss, moved = best * factor, candidate_loss, True
        if moved:  # the loss has one minimum: it was downhill this way, so it is uphill the other way
            break
    return best


def softmax(raw: np.ndarray) -> np.ndarray:
    """Rows of logits [N, C] to probabilities."""
    grown = np.exp(raw - raw.max(axis=1, keepdims=True))
    return grown / grown.sum(axis=1, keepdims=True)


def sigmoid(raw: np.ndarray) -> np.ndarray:
    """Log-odds to probabilities, without overflow."""
    return np.exp(-np.logaddexp(0.0, -raw))


def _cross_validate(
    task: TaskKind,
    fit: Callable[..., LinearFit],
    matrix: Any,
    target: np.ndarray,
    weight: np.ndarray | None,
    folds: np.ndarray,
    num_outputs: int,
    strength: float,
) -> float:
    """Mean loss of rows on the fits that did not see them."""
    losses = np.empty(len(folds))
    for fold in range(int(folds.max()) + 1):
        inside, outside = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        fitted = fit(matrix[inside], target[inside], None if weight is None else weight[inside], num_outputs, strength)
        losses[outside] = row_losses(task, fitted.raw(matrix[outside]), target[outside])
    return float(np.average(losses, weights=weight))


def row_losses(task: TaskKind, raw: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Log loss, mean log loss over labels, or mean squared error over columns, of every row [N]."""
    if task == "classification":
        return np.logaddexp.reduce(raw, axis=1) - raw[np.arange(len(raw)), target]
    if task == "multilabel":
        return (np.logaddexp(0.0, raw) - target * raw).mean(axis=1)
    return ((raw - target) ** 2).mean(axis=1)


def _fit_ridge(
    matrix: Any, target: np.ndarray, weight: np.ndarray | None, num_outputs: int, strength: float
) -> LinearFit:
    from scipy.sparse import issparse
    from sklearn.linear_model import Ridge

    wide = issparse(matrix) or matrix.shape[1] > MAX_CHOLESKY_COLUMNS
    model = Ridge(alpha=strength, solver="sparse_cg" if wide else "cholesky", tol=1e-4)
    model.fit(matrix, target, sample_weight=weight)
    coefficients = np.asarray(model.coef_).reshape(num_outputs, -1).T
    return LinearFit(coefficients, np.broadcast_to(model.intercept_, (num_outputs,)).astype(np.float64), strength)


def _fit_logistic(
    matrix: Any, target: np.ndarray, weight: np.ndarray | None, num_outputs: int, strength: float
) -> LinearFit:
    coefficients = np.zeros((matrix.shape[1], num_outputs))
    intercepts = np.full(num_outputs, ABSENT_INTERCEPT)
    if target.ndim == 1:
        present = np.unique(target)
        if len(present) == 1:
            intercepts[present] = 0.0
        else:
            # Two classes have one column of coefficients, the log-odds of the second.
            columns = present if len(present) > 2 else present[1:]
            coefficients[:, columns], intercepts[columns] = _logistic(matrix, target, weight, strength)
            if len(present) == 2:
                intercepts[present[0]] = 0.0
        return LinearFit(coefficients, intercepts, strength)
    for label in range(num_outputs):
        values = target[:, label]
        if values.min() < values.max():
            coefficients[:, [label]], intercepts[[label]] = _logistic(matrix, values, weight, strength)
        else:
            intercepts[label] = ABSENT_INTERCEPT if values[0] == 0 else -ABSENT_INTERCEPT
    return LinearFit(coefficients, intercepts, strength)


def _logistic(
    matrix: Any, target: np.ndarray, weight: np.ndarray | None, strength: float
) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients [columns, K] and intercepts [K]; K is 1 for two classes."""
    from scipy.sparse import issparse
    from sklearn.linear_model import LogisticRegression

    # On texts the looser tolerance halves the time and leaves the log loss where it was; on dense columns it does not.
    tolerance = 1e-3 if issparse(matrix) else 1e-4
    with _unfinished_is_fine():
        model = LogisticRegression(C=1 / strength, tol=tolerance, max_iter=300).fit(
            matrix, target, sample_weight=weight
        )
    return np.asarray(model.coef_).T, np.asarray(model.intercept_)


@contextmanager
def _unfinished_is_fine() -> Iterator[None]:
    """Silence the one warning that L-BFGS ran out of rounds.

    That happens with hardly any penalty on rows that are separable; stopping early is then itself a mild penalty,
    and cross-validation judges the coefficients as they are.
    """
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield
