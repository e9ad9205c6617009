"""How good a prediction is for each row, on a scale whose mean a person reads: for comparisons row by row."""

import numpy as np

from training_core.evaluation.calibration import correctness
from training_core.schema import TaskSpec


def row_gain(task: TaskSpec, target: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """What a prediction is worth per row, float64 [N]; more is better, and calibration plays no part.

    Classification: 1 when the likeliest class is right, else 0, so that the mean is the accuracy. Multilabel: the share
    of labels that are right. Regression: 1 - squared error over the variance of the target, mean over its columns, so
    that the mean is R²; a constant column counts 1 where it is met, else 0.
    """
    if task.kind == "classification":
        return correctness(task, target, prediction).astype(np.float64)
    if task.kind == "multilabel":
        return correctness(task, target, prediction).mean(axis=1)
    variance = target.var(axis=0)
    error = (target - prediction) ** 2
    scaled = 1.0 - error / np.where(variance > 0, variance, 1.0)
    return np.where(variance > 0, scaled, error == 0).mean(axis=1)
