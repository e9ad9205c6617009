"""The rows of a bag and the rows it leaves out: by class, by whole groups, or by blocks of time.

What is drawn are *units*: rows, or groups where rows have groups, or blocks of neighbours where they have times, for
rows of a group and neighbours in time resemble one another, and a learner judged on those of its own rows looks better
than it is. Everything follows from the bag's `row_seed` and what is known of the rows, so it is drawn again wherever
it is needed.
"""

from collections.abc import Iterable
from hashlib import sha256
from typing import Literal, NamedTuple

import numpy as np

from training_core.data.splitting.bags import Bag
from training_core.data.splitting.embargo import unit_times
from training_core.data.splitting.folds import fold_of_rows
from training_core.data.splitting.stratification import one_hot, spread
from training_core.errors import ConfigError
from training_core.seeding import derive_seed, generator

TIME_BLOCKS = 20  # of 5 % each: fine enough for `row_fraction`, and hardly a row has a neighbour in another block
_BLOCK_ROWS = 5  # fewer rows would not be a block
_DEALT: dict[tuple[object, ...], np.ndarray] = {}  # the last folds dealt: all bags of a run share them, and groups of
# 100 000 rows, or their labels, take 1 to 2 seconds to share out


class RowDraw(NamedTuple):
    """The rows of a bag: `inside` sorted and with repeats, `outside` sorted; int64, together all rows there are."""

    inside: np.ndarray
    outside: np.ndarray


def draw_rows(
    bag: Bag,
    rows: np.ndarray,
    target: np.ndarray | None,
    groups: np.ndarray | None,
    times: np.ndarray | None = None,
) -> RowDraw:
    """The rows of a bag, and those it leaves out, which its learners can be judged on.

    Rows that have times are drawn as whole blocks without strata: up to 20 consecutive spans of about as many rows
    each (blocks of observations: Künsch 1989, doi:10.1214/aos/1176347265; non-overlapping ones: Carlstein 1986). Rows
    of one time stay together, and so do groups, which count as of their last row. Else whole groups are drawn, else
    rows, both stratified by class (of a group: the class most of its rows have).

    - `subsample`: round(`row_fraction` · units) of them, each class in proportion.
    - `bootstrap`: as many draws with replacement, each class in proportion. With `class_balanced` the draws are made
      once more, with replacement and as many of each class, from what the first ones brought (equal draws per class:
      Chen, Liaw and Breiman 2004, "Using Random Forest to Learn Imbalanced Data", §2.2). Drawing twice keeps rows of
      rare classes outside the bag: drawn at once, hardly one of them would be left to judge a learner on.
    - `folds`: all units but those of the bag's fold; see `splitting.folds.fold_of_rows`. Labels (2-D targets of 0 and
      1) are stratified too. Classes with fewer rows than there are folds are spread over several of them together.

    Args:
        bag: the bag.
        rows: positions to draw from, int64 [n].
        target: the targets of `rows`, in their order: integers [n] are class codes and the draw is stratified by
            them; any other array, or None, is drawn from without strata (but for labels in folds).
        groups: the groups of `rows`, in their order, or None.
        times: the times of `rows`, in their order, or None.

    Returns:
        Positions out of `rows`. Except for folds and blocks of time every class (majority class of a group) keeps at
        least one row (group) inside.

    Raises:
        ConfigError: nothing is left inside or outside of the bag, there are fewer units than folds, or classes are to
            be balanced among rows that have times.
    """
    drawn = _draw(bag, rows, target, groups, times)
    return RowDraw(_inside(bag, rows, *drawn), _outside(bag, rows, *drawn))


def in_bag_rows(
    bag: Bag,
    rows: np.ndarray,
    target: np.ndarray | None,
    groups: np.ndarray | None,
    times: np.ndarray | None = None,
) -> np.ndarray:
    """`draw_rows(…).inside`, for a bag that may have nothing outside.

    Raises:
        ConfigError: nothing is left in the bag.
    """
    return _inside(bag, rows, *_draw(bag, rows, target, groups, times))


def out_of_bag_rows(
    bag: Bag,
    rows: np.ndarray,
    target: np.ndarray | None,
    groups: np.ndarray | None,
    times: np.ndarray | None = None,
) -> np.ndarray:
    """`draw_rows(…).outside`.

    Raises:
        ConfigError: every row is in the bag.
    """
    return _outside(bag, rows, *_draw(bag, rows, target, groups, times))


def units_of_rows(
    groups: np.ndarray | None, times: np.ndarray | None, num_blocks: int = TIME_BLOCKS
) -> np.ndarray | None:
    """What a learner's own rows are split by, so that no part resembles another more than new rows would.

    Groups where rows have groups, else blocks of time as bags are drawn by, counted among these rows.

    Args:
        groups: the groups of the rows [n], or None.
        times: the times of the rows [n], or None.
        num_blocks: the most blocks of time; with more of them finer shares can be split off.

    Returns:
        The unit of each row, str objects [n]; None where every row stands for itself: rows have neither, or a single
        time.
    """
    if groups is not None:
        return groups
    if times is None or not len(times) or not (block := _time_blocks(times, num_blocks)).any():
        return None
    return block.astype(str).astype(object)


class _Units(NamedTuple):
    """What is drawn: the unit of each row [n], the stratum of each unit [units], and what a unit is."""

    of_row: np.ndarray
    strata: np.ndarray
    kind: Literal["rows", "groups", "blocks of time"]


def _draw(
    bag: Bag, rows: np.ndarray, target: np.ndarray | None, groups: np.ndarray | None, times: np.ndarray | None
) -> tuple[_Units, np.ndarray]:
    """The units, and how often each is in the bag, int64 [units]."""
    units = _units(rows, target, groups, times)
    if bag.sampling == "folds":
        return units, (_fold_of_units(bag, units, target) != bag.fold).astype(np.int64)
    draws = generator(bag.row_seed, "rows")
    counts = _draw_counts(bag, units.strata, draws)
    if bag.class_balanced and units.kind == "blocks of time":
        raise ConfigError(
            f"{bag.name}: rows with times are drawn as whole spans of time, in which classes cannot be balanced; set "
            "`bags.class_balanced` to false, and `training.class_weights` to balanced instead"
        )
    return units, _balanced_counts(units.strata, counts, draws) if bag.class_balanced else counts


def _inside(bag: Bag, rows: np.ndarray, units: _Units, counts: np.ndarray) -> np.ndarray:
    drawn = np.repeat(rows, counts[units.of_row])
    if not len(drawn):
        raise ConfigError(f"{bag.name}: 0 rows left of {len(rows)}; widen `row_fraction` ({bag.row_fraction})")
    return np.sort(drawn).astype(np.int64, copy=False)


def _outside(bag: Bag, rows: np.ndarray, units: _Units, counts: np.ndarray) -> np.ndarray:
    left = rows[counts[units.of_row] == 0]
    if not len(left):
        raise ConfigError(
            f"{bag.name}: 0 rows left out of the bag to judge it on ({len(counts)} {units.kind}, all drawn); "
            f"lower `row_fraction` ({bag.row_fraction}) or provide more {units.kind}"
        )
    return np.sort(left).astype(np.int64, copy=False)


def _units(rows: np.ndarray, target: np.ndarray | None, groups: np.ndarray | None, times: np.ndarray | None) -> _Units:
    if times is not None and len(times) and (block := _time_blocks(unit_times(times, groups))).any():
        return _Units(block, np.zeros(block.max() + 1, np.int64), "blocks of time")
    codes = np.zeros(len(rows), np.int64)
    if target is not None and target.ndim == 1 and np.issubdtype(target.dtype, np.integer):
        codes = np.unique(target, return_inverse=True)[1]
    if groups is None:
        return _Units(np.arange(len(rows)), codes, "rows")
    names, unit_of_row = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    votes = np.zeros((len(names), codes.max(initial=0) + 1), np.int64)
    np.add.at(votes, (unit_of_row, codes), 1)
    return _Units(unit_of_row, votes.argmax(axis=1), "groups")


def _time_blocks(times: np.ndarray, most: int = TIME_BLOCKS) -> np.ndarray:
    """The block of each row, int64 [n], counted in time order; all 0 when there is a single time."""
    ordered = np.sort(times)
    num_blocks = min(most, max(2, len(times) // _BLOCK_ROWS))
    earlier = np.searchsorted(ordered, times, side="left")  # rows before the first of the same time
    block = np.unique(earlier * num_blocks // len(times), return_inverse=True)[1]
    if not block.any() and ordered[0] != ordered[-1]:  # the first time has most of the rows
        block = (earlier > 0).astype(np.int64)
    return block


def _draw_counts(bag: Bag, strata: np.ndarray, draws: np.random.Generator) -> np.ndarray:
    """How often each unit is in a bootstrap or subsample, int64 [units]."""
    counts = np.zeros(len(strata), np.int64)
    values, sizes = np.unique(strata, return_counts=True)
    for value, num_drawn in zip(values, _allocate(bag.row_fraction, sizes), strict=True):
        members = np.flatnonzero(strata == value)
        if bag.sampling == "bootstrap":
            counts += np.bincount(draws.choice(members, num_drawn, replace=True), minlength=len(strata))
        else:
            counts[draws.choice(members, num_drawn, replace=False)] = 1
    return counts


def _balanced_counts(strata: np.ndarray, counts: np.ndarray, draws: np.random.Generator) -> np.ndarray:
    """As many draws in all as `counts` has, the same number from each stratum (within one), only of units it has."""
    values = np.unique(strata)
    shares = np.full(len(values), counts.sum() // len(values))
    shares[: counts.sum() % len(values)] += 1
    balanced = np.zeros_like(counts)
    for value, share in zip(values, np.maximum(shares, 1), strict=True):
        pool = np.flatnonzero((strata == value) & (counts > 0))
        balanced += np.bincount(draws.choice(pool, share, replace=True), minlength=len(counts))
    return balanced


def _fold_of_units(bag: Bag, units: _Units, target: np.ndarray | None) -> np.ndarray:
    """The fold that leaves each unit out, int64 [units]."""
    num_units = len(units.strata)
    if num_units < bag.num_folds:
        raise ConfigError(
            f"{bag.name}: {num_units} {units.kind} cannot make {bag.num_folds} folds; lower `bags.num_row_draws`, or "
            f"provide more {units.kind}"
        )
    strata = codes = None
    if target is not None and units.kind != "blocks of time":
        if target.ndim == 1 and np.issubdtype(target.dtype, np.integer):
            codes = np.unique(target, return_inverse=True)[1]
            strata = _without_rare_classes(codes, bag.num_folds)
        elif target.ndim == 2 and np.isin(target, (0, 1)).all():
            strata = target
    groups = None if units.kind == "rows" else units.of_row
    asked = [units.of_row, *(array for array in (strata, codes) if array is not None)]
    known = (units.kind, bag.num_folds, bag.row_seed, *(sha256(array.tobytes()).digest() for array in asked))
    if (dealt := _DEALT.get(known)) is not None:
        return dealt
    fold_of_row = fold_of_rows(len(units.of_row), bag.num_folds, strata, groups, derive_seed(bag.row_seed, "folds"))
    fold = np.zeros(num_units, np.int64)
    fold[units.of_row] = fold_of_row
    if codes is not None and strata is not codes:
        labels = np.zeros((num_units, codes.max() + 1), bool)
        np.logical_or.at(labels, units.of_row, one_hot(codes))
        fold = spread(fold, labels, bag.num_folds)
    _DEALT.clear()
    _DEALT[known] = fold
    return fold


def _without_rare_classes(codes: np.ndarray, num_folds: int) -> np.ndarray:
    """Classes of fewer rows than there are folds taken for one, or for the most frequent when that is still too few."""
    counts = np.bincount(codes)
    rare = counts < num_folds
    if not rare.any():
        return codes
    merged = len(counts) if counts[rare].sum() >= num_folds else int(counts.argmax())
    return np.where(rare[codes], merged, codes)


def _allocate(fraction: float, sizes: Iterable[int]) -> np.ndarray:
    """How many units to draw from strata of `sizes`: proportional by largest remainders, at least one of each.

    The total is round(`fraction` · units), held below all of them while the fraction is below 1 so that something
    stays out of the bag; strata of one unit may still push it up.
    """
    sizes = np.asarray(list(sizes))
    units = int(sizes.sum())
    total = min(round(fraction * units), units - 1) if fraction < 1 else units
    exact = sizes * (total / max(units, 1))
    shares = np.floor(exact).astype(np.int64)
    by_remainder = np.argsort(shares - exact, kind="stable")
    shares[by_remainder[: total - int(shares.sum())]] += 1
    return np.maximum(shares, 1)
