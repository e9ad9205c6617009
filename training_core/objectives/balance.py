"""Class weights that make up for some classes being rarer than others."""

import numpy as np

from training_core.errors import ConfigError
from training_core.schema import TaskSpec


def balanced_class_weights(task: TaskSpec, target: np.ndarray) -> tuple[float, ...]:
    """What each class must count so that all count alike.

    Classification: rows / (classes seen · rows of the class), so that the weights of all rows add up to their number
    (King & Zeng 2001, doi:10.1093/oxfordjournals.pan.a004868). Multilabel: negatives / positives of each label. A
    class without rows, and a label with only one of both, counts 1.

    Args:
        task: what is predicted.
        target: class codes [N], or labels 0/1 [N, L], of the training rows.

    Raises:
        ConfigError: the task is regression, or one of positions rather than samples.
    """
    if task.kind == "regression" or task.unit != "sample":
        raise ConfigError(f"balanced class weights are for classes and labels of samples; this task is {task.kind}")
    if task.kind == "multilabel":
        positives = np.count_nonzero(np.asarray(target) > 0.5, axis=0)
        negatives = len(target) - positives
        mixed = (positives > 0) & (negatives > 0)
        weights = np.where(mixed, negatives / np.maximum(positives, 1), 1.0)
    else:
        counts = np.bincount(np.asarray(target).astype(np.int64), minlength=task.num_outputs)
        seen = np.count_nonzero(counts)
        weights = np.where(counts > 0, len(target) / (seen * np.maximum(counts, 1)), 1.0)
    return tuple(float(weight) for weight in weights)
