"""Rows whose modalities contradict each other: noise in some, or one that belongs to another answer.

The recipe is that of Xu et al. 2024, arXiv:2402.16897 (§4.1 and their code): a share of the rows gets Gaussian noise on
some of its modalities, another share has one modality swapped for that of a row with another label. Their features are
scaled to [0, 1], so the noise here is in units of each number's range; their swaps take the first row of the next
class, here a row is drawn, so that conflicts are not all alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from training_core.config import Config
from training_core.evaluation.metrics import auroc
from training_core.evaluation.predictions import Predictions
from training_core.evaluation.selective import row_risk
from training_core.quantities import NonNegativeFloat, UnitInterval
from training_core.schema import DataSpec, ModalitySpec, Samples, TaskSpec
from training_core.seeding import generator


class ConflictConfig(Config):
    """How much of the data is spoilt."""

    noisy_rows: UnitInterval = 0.1
    """Share of rows with noise on some modalities."""
    noise_std: NonNegativeFloat = 0.5
    """Standard deviation of the noise, in units of each number's range over the rows. For text and categories, the
    chance that a word or a category is replaced by one of another row."""
    conflicting_rows: UnitInterval = 0.4
    """Share of rows with one modality swapped for that of a row with another answer."""


@dataclass(frozen=True)
class SpoiltSamples:
    """`samples` after the recipe; `noisy` and `swapped` bool [N] say which rows it touched."""

    samples: Samples
    noisy: np.ndarray
    swapped: np.ndarray


class ConflictScore(Config):
    """How one predictor takes spoilt rows."""

    predictor: str
    clean: float
    """Risk on the rows before they were spoilt; see `selective.row_risk`. Less is better."""
    spoilt: float
    """Risk on all rows after."""
    swapped: float | None
    """Risk on the rows with a swapped modality alone; None without any."""
    noisy: float | None
    """Risk on the rows with noise alone; None without any."""
    confidence_drop: float
    """Mean confidence on the swapped rows before, less that after."""
    conflict_auroc: float | None
    """The chance that a row nobody touched is surer than one with a swapped modality; None where there is but one
    sort of row."""
    num_rows: int
    num_swapped: int
    num_noisy: int


def spoil(spec: DataSpec, samples: Samples, config: ConflictConfig | None = None, seed: int = 0) -> SpoiltSamples:
    """Make some of the samples contradict themselves; the rest, targets and availability stay as they are.

    Only modalities that a row has are spoilt, and only by rows that have them. Another answer: another class, another
    set of labels, or for regression a target at least one standard deviation away in some column. A row for which
    there is no such other row is left alone. In a data set of one modality a swap makes a wrong row, not a conflict,
    so none is swapped.

    Raises:
        ValueError: the samples have no target.
    """
    config = config or ConflictConfig()
    if samples.target is None:
        raise ValueError("conflicts need rows with known targets")
    random = generator(seed, "conflict")
    num_rows = len(samples)
    inputs = {name: values.copy() for name, values in samples.inputs.items()}
    noisy, swapped = np.zeros(num_rows, bool), np.zeros(num_rows, bool)
    known = _Donors.of(samples, [modality for modality in spec.modalities if modality.kind != "text"])
    for row in random.choice(num_rows, round(config.noisy_rows * num_rows), replace=False):
        here = [m for m in spec.modalities if samples.available[m.name][row]]
        if not here:
            continue
        for place in random.choice(len(here), random.integers(1, len(here) + 1), replace=False):
            _add_noise(here[place], inputs, samples, row, config.noise_std, random, known)
        noisy[row] = config.noise_std > 0
    if len(spec.modalities) > 1:
        for row in random.choice(num_rows, round(config.conflicting_rows * num_rows), replace=False):
            here = [name for name in spec.names if samples.available[name][row]]
            if len(here) < 2:
                continue
            name = here[random.integers(len(here))]
            donors = np.flatnonzero(samples.available[name] & _differs(spec.task, samples.target, row))
            if len(donors):
                inputs[name][row] = samples.inputs[name][random.choice(donors)]
                swapped[row] = True
    return SpoiltSamples(replace(samples, inputs=inputs), noisy, swapped)


def conflict_score(
    task: TaskSpec,
    target: np.ndarray,
    predictor: str,
    before: Predictions,
    after: Predictions,
    spoilt: SpoiltSamples,
) -> ConflictScore:
    """Compare what a predictor said before and after the rows were spoilt."""
    risk, clean = row_risk(task, target, after.values), row_risk(task, target, before.values)
    untouched = ~spoilt.swapped & ~spoilt.noisy
    told = untouched | spoilt.swapped
    kinds = untouched.any() and spoilt.swapped.any() and np.ptp(after.confidence) > 0
    drop = before.confidence - after.confidence
    return ConflictScore(
        predictor=predictor,
        clean=float(clean.mean()),
        spoilt=float(risk.mean()),
        swapped=float(risk[spoilt.swapped].mean()) if spoilt.swapped.any() else None,
        noisy=float(risk[spoilt.noisy].mean()) if spoilt.noisy.any() else None,
        confidence_drop=float(drop[spoilt.swapped].mean()) if spoilt.swapped.any() else 0.0,
        conflict_auroc=auroc(untouched[told], after.confidence[told]) if kinds else None,
        num_rows=len(target),
        num_swapped=int(spoilt.swapped.sum()),
        num_noisy=int(spoilt.noisy.sum()),
    )


def _differs(task: TaskSpec, target: np.ndarray, row: int) -> np.ndarray:
    """Rows with another answer than `row`, bool [N]."""
    if task.kind == "classification":
        return target != target[row]
    if task.kind == "multilabel":
        return ((target > 0.5) != (target[row] > 0.5)).any(axis=1)
    return (np.abs(target - target[row]) >= np.maximum(target.std(axis=0), 1e-300)).any(axis=1)


@dataclass(frozen=True)
class _Donors:
    """What noise is drawn from, found once for all rows.

    `rows`: those that have each modality, int64 [n]; `spans`: the range of its numbers over them, in the shape of a
    sample, of the modalities that are numbers.
    """

    rows: Mapping[str, np.ndarray]
    spans: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, samples: Samples, numeric: Sequence[ModalitySpec]) -> Self:
        """Of all modalities of the samples; a modality that no row has, has no range."""
        rows = {name: np.flatnonzero(there) for name, there in samples.available.items()}
        named = [modality.name for modality in numeric if len(rows[modality.name])]
        return cls(rows, {name: _spans(samples.inputs[name], rows[name]) for name in named})


def _add_noise(
    modality: ModalitySpec,
    inputs: dict[str, np.ndarray],
    samples: Samples,
    row: int,
    std: float,
    random: np.random.Generator,
    known: "_Donors",
) -> None:
    """Spoil one modality of one row in place."""
    raw, donors = samples.inputs[modality.name], known.rows[modality.name]
    if modality.kind == "text":
        words = str(raw[row]).split()
        for place in np.flatnonzero(random.random(len(words)) < min(std, 1.0)):
            others = str(raw[random.choice(donors)]).split()
            words[place] = others[random.integers(len(others))] if others else words[place]
        inputs[modality.name][row] = " ".join(words)
        return
    values = raw[row].astype(np.float64)
    noise = random.normal(0.0, 1.0, values.shape) * std * known.spans[modality.name]
    for place, column in enumerate(modality.columns):
        if column.categories is not None:
            noise[place] = 0.0
            if random.random() < min(std, 1.0):
                values[place] = raw[random.choice(donors), place]
    inputs[modality.name][row] = (values + noise).astype(raw.dtype)


def _spans(raw: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Range of every number of a sample over some rows, in the shape of a sample; one range for an image or a series.

    A missing cell (NaN) does not count; a number that never is there has range 0.
    """
    values = raw[rows]
    if values.ndim > 2:
        return np.full(values.shape[1:], float(np.nanmax(values) - np.nanmin(values)))
    known = np.isfinite(values)
    highest = np.where(known, values, -np.inf).max(axis=0)
    lowest = np.where(known, values, np.inf).min(axis=0)
    return np.where(known.any(axis=0), highest - lowest, 0.0)
