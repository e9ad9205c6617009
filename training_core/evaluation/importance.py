"""What a predictor's answers depend on: how much worse they get when a modality, or a column, is shuffled.

Shuffling takes away what the values tell of a row and leaves their distribution as it was (Breiman 2001,
doi:10.1023/A:1010933404324, §10; Fisher, Rudin and Dominici 2019, arXiv:1801.01489, eq. 5). Of two columns that tell
the same neither looks important: the other stands in.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from training_core.config import Config
from training_core.errors import DataError
from training_core.evaluation.metrics import auroc, loss
from training_core.schema import DataSpec, Samples, TaskSpec
from training_core.seeding import generator

Predict = Callable[[Samples], np.ndarray]
"""Predictions [N, C] of raw samples; NaN rows where it cannot say anything."""


class Importance(Config):
    """How much a predictor depends on something."""

    subject: str
    """A modality, or `modality.column`."""
    loss_increase: float
    """Mean over the rows of the loss with it shuffled less the loss as it is; see `evaluation.metrics.loss`."""
    std_error: float
    """Of that mean."""
    num_rows: int

    @property
    def is_beyond_noise(self) -> bool:
        """Whether the loss rises by more than two standard errors."""
        return self.loss_increase > 2 * self.std_error


class Association(Config):
    """How well predictions rank rows by the answer: 0 by chance, 1 perfectly."""

    strength: float
    std_error: float
    """Of the strength of predictions that tell nothing."""
    num_rows: int


def modality_importance(
    predict: Predict, samples: Samples, task: TaskSpec, names: Iterable[str], seed: int = 0
) -> list[Importance]:
    """How much the predictor depends on each of the modalities `names`, in their order.

    The values of a modality are shuffled among the rows that have it and that the predictor can answer for; which rows
    have it stays as it is, for to lack it is another question. `samples` must have targets, and rows the predictor
    never saw. A modality of which fewer than two such rows are there is left out: nothing can be shuffled.

    Raises:
        DataError: there is no target.
    """
    base = _losses(predict, samples, task)
    found = []
    for name in names:
        usable = samples.available[name] & np.isfinite(base)
        if usable.sum() < 2:
            continue
        order = generator(seed, "importance", name).permutation(len(samples))
        values = samples.inputs[name].copy()
        values[usable] = samples.inputs[name][order[usable[order]]]
        shuffled = replace(samples, inputs={**samples.inputs, name: values})
        found += _importance(name, base, _losses(predict, shuffled, task))
    return found


def feature_importance(
    predict: Predict,
    samples: Samples,
    spec: DataSpec,
    names: Iterable[str],
    max_features: int = 64,
    seed: int = 0,
) -> list[Importance]:
    """How much the predictor depends on each column of its vectors and tables, the most important first.

    Columns are shuffled as modalities are; those of which nothing can be measured are left out.

    Args:
        predict: the predictor.
        samples: raw rows with targets, which the predictor never saw.
        spec: of the samples.
        names: the modalities to look at; images, texts and sequences, which have no columns, are left out.
        max_features: columns looked at, at most; the first of each modality in turn, for each costs a prediction.
        seed: of the shuffling.

    Raises:
        DataError: there is no target.
    """
    base = _losses(predict, samples, spec.task)
    widths = {name: spec[name].num_features for name in names if spec[name].kind in ("vector", "tabular")}
    turns = sorted((column, name) for name, width in widths.items() for column in range(width))
    found = []
    for column, name in turns[:max_features]:
        usable = samples.available[name] & np.isfinite(base)
        if usable.sum() < 2:
            continue
        values = samples.inputs[name].copy()
        order = generator(seed, "importance", name, column).permutation(len(samples))
        values[usable, column] = samples.inputs[name][order[usable[order]], column]
        shuffled = replace(samples, inputs={**samples.inputs, name: values})
        columns = spec[name].columns
        label = f"{name}.{columns[column].name if columns else column}"
        found += _importance(label, base, _losses(predict, shuffled, spec.task))
    return sorted(found, key=lambda one: (-one.loss_increase, one.subject))


def importance_shares(found: Sequence[Importance]) -> dict[str, float]:
    """Importances as shares that add up to 1, those within noise as 0; empty when none is beyond it."""
    kept = {one.subject: one.loss_increase if one.is_beyond_noise else 0.0 for one in found}
    total = sum(kept.values())
    return {name: value / total for name, value in kept.items()} if total > 0 else {}


def association(task: TaskSpec, target: np.ndarray, prediction: np.ndarray) -> Association:
    """How well predictions rank rows, for the output of which that is surest.

    Per class or label Somers' D = 2 AUROC - 1 (Somers 1962, doi:10.2307/2090408), whose standard error under chance is
    √((n + 1) / (3 n₁ n₀)) (Mann and Whitney 1947, doi:10.1214/aoms/1177730491); per target column the correlation r,
    with 1 / √(n - 1). It asks only whether the predictions tell anything, however badly they are calibrated.

    Args:
        task: what is predicted.
        target: as in `Samples`.
        prediction: [N, C], rows that the predictor never saw.

    Raises:
        DataError: no output takes two different values on these rows.
    """
    num_rows, found = len(target), list[Association]()
    if task.kind == "regression":
        columns = range(target.shape[1]) if num_rows > 1 else ()
        scores = [_correlation(target[:, k], prediction[:, k]) for k in columns]
        found = [Association(strength=r, std_error=1 / math.sqrt(num_rows - 1), num_rows=num_rows) for r in scores]
    else:
        single = task.kind == "classification"
        truth = target[:, None] == np.arange(prediction.shape[1]) if single else target > 0.5
        for output in range(prediction.shape[1]):
            positives = int(truth[:, output].sum())
            if 0 < positives < num_rows:
                strength = 2 * auroc(truth[:, output], prediction[:, output]) - 1
                std_error = math.sqrt((num_rows + 1) / (3 * positives * (num_rows - positives)))
                found.append(Association(strength=strength, std_error=std_error, num_rows=num_rows))
    if not found:
        raise DataError(f"all {num_rows} rows have the same answer; nothing can be ranked")
    return max(found, key=lambda one: one.strength / one.std_error)


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one - one.mean(), other - other.mean()
    scale = math.sqrt(float(np.sum(one**2) * np.sum(other**2)))
    return float(np.sum(one * other)) / scale if scale > 0 else 0.0


def _losses(predict: Predict, samples: Samples, task: TaskSpec) -> np.ndarray:
    """Loss per row, NaN where the predictor says nothing."""
    target = _target(samples)
    if not len(target):
        return np.zeros(0)
    prediction = predict(samples)
    voted = np.isfinite(prediction).all(axis=1)
    losses = np.full(len(target), np.nan)
    if voted.any():
        losses[voted] = loss(task, target[voted], prediction[voted])
    return losses


def _importance(subject: str, base: np.ndarray, shuffled: np.ndarray) -> list[Importance]:
    """What shuffling cost, over the rows answered both times; nothing where there are fewer than two."""
    rise = shuffled - base
    rise = rise[np.isfinite(rise)]
    if len(rise) < 2:
        return []
    std_error = float(rise.std(ddof=1) / math.sqrt(len(rise)))
    return [Importance(subject=subject, loss_increase=float(rise.mean()), std_error=std_error, num_rows=len(rise))]


def _target(samples: Samples) -> np.ndarray:
    if samples.target is None:
        raise DataError("importance is measured by a loss, and these rows have no target; give rows with known targets")
    return samples.target
