"""The clinical report: what a test for a condition is judged by, and what is left when an examination is missing."""

import math

import numpy as np

from training_core.config import Config
from training_core.errors import ConfigError, DataError
from training_core.evaluation.domains.judged import JudgedRows
from training_core.evaluation.metrics import auroc
from training_core.evaluation.predictions import Predictions
from training_core.evaluation.statistics import LEVEL, Interval
from training_core.quantities import OpenUnit
from training_core.schema import Pattern


class ClinicalConfig(Config):
    """What counts as a finding."""

    positive: tuple[str, ...] = ()
    """Classes or labels that are conditions, each judged against all else; every one when empty, of two classes the
    second."""
    threshold: OpenUnit = 0.5
    """Probability from which on a condition is called."""


class Proportion(Config):
    """A share of cases, and how sure it is."""

    value: float
    interval: Interval
    num_cases: int


class ConditionReport(Config):
    """How well one condition is found."""

    condition: str
    sensitivity: Proportion | None
    """Share of those who have it that are called; None when nobody has it."""
    specificity: Proportion | None
    """Share of those who do not have it that are not called; None when everybody has it."""
    positive_predictive_value: Proportion | None
    """Share of those called who have it, at this prevalence; None when nobody is called."""
    negative_predictive_value: Proportion | None
    auroc: float | None
    """None when everybody has it, or nobody."""
    prevalence: float
    youden_threshold: float | None
    """The threshold with the greatest sensitivity + specificity on these rows (Youden 1950); check it on others."""


class ModalityRelevance(Config):
    """What one examination adds."""

    modality: str
    auroc_drop: float | None
    """Mean AUROC with everything, less that without it; None when that pattern was not judged."""
    auroc_alone: float | None
    """Mean AUROC with it alone; None when that pattern was not judged."""


class ClinicalReport(Config):
    """A classifier or multilabel predictor in clinical terms."""

    num_rows: int
    accuracy: float
    """Share of rows with the right class; of labels, mean average precision."""
    conditions: tuple[ConditionReport, ...]
    mean_sensitivity: float | None
    mean_specificity: float | None
    mean_auroc: float | None
    robustness: float | None
    """Worst mean AUROC over the patterns judged, as a share of the way from chance (½) to the AUROC with everything,
    at most 1; None without patterns, or where that AUROC is not above ½."""
    worst_pattern: tuple[str, ...] | None
    relevance: tuple[ModalityRelevance, ...]
    """The most relevant first."""


def clinical_report(rows: JudgedRows, config: ClinicalConfig | None = None) -> ClinicalReport:
    """Sensitivity, specificity, predictive values and AUROC per condition, robustness and relevance of modalities.

    Raises:
        ConfigError: a condition is none of the classes or labels.
        DataError: the task is a regression, which has no conditions.
    """
    config = config or ClinicalConfig()
    outputs = _condition_outputs(rows, config)
    conditions = tuple(_condition(rows, output, config.threshold) for output in outputs)
    whole = _mean_auroc(rows, rows.predictions, outputs)
    by_pattern = {pattern: _mean_auroc(rows, found, outputs) for pattern, found in rows.patterns.items()}
    known = {pattern: area for pattern, area in by_pattern.items() if area is not None}
    worst = min(known, key=lambda pattern: (known[pattern], sorted(pattern)), default=None)
    robustness = None
    if whole is not None and whole > 0.5 and worst is not None:
        robustness = min(1.0, (known[worst] - 0.5) / (whole - 0.5))
    return ClinicalReport(
        num_rows=len(rows),
        accuracy=rows.score(),
        conditions=conditions,
        mean_sensitivity=_mean([c.sensitivity.value for c in conditions if c.sensitivity]),
        mean_specificity=_mean([c.specificity.value for c in conditions if c.specificity]),
        mean_auroc=whole,
        robustness=robustness,
        worst_pattern=tuple(n for n in rows.modalities if n in worst) if worst is not None else None,
        relevance=_relevance(rows.modalities, whole, known),
    )


def wilson_interval(num_hits: int, num_cases: int, level: float = LEVEL) -> Interval:
    """Where a share likely lies of which `num_hits` of `num_cases` were seen (Wilson 1927, JASA 22).

    Holds for shares near 0 and 1 and for few cases, where the usual ± of a standard error does not.
    """
    from scipy.stats import norm

    z = float(norm.ppf((1 + level) / 2))
    share = num_hits / num_cases
    centre = (share + z**2 / (2 * num_cases)) / (1 + z**2 / num_cases)
    half = z / (1 + z**2 / num_cases) * math.sqrt(share * (1 - share) / num_cases + z**2 / (4 * num_cases**2))
    return Interval(low=max(0.0, centre - half), high=min(1.0, centre + half))


def _condition_outputs(rows: JudgedRows, config: ClinicalConfig) -> list[int]:
    task = rows.task
    if task.kind == "regression":
        raise DataError("a clinical report is about conditions: classes or labels; this task is a regression")
    if unknown := [name for name in config.positive if name not in task.classes]:
        raise ConfigError(f"'{unknown[0]}' is no condition of this task; choose from {', '.join(task.classes)}")
    if config.positive:
        return [task.classes.index(name) for name in config.positive]
    return [1] if task.kind == "classification" and len(task.classes) == 2 else list(range(len(task.classes)))


def _truth(rows: JudgedRows, output: int) -> np.ndarray:
    return rows.target == output if rows.task.kind == "classification" else rows.target[:, output] > 0.5


def _condition(rows: JudgedRows, output: int, threshold: float) -> ConditionReport:
    truth, probability = _truth(rows, output), rows.predictions.values[:, output]
    called = probability >= threshold
    mixed = bool(truth.any()) and not truth.all()
    return ConditionReport(
        condition=rows.task.classes[output],
        sensitivity=_proportion(called[truth]),
        specificity=_proportion(~called[~truth]),
        positive_predictive_value=_proportion(truth[called]),
        negative_predictive_value=_proportion(~truth[~called]),
        auroc=auroc(truth, probability) if mixed else None,
        prevalence=float(truth.mean()),
        youden_threshold=_youden_threshold(truth, probability) if mixed else None,
    )


def _proportion(hits: np.ndarray) -> Proportion | None:
    if not len(hits):
        return None
    interval = wilson_interval(int(hits.sum()), len(hits))
    return Proportion(value=float(hits.mean()), interval=interval, num_cases=len(hits))


def _youden_threshold(truth: np.ndarray, probability: np.ndarray) -> float:
    """The highest of the best thresholds among the probabilities seen."""
    order = np.argsort(-probability, kind="stable")
    last_of_ties = np.flatnonzero(np.append(np.diff(probability[order]) != 0, True))
    hits = np.cumsum(truth[order])[last_of_ties]
    alarms = last_of_ties + 1 - hits
    index = hits / truth.sum() - alarms / (~truth).sum()
    return float(probability[order][last_of_ties][np.argmax(index)])


def _mean_auroc(rows: JudgedRows, predictions: Predictions, outputs: list[int]) -> float | None:
    areas = []
    for output in outputs:
        truth = _truth(rows, output)
        if truth.any() and not truth.all():
            areas.append(auroc(truth, predictions.values[:, output]))
    return _mean(areas)


def _relevance(
    modalities: tuple[str, ...], whole: float | None, known: dict[Pattern, float]
) -> tuple[ModalityRelevance, ...]:
    found = []
    for name in modalities:
        without = known.get(frozenset(modalities) - {name})
        drop = whole - without if whole is not None and without is not None else None
        found.append(ModalityRelevance(modality=name, auroc_drop=drop, auroc_alone=known.get(frozenset({name}))))
    return tuple(sorted(found, key=lambda one: -(one.auroc_drop if one.auroc_drop is not None else -math.inf)))


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None
