"""How good predictions are: one headline score per task, a loss per row, and the usual metrics.

Written in NumPy so that judging needs nothing heavier than predicting; the tests compare each one with scikit-learn.
`target` and `prediction` as in `schema.Samples` and `Predictions.values`: class codes [N] against probabilities [N, C],
labels [N, L] against probabilities [N, L], values [N, K] against values [N, K].
"""

import numpy as np

from training_core.errors import DataError
from training_core.evaluation.calibration import confidence, correctness, expected_calibration_error
from training_core.schema import TaskSpec

_LEAST_PROBABILITY = float(np.finfo(np.float64).eps)
"""Probabilities are clipped here before a logarithm is taken, as in `sklearn.metrics.log_loss`."""
LOWER_IS_BETTER = frozenset({"log_loss", "ece", "brier", "hamming", "rmse", "mae"})
"""The metrics of which less is better; of every other one, more is."""


def loss(task: TaskSpec, target: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """What a prediction costs, per row, [N]; less is better.

    Classification: -log of the true class's probability. Multilabel: binary cross-entropy, mean over labels.
    Regression: squared error, mean over target columns (in their units; scale them first where units differ).
    """
    _check(task, target, prediction)
    if task.kind == "regression":
        return np.mean((target - prediction) ** 2, axis=1)
    if task.kind == "classification":
        return -np.log(np.clip(prediction[np.arange(len(target)), target], _LEAST_PROBABILITY, 1.0))
    hit = np.where(target > 0.5, prediction, 1.0 - prediction)
    return np.mean(-np.log(np.clip(hit, _LEAST_PROBABILITY, 1.0)), axis=1)


def score(task: TaskSpec, target: np.ndarray, prediction: np.ndarray) -> float:
    """The headline score, greater is better: accuracy, mean average precision or R² (`TaskSpec.metric`)."""
    _check(task, target, prediction)
    if task.kind == "classification":
        return float(np.mean(np.argmax(prediction, axis=1) == target))
    if task.kind == "multilabel":
        return mean_average_precision(target, prediction)
    return r2(target, prediction)


def metrics(task: TaskSpec, target: np.ndarray, prediction: np.ndarray) -> dict[str, float]:
    """Every metric of the task, the headline score first; one that these rows do not define is left out.

    Classification: accuracy, f1 (macro), auroc (one against the rest, mean over classes), log_loss, ece, brier (sum
    over classes, 0..2). Multilabel: mean_average_precision, f1 (macro), hamming, log_loss, ece. Regression: r2, rmse,
    mae (means over target columns).

    Raises:
        DataError: there are no rows, or shapes do not fit the task.
    """
    found = {task.metric: score(task, target, prediction)}
    if task.kind == "regression":
        error = target - prediction
        return {
            **found,
            "rmse": float(np.mean(np.sqrt(np.mean(error**2, axis=0)))),
            "mae": float(np.mean(np.abs(error))),
        }
    # One true/false question per class or label: [N, C].
    if task.kind == "classification":
        truth = target[:, None] == np.arange(prediction.shape[1])
        claimed = np.argmax(prediction, axis=1)[:, None] == np.arange(prediction.shape[1])
        asked = np.flatnonzero(truth.any(axis=0) | claimed.any(axis=0))
    else:
        truth, claimed = target > 0.5, prediction > 0.5
        asked = np.arange(prediction.shape[1])
    found["f1"] = float(np.mean([_f1(truth[:, c], claimed[:, c]) for c in asked]))
    if task.kind == "classification":
        mixed = np.flatnonzero(truth.any(axis=0) & ~truth.all(axis=0))
        if len(mixed):
            found["auroc"] = float(np.mean([auroc(truth[:, c], prediction[:, c]) for c in mixed]))
        found["brier"] = float(np.mean(np.sum((prediction - truth) ** 2, axis=1)))
    else:
        found["hamming"] = float(np.mean(truth != claimed))
    found["log_loss"] = float(np.mean(loss(task, target, prediction)))
    found["ece"] = calibration_error(task, target, prediction)
    return found


def calibration_error(task: TaskSpec, target: np.ndarray, prediction: np.ndarray) -> float:
    """Expected calibration error of class or label probabilities; every label of a multilabel row counts by itself."""
    if task.kind == "multilabel":
        sure = np.maximum(prediction, 1.0 - prediction).ravel()
        return expected_calibration_error(sure, correctness(task, target, prediction).ravel())
    return expected_calibration_error(confidence(task, prediction), correctness(task, target, prediction))


def auroc(truth: np.ndarray, ranking: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a positive ranks above a negative, ties counting half.

    `truth` bool [N] with both values present, `ranking` [N]. Mann-Whitney U over the number of pairs.
    """
    _, place, count = np.unique(ranking, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]
    positives = int(truth.sum())
    u = rank[truth].sum() - positives * (positives + 1) / 2
    return float(u / (positives * (len(truth) - positives)))


def mean_average_precision(target: np.ndarray, prediction: np.ndarray) -> float:
    """Average precision, mean over the labels that occur; 0 when none does.

    Per label Σ (R_k - R_{k-1}) P_k over the distinct thresholds, without interpolation, as in
    `sklearn.metrics.average_precision_score`.
    """
    occurring = np.flatnonzero((target > 0.5).any(axis=0))
    return float(np.mean([_average_precision(target[:, c] > 0.5, prediction[:, c]) for c in occurring] or [0.0]))


def r2(target: np.ndarray, prediction: np.ndarray) -> float:
    """Share of variance explained, mean over target columns; a constant column gives 1 when met exactly, else 0."""
    residual = np.sum((target - prediction) ** 2, axis=0)
    total = np.sum((target - target.mean(axis=0)) ** 2, axis=0)
    constant = np.where(residual == 0, 1.0, 0.0)
    return float(np.mean(np.where(total > 0, 1.0 - residual / np.where(total > 0, total, 1.0), constant)))


def _average_precision(truth: np.ndarray, ranking: np.ndarray) -> float:
    order = np.argsort(-ranking, kind="stable")
    last_of_ties = np.flatnonzero(np.append(np.diff(ranking[order]) != 0, True))
    hits = np.cumsum(truth[order])[last_of_ties]
    return float(np.sum(np.diff(hits, prepend=0) / hits[-1] * hits / (last_of_ties + 1)))


def _f1(truth: np.ndarray, claimed: np.ndarray) -> float:
    wrong = int((truth != claimed).sum())
    hits = int((truth & claimed).sum())
    return 2 * hits / (2 * hits + wrong) if hits or wrong else 0.0


def _check(task: TaskSpec, target: np.ndarray, prediction: np.ndarray) -> None:
    """Raise a DataError unless there are rows, and as many predictions of the task's width."""
    expected = (len(target),) if task.kind == "classification" else (len(target), task.num_outputs)
    if prediction.shape != (len(target), task.num_outputs) or target.shape != expected:
        raise DataError(
            f"{task.kind} with {task.num_outputs} outputs: target {target.shape} and prediction {prediction.shape} "
            f"do not fit; expected {expected} and {(len(target), task.num_outputs)}"
        )
    if not len(target):
        raise DataError("there are no rows to judge; give at least one row with a known target")
