"""Champion and challenger on the same fresh rows: who is better, under which availability pattern, and is it luck."""

from pathlib import Path
from typing import Literal

import numpy as np

from training_core.campaigns.evaluation.subject import ModelRef, fresh_rows
from training_core.config import Config
from training_core.data.recoding import recoded
from training_core.data.storage.store import Dataset, DatasetStore
from training_core.errors import DataError
from training_core.evaluation.metrics import LOWER_IS_BETTER, metrics, score
from training_core.evaluation.statistics import Difference, compare, compare_losses, holm, resample
from training_core.schema import Pattern, TaskSpec, patterns_to_judge
from training_core.selection.ensemble import Ensemble

_NO_SPREAD = 1e-12  # of the largest value: what rounding leaves of the spread of equal numbers


class PatternDuel(Config):
    """Both under one availability pattern, in the headline score."""

    available: tuple[str, ...]
    champion: float
    challenger: float
    difference: Difference
    """Challenger less champion."""
    adjusted_p_value: float
    """Of the difference, adjusted for the number of patterns (Holm), and for few units as that of the losses is."""

    @property
    def label(self) -> str:
        """The modalities that are there."""
        return "+".join(self.available)


class Contest(Config):
    """What two models did on rows that neither was trained on."""

    champion: str
    """As it is registered."""
    challenger: str
    dataset: str
    """`name@version` of the rows."""
    rows: Literal["unseen", "test"]
    num_rows: int
    left_out: int
    """Rows that were not asked because one of them has seen them, or their groups."""
    checked: bool
    """Whether the rows both were trained on are known; else the split alone kept them apart."""
    of_known_groups: int = 0
    """Rows of groups of which one of them has seen other rows: too few are of groups that are new to both."""
    without_target: int = 0
    """Rows whose answer is not known, so that they judge nobody."""
    unit: str
    """What is resampled: rows, whole groups, or blocks of successive rows."""
    metric: str
    champion_score: float
    challenger_score: float
    difference: Difference
    """Of the headline scores, challenger less champion."""
    loss: Difference
    """What the challenger saves per row (`evaluation.metrics.loss`, of a regression in shares of each target's variance
    on these rows); above 0 it is better."""
    patterns: tuple[PatternDuel, ...]
    """The full set first."""
    champion_metrics: dict[str, float]
    challenger_metrics: dict[str, float]

    @property
    def worst(self) -> PatternDuel:
        """The pattern under which the challenger loses most."""
        return min(self.patterns, key=lambda duel: duel.difference.difference)

    def metric_rows(self) -> list[tuple[str, str, str, str]]:
        """Each metric of both as text, with an arrow at the better one."""
        rows = []
        for name, before in self.champion_metrics.items():
            after = self.challenger_metrics.get(name)
            if after is None:
                continue
            better = after < before if name in LOWER_IS_BETTER else after > before
            mark = "=" if after == before else "better" if better else "worse"
            rows.append((name, f"{before:.4f}", f"{after:.4f}", mark))
        return rows


def hold_contest(
    champion: ModelRef, challenger: ModelRef, dataset: str, rows: Literal["unseen", "test"], store: Path, seed: int = 0
) -> Contest:
    """Let both predict the same rows under every pattern.

    Groups and blocks of time are resampled whole; see `evaluation.statistics.resample`. A model that was not trained on
    a modality does not look at it; one that has never met a category or a class of the rows is asked all the same: the
    category is absent for it, and the class never its answer.

    Args:
        champion: the one that answers now.
        challenger: the one that wants to.
        dataset: `name`, `name@latest` or `name@version`.
        rows: those of the test split, or every row; never one that either was trained on.
        store: folder of everything.
        seed: root of the resamples.

    Raises:
        DataError: there is no such data set, it is not what the models take, or no row with a known answer is left.
        StorageError: a model's files are damaged.
    """
    data = DatasetStore(store / "datasets").open(dataset)
    old, new = champion.load(), challenger.load()
    fresh = fresh_rows((old, new), data, rows)
    task = data.spec.task
    known = task.answered(data.target(fresh.positions))
    if not known.any():
        raise DataError(f"none of the {len(known)} fresh rows of {data.ref} has a known answer; add them first")
    positions = fresh.positions[known]
    target = data.target(positions)
    said = [_Said(model.name, ensemble, data, positions) for model, ensemble in ((champion, old), (challenger, new))]
    names = tuple(n for n in data.spec.names if n in {*old.spec.names, *new.spec.names})
    drawn = resample(len(positions), seed=seed, groups=data.groups(positions), times=data.times(positions))
    patterns = patterns_to_judge(names)
    found, p_values = [], []
    for pattern in patterns:
        before, after = (one.under(pattern) for one in said)
        difference = compare(task, target, after, before, drawn)
        p_values.append(max(difference.p_value, 2.0 ** (1 - min(drawn.num_units, 60))))
        found.append((pattern, score(task, target, before), score(task, target, after), difference))
    full = frozenset(names)
    before, after = (one.under(full) for one in said)
    truth, first, second = _in_one_unit(task, target, after, before)
    return Contest(
        champion=champion.name,
        challenger=challenger.name,
        dataset=data.ref,
        rows=rows,
        num_rows=len(positions),
        left_out=fresh.left_out,
        checked=fresh.checked,
        of_known_groups=fresh.of_known_groups,
        without_target=int((~known).sum()),
        unit=drawn.unit,
        metric=task.metric,
        champion_score=found[0][1],
        challenger_score=found[0][2],
        difference=found[0][3],
        loss=compare_losses(task, truth, first, second, drawn),
        patterns=tuple(
            PatternDuel(
                available=tuple(n for n in names if n in pattern),
                champion=old_score,
                challenger=new_score,
                difference=difference,
                adjusted_p_value=float(p),
            )
            for (pattern, old_score, new_score, difference), p in zip(found, holm(np.array(p_values)), strict=True)
        ),
        champion_metrics=metrics(task, target, before),
        challenger_metrics=metrics(task, target, after),
    )


class _Said:
    """What one of them says of the rows, in the classes of the data set."""

    def __init__(self, name: str, ensemble: Ensemble, data: Dataset, positions: np.ndarray) -> None:
        try:
            samples = recoded(data.subset(positions), ensemble.spec).samples()
        except DataError as error:
            raise DataError(f"{name} cannot be asked about {data.ref}: {error}") from error
        self._under = ensemble.under_patterns(samples)
        own, asked = ensemble.task.classes, data.spec.task.classes
        # Versions grow: a class that a model has never met gets no probability from it, so it is never right there.
        self._places = None if own == asked else [(own.index(c) if c in own else None) for c in asked]

    def under(self, pattern: Pattern) -> np.ndarray:
        """Predictions with what lies outside `pattern` hidden, [N, C]."""
        values = self._under.predict(pattern).values
        if self._places is None:
            return values
        blank = np.zeros(len(values))
        return np.stack([blank if place is None else values[:, place] for place in self._places], axis=1)


def _in_one_unit(task: TaskSpec, target: np.ndarray, *answers: np.ndarray) -> tuple[np.ndarray, ...]:
    """Target and answers so that every column counts alike: of a regression, in standard deviations of the target's.

    A column that is the same in all rows stays in its own unit, since there is nothing to measure errors by.
    """
    if task.kind != "regression":
        return target, *answers
    std = target.std(axis=0)
    scale = np.where(std > _NO_SPREAD * np.abs(target).max(axis=0), std, 1.0)
    return tuple(values / scale for values in (target, *answers))
