"""Folds: rows to train on and rows held out, in turn, by class, by labels, by whole groups, or forward in time."""

from collections.abc import Iterator
from typing import Annotated, Literal, Self

import numpy as np
from annotated_types import Ge
from pydantic import model_validator

from training_core.config import Config
from training_core.data.splitting.embargo import Embargo, embargo_of
from training_core.data.splitting.stratification import one_hot, share_out, spread
from training_core.errors import ConfigError, DataError
from training_core.quantities import PositiveInt
from training_core.seeding import derive_seed, generator

Fold = tuple[np.ndarray, np.ndarray]
"""Positions to train on and positions held out, int64, both sorted."""

_MAX_STATE = 2**32  # scikit-learn's seeds are below


class FoldsConfig(Config):
    """How rows are held out in turn."""

    kind: Literal["stratified", "grouped", "repeated", "walk_forward"] = "stratified"
    """Stratified: k folds, each with its share of every class or label. Grouped: the same with whole groups. Repeated:
    several stratified ones. Walk forward: each fold is held out after training on what came before it."""
    num_folds: Annotated[int, Ge(2)] = 5
    """Folds; walking forward: how many blocks of the num_folds + 1 are held out."""
    repeats: PositiveInt = 1
    """Repeated: how many times all rows are shared out anew."""
    embargo: Embargo = 0.0
    """Walk forward: how long before the held-out rows training has to end, in the unit of numeric times, or a duration
    such as `7d` for dates."""
    window: PositiveInt | None = None
    """Walk forward: train on as many rows as this number of blocks has, the latest ones; without it on all earlier
    ones."""

    @model_validator(mode="after")
    def _has_no_idle_setting(self) -> Self:
        if self.kind != "walk_forward" and (self.embargo or self.window):
            raise ValueError(f"`embargo` and `window` are for walk_forward, this is {self.kind}; remove them")
        if self.kind != "repeated" and self.repeats > 1:
            raise ValueError(f"`repeats` is for kind repeated, this is {self.kind}; change one of them")
        return self


def make_folds(
    config: FoldsConfig,
    num_rows: int,
    *,
    strata: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    times: np.ndarray | None = None,
    seed: int = 0,
) -> Iterator[Fold]:
    """The folds of `num_rows` rows, one after another; everything is checked before the first.

    Groups that are given are never split, whatever the kind. Except walking forward every row is held out exactly
    once (per repeat).

    Args:
        config: how.
        num_rows: N.
        strata: class codes, int64 [N], or labels of 0 and 1, [N, L], to keep in proportion; None for neither.
        groups: group of each row [N].
        times: time of each row, numbers or datetime64 [N]; only walking forward looks at them.
        seed: of everything random.

    Raises:
        ConfigError: the kind needs groups or times that are not given, or the embargo does not fit the times.
        DataError: there are more folds than rows, groups, times, or rows of a class.
    """
    if config.kind == "walk_forward":
        if times is None:
            raise ConfigError("walk-forward folds need the times of the rows; give `time`, or choose another kind")
        return iter(_walk_forward(config, times, groups))
    if config.kind == "grouped" and groups is None:
        raise ConfigError("grouped folds need the groups of the rows; give `group`, or choose another kind")
    seeds = [seed] if config.kind != "repeated" else [derive_seed(seed, "repeat", r) for r in range(config.repeats)]
    shared_out = [fold_of_rows(num_rows, config.num_folds, strata, groups, one) for one in seeds]
    return (
        (np.flatnonzero(fold != held_out), np.flatnonzero(fold == held_out))
        for fold in shared_out
        for held_out in range(config.num_folds)
    )


def fold_of_rows(
    num_rows: int, num_folds: int, strata: np.ndarray | None, groups: np.ndarray | None, seed: int
) -> np.ndarray:
    """The fold that holds each row out, int64 [N] in [0, num_folds).

    Rows: scikit-learn's StratifiedKFold by class, iterative stratification by labels (see `share_out`), else KFold.
    Whole groups: scikit-learn's StratifiedGroupKFold by class, iterative stratification by the labels any of their
    rows has, else GroupKFold; a class or label of several groups is spread over several folds where possible.

    Raises:
        DataError: there are more folds than rows, groups, or rows of a class.
    """
    units = num_rows if groups is None else len(np.unique(groups.astype(str)))
    what = "rows" if groups is None else "groups"
    if units < num_folds:
        raise DataError(f"{units} {what} cannot make {num_folds} folds; lower `num_folds`, or provide more {what}")
    if strata is not None and strata.ndim == 2:
        return _by_labels(strata, groups, num_folds, seed)
    if strata is not None:
        codes, counts = np.unique(strata, return_counts=True)
        if (fewest := int(counts.min())) < num_folds:
            raise DataError(
                f"class {codes[counts.argmin()]} has {fewest} row(s), too few for one in each of {num_folds} folds; "
                "lower `num_folds`, provide more rows of it, or merge it with another"
            )
    fold = _with_scikit_learn(num_rows, strata, groups, num_folds, derive_seed(seed, "folds") % _MAX_STATE)
    if strata is not None and groups is not None:
        names, first, unit_of_row = np.unique(groups.astype(str), return_index=True, return_inverse=True)
        labels = np.zeros((len(names), len(np.unique(strata))), bool)
        np.logical_or.at(labels, unit_of_row, one_hot(strata))
        fold = spread(fold[first], labels, num_folds)[unit_of_row]
    return fold


def _with_scikit_learn(
    num_rows: int, codes: np.ndarray | None, groups: np.ndarray | None, num_folds: int, state: int
) -> np.ndarray:
    from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

    kinds = {
        (True, False): StratifiedKFold,
        (False, False): KFold,
        (True, True): StratifiedGroupKFold,
        (False, True): GroupKFold,
    }
    for kind in (kinds[codes is not None, groups is not None], GroupKFold):
        folds = kind(num_folds, shuffle=True, random_state=state)
        fold = np.zeros(num_rows, np.int64)
        names = None if groups is None else groups.astype(str)
        for number, (_, held_out) in enumerate(folds.split(np.zeros(num_rows), codes, names)):
            fold[held_out] = number
        if len(np.unique(fold)) == num_folds:  # stratified groups may leave a fold empty
            break
    return fold


def _by_labels(labels: np.ndarray, groups: np.ndarray | None, num_folds: int, seed: int) -> np.ndarray:
    """Iterative stratification over equal folds, of rows or of whole groups."""
    unit_of_row = np.arange(len(labels))
    if groups is not None:
        _, unit_of_row = np.unique(groups.astype(str), return_inverse=True)
    own = np.zeros((unit_of_row.max() + 1, labels.shape[1]), bool)
    np.logical_or.at(own, unit_of_row, labels > 0.5)
    draws = generator(seed, "label-folds")
    fold = share_out(own, [1 / num_folds] * num_folds, draws)
    sizes = np.bincount(fold, minlength=num_folds)
    for empty in np.flatnonzero(sizes == 0):  # few rows with many labels each
        fold[np.flatnonzero(fold == sizes.argmax())[0]] = empty
        sizes = np.bincount(fold, minlength=num_folds)
    return spread(fold, own, num_folds)[unit_of_row]


def _walk_forward(config: FoldsConfig, times: np.ndarray, groups: np.ndarray | None) -> list[Fold]:
    """Blocks of equal numbers of rows in time order, the last `num_folds` of them held out one after another.

    With distinct times exactly scikit-learn's TimeSeriesSplit; rows of one time stay together, so blocks may be
    uneven. Training rows are earlier than the first held-out row by more than the embargo. A group that has a
    held-out row is not trained on in that fold.
    """
    gap = embargo_of(config.embargo, times)
    order = np.argsort(times, kind="stable")
    ordered = times[order]
    size = len(times) // (config.num_folds + 1)
    distinct = len(np.unique(times))
    if size < 1 or distinct <= config.num_folds:
        raise DataError(
            f"{len(times)} rows at {distinct} distinct times cannot be walked through in {config.num_folds} folds; "
            "lower `num_folds`, or provide more rows"
        )
    cuts = [len(times) - size * (config.num_folds - number) for number in range(config.num_folds)]
    starts = np.searchsorted(ordered, ordered[cuts], side="left")  # moved to the first row of their time
    if starts[0] == 0:  # the first time alone fills more than the first block
        starts[0] = np.searchsorted(ordered, ordered[0], side="right")
    stops = [*starts[1:], len(times)]
    folds: list[Fold] = []
    for number, (start, stop) in enumerate(zip(starts, stops, strict=True), start=1):
        if start >= stop:
            raise DataError(
                f"fold {number} of {config.num_folds} holds nothing out, because many rows share one time; "
                "lower `num_folds`, or give finer times"
            )
        end = int(np.searchsorted(ordered, ordered[start] - gap, side="left")) if gap else int(start)
        begin = 0
        if config.window is not None and end > 0:
            begin = max(0, end - config.window * size)
            begin = int(np.searchsorted(ordered, ordered[begin], side="left"))
        train, held_out = order[begin:end], order[start:stop]
        if groups is not None:
            train = train[~np.isin(groups[train].astype(str), np.unique(groups[held_out].astype(str)))]
        if not len(train):
            causes = [f"an embargo of {config.embargo}"] if gap else []
            causes += ["groups that are held out"] if groups is not None else []
            raise DataError(
                f"fold {number} of {config.num_folds}: {' and '.join(causes) or 'nothing'} leaves no earlier row to "
                "train on; lower `num_folds` or the embargo, or leave the groups out"
            )
        folds.append((np.sort(train), np.sort(held_out)))
    return folds
