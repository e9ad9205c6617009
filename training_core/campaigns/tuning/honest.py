"""What an ensemble would answer for rows that nothing of it has seen, its combination included.

Learners speak for rows outside their bags; weights and temperatures are learned on one half of those rows and judged
on the other, both ways (two-fold cross-fitting: Chernozhukov et al. 2018, doi:10.1111/ectj.12097). Judged on the rows
it was learned from, a more elaborate combination would always look better.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from threadpoolctl import threadpool_limits

from training_core.data.splitting.bags import Bag, without_fold
from training_core.data.splitting.row_draws import draw_rows
from training_core.data.storage.store import Dataset
from training_core.errors import GateError
from training_core.jobs import JobReport, read_out_of_bag, require_intact
from training_core.schema import DataSpec, Pattern, TaskSpec, patterns_to_judge
from training_core.seeding import derive_seed
from training_core.selection.answering import calibrated_values, with_promise
from training_core.selection.combination import CombinationConfig, combine_pattern
from training_core.selection.conclude import MAX_LEARNED
from training_core.selection.evidence import Candidate, Evidence, OutOfBag
from training_core.selection.pooling import pool
from training_core.selection.units import of_rows, units_of


@dataclass(frozen=True)
class Answers:
    """Answers for rows and what is true of them.

    `target` as in `Samples`; `values` [n, C] with all modalities of a row, and one [n, C] in `hidden` per pattern with
    some hidden; NaN where there is no answer.
    """

    target: np.ndarray
    values: np.ndarray
    hidden: Sequence[np.ndarray]


def cross_fitted_answers(
    dataset: Dataset,
    spec: DataSpec,
    reports: Sequence[JobReport],
    config: CombinationConfig,
    seed: int,
    with_hidden: bool,
) -> Answers:
    """The answers of an ensemble of the trained learners for all training rows that any of them speaks for.

    Args:
        dataset: what they were trained on.
        spec: of the run's modalities.
        reports: of the learners, each with an artefact.
        config: how they are combined.
        seed: of the halves, and of the combination.
        with_hidden: whether patterns with hidden modalities are answered, too.

    Raises:
        GateError: there is no learner.
        StorageError: what a learner said does not read back.
    """
    if not reports:
        raise GateError("no learner trained, so there is nothing to combine")
    require_intact(report.artifact for report in reports if report.artifact is not None)
    candidates = [_candidate(report) for report in reports]
    rows = dataset.rows("train")
    target, available = dataset.target(rows), dataset.available(rows)
    units = units_of(dataset.groups(rows), dataset.times(rows))
    halves = _halves(dataset, rows, target, seed)
    full = frozenset(spec.names)
    hidden = [p for p in patterns_to_judge(spec.names, MAX_LEARNED) if p != full] if with_hidden else []
    said = {pattern: np.full((len(rows), spec.task.num_outputs), np.nan) for pattern in (full, *hidden)}
    with threadpool_limits(limits=1):
        for judged in halves:
            learnt = ~judged
            told = [
                _heard(candidates, spec, rows, target, available, units, part, config, seed)
                for part in (learnt, judged)
            ]
            told[0].calibrate_learners()
            told[1].temperatures = told[0].temperatures
            for pattern, values in said.items():
                places, found = _answer(spec, pattern, told[0].under(pattern), told[1].under(pattern), config, seed)
                values[np.flatnonzero(judged)[places]] = found
    return Answers(target, said[full], [said[pattern] for pattern in hidden])


def _candidate(report: JobReport) -> Candidate:
    assert report.artifact is not None
    rows, predictions = read_out_of_bag(report.artifact)
    return Candidate(
        name=report.name,
        kind=report.learner,
        modalities=report.modalities,
        folder=report.artifact.path / "learner",
        rows=rows,
        predictions=predictions,
        score=report.score,
        team=without_fold(report.name),
    )


def _halves(dataset: Dataset, rows: np.ndarray, target: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two halves of the training rows, bool [n] each: of every class alike, groups and spans of time whole."""
    bag = Bag(
        name="halves",
        modalities=dataset.spec.names,
        sampling="subsample",
        row_fraction=0.5,
        feature_fraction=1.0,
        seed=derive_seed(seed, "halves"),
        row_seed=derive_seed(seed, "halves"),
    )
    outside = draw_rows(bag, rows, target, dataset.groups(rows), dataset.times(rows)).outside
    half = np.isin(rows, outside)
    return half, ~half


def _heard(
    candidates: Sequence[Candidate],
    spec: DataSpec,
    rows: np.ndarray,
    target: np.ndarray,
    available: Mapping[str, np.ndarray],
    units: np.ndarray | None,
    part: np.ndarray,
    config: CombinationConfig,
    seed: int,
) -> OutOfBag:
    """What the candidates said about a part of the rows; one that said nothing about it stays, with no rows."""
    own: list[Candidate] = []
    for candidate in candidates:
        kept = np.isin(candidate.rows, rows[part])
        predictions = {key: values[kept] for key, values in candidate.predictions.items()}
        own.append(replace(candidate, rows=candidate.rows[kept], predictions=predictions))
    there = {name: values[part] for name, values in available.items()}
    return OutOfBag(spec, own, rows[part], target[part], there, config, seed, of_rows(units, part))


def _answer(
    spec: DataSpec, pattern: Pattern, learnt: Evidence, judged: Evidence, config: CombinationConfig, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the judged half, as positions in it, and the answers [n, C] to them under a pattern."""
    present = tuple(name for name in spec.names if name in pattern)
    partial = len(present) < len(spec.names)
    said = (spec.task, learnt.target, learnt.predictions, learnt.names)
    learned = combine_pattern(*said, config, seed, present, partial, learnt.teams, learnt.units)
    learned = with_promise(spec.task, learned, learnt, config, seed)
    weights = np.array([learned.weights.get(name, 0.0) for name in judged.names])
    if not weights.any():
        unknown = _ignorant(spec.task, learnt.target)
        return judged.rows, np.tile(unknown, (len(judged.rows), 1))
    mixed = pool(judged.predictions, weights)
    rows = np.flatnonzero(mixed.covered)
    kept = weights > 0
    names = tuple(name for name, used in zip(judged.names, kept, strict=True) if used)
    heard = judged.predictions[kept][:, rows]
    values = calibrated_values(spec.task, learned, mixed.take(rows), heard, weights[kept], names)
    return judged.rows[rows], values


def _ignorant(task: TaskSpec, target: np.ndarray) -> np.ndarray:
    """What to answer without any input, [C]: frequencies, smoothed by one row in all, or the mean."""
    if task.kind == "classification":
        counts = np.bincount(target, minlength=task.num_outputs)
        return (counts + 1 / task.num_outputs) / (len(target) + 1)
    return target.mean(axis=0)
