"""Learners made comparable before they are mixed: a temperature for each, per set of modalities it is left with.

One learner's .9 is another's .7: confidences learned apart are not comparable (arXiv:2604.09288), and their average
follows whoever is loudest. A learner that looks at fewer modalities than it was trained on is mostly too sure, too.
"""

from collections.abc import Mapping

import numpy as np

from training_core.evaluation.calibration import choices
from training_core.schema import TaskSpec
from training_core.selection.pooling import HIGHEST_TEMPERATURE, LOWEST_TEMPERATURE

_MAX_ROWS = 2000
"""Rows a single temperature is fitted on: one number needs no more."""


def shrunk_temperature(
    task: TaskSpec, target: np.ndarray, probabilities: np.ndarray, towards: float, strength: float
) -> float:
    """The temperature T that minimises  Σ rows -log p_T(truth)  +  strength / 2 · log(T / towards)².

    Guo et al. 2017, arXiv:1706.04599, §4.2, with a pull towards what is known otherwise, so that a few rows change
    little. Bounded to [`LOWEST_TEMPERATURE`, `HIGHEST_TEMPERATURE`]; `towards` itself without rows, 1 for regression.
    Multilabel: the mean over labels counts as one row.

    Args:
        task: what is predicted.
        target: [N], as in `Samples`.
        probabilities: [N, C] of rows the learner did not train on, without NaN.
        towards: the temperature that is right as far as is known.
        strength: how firmly; in rows, of those whose answer is open (one such row is worth about 1).
    """
    if task.kind == "regression" or not len(target):
        return 1.0 if task.kind == "regression" else towards
    from scipy.optimize import root_scalar

    step = max(1, len(target) // _MAX_ROWS)
    worth = len(target) / len(target[::step])
    logits, hit = choices(task, probabilities[::step], target[::step])
    worth *= len(target[::step]) / len(logits)
    centre = -np.log(towards)

    def slope(log_inverse: float) -> float:
        """Derivative of the objective in log(1 / T)."""
        inverse = np.exp(log_inverse)
        scaled = inverse * logits
        weight = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        expected = (weight * logits).sum(axis=1) / weight.sum(axis=1)
        return float(worth * inverse * np.sum(expected - hit) + strength * (log_inverse - centre))

    low, high = -np.log(HIGHEST_TEMPERATURE), -np.log(LOWEST_TEMPERATURE)
    if slope(low) >= 0:
        return HIGHEST_TEMPERATURE
    if slope(high) <= 0:
        return LOWEST_TEMPERATURE
    return float(np.exp(-root_scalar(slope, bracket=(low, high), method="brentq", xtol=1e-6).root))


def learner_temperatures(
    task: TaskSpec, target: np.ndarray, predictions: Mapping[str, np.ndarray], full: str, strength: float
) -> dict[str, float]:
    """A temperature per key of `predictions`: that of `full` drawn towards 1, the others towards that of `full`.

    Args:
        task: what is predicted.
        target: [n], the truth of the learner's out-of-bag rows.
        predictions: per set of modalities (`schema.pattern_key`), [n, C] out of bag; rows with NaN are left out.
        full: the key of all the learner's modalities.
        strength: see `shrunk_temperature`.
    """
    found: dict[str, float] = {}
    for key in sorted(predictions, key=lambda key: key != full):
        said = np.isfinite(predictions[key]).all(axis=1)
        found[key] = shrunk_temperature(task, target[said], predictions[key][said], found.get(full, 1.0), strength)
    return found
