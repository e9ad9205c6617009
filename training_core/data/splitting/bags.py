"""Bags: the part of the training data (rows, modalities, feature columns) that one member of an ensemble sees.

A bag is a small value. Its rows and columns are drawn again from its seed wherever they are needed, so they never
have to be stored or sent.
"""

from collections.abc import Iterable
from typing import Annotated, Literal, Self

import numpy as np
from annotated_types import Gt, Le
from pydantic import model_validator

from training_core.config import Config
from training_core.data.splitting.embargo import unit_times
from training_core.errors import ConfigError
from training_core.quantities import PositiveInt, Seed, UnitInterval
from training_core.schema import DataSpec
from training_core.seeding import derive_seed, generator

Fraction = Annotated[float, Gt(0.0), Le(1.0)]

_TIME_BLOCKS = 20  # of 5 % each: fine enough for `row_fraction`, and hardly a row has a neighbour in another block
_BLOCK_ROWS = 5  # fewer rows would not be a block
_MAX_DRAWS = 64  # masks tried before a repeated one is taken: finds a free one of a handful almost surely


class BagsConfig(Config):
    """How many bags there are and what each of them leaves out."""

    num_bags: PositiveInt = 12
    """Bags in all; never fewer than one full set and every single modality take, whatever is asked for."""
    strategy: Literal["random", "linear"] = "random"
    """How modalities are dropped from the drawn bags: at random rates, or at rates growing linearly over the bags."""
    max_dropout: UnitInterval = 0.5
    """The highest rate at which a drawn bag drops each modality."""
    sampling: Literal["bootstrap", "subsample"] = "subsample"
    """Rows drawn with replacement (bootstrap) or without (subsample)."""
    row_fraction: Fraction = 0.8
    """Rows drawn, as a fraction of the training rows."""
    num_row_draws: PositiveInt = 2
    """How many different draws of rows the bags share. Learners of one draw leave out the same rows and are compared
    row by row there; more draws use more of the data, fewer compare more learners. From `num_bags` on: each its own."""
    feature_fraction: Fraction = 1.0
    """Columns of vectors and tables a bag keeps, as a fraction of theirs."""

    @model_validator(mode="after")
    def _leaves_something_out(self) -> Self:
        if self.sampling == "subsample" and self.row_fraction == 1.0:
            raise ValueError(
                "a subsample with row_fraction 1 leaves no rows to judge learners on; lower it to 0.9 or less"
            )
        return self


class Bag(Config):
    """One bag: which modalities it has, and the seed and fractions its rows and columns are drawn by."""

    name: str
    modalities: tuple[str, ...]
    sampling: Literal["bootstrap", "subsample"]
    row_fraction: Fraction
    feature_fraction: Fraction
    seed: Seed
    row_seed: Seed
    """Bags with the same one draw the same rows."""


def make_bags(config: BagsConfig, spec: DataSpec, seed: int) -> tuple[Bag, ...]:
    """The bags of an ensemble: the full set of modalities once per draw of rows, every single one, then drawn masks.

    Drawn bag k of K (k = 1 … K) drops each modality independently at rate r_k:

    - `random`: r_k uniform in [0, `max_dropout`];
    - `linear`: r_k = `max_dropout` · k / K.

    A mask that lost every modality keeps one of them, drawn uniformly. A mask that is in use already is drawn again
    up to 64 times, after which the first of those draws is taken: masks differ while different ones can be had.
    Bag i draws its rows from the seed of draw i modulo `num_row_draws`.
    """
    names = spec.names
    num_full = min(config.num_row_draws, max(1, config.num_bags - len(names)))
    masks = [names] * (config.num_bags if len(names) == 1 else num_full)
    if len(names) > 1:
        masks += [(name,) for name in names]
    num_drawn = config.num_bags - len(masks)
    for k in range(1, num_drawn + 1):
        masks.append(_draw_mask(config, names, k, num_drawn, masks, generator(seed, "bag-mask", k)))
    width = max(2, len(str(len(masks) - 1)))
    return tuple(
        Bag(
            name=f"bag-{index:0{width}d}",
            modalities=mask,
            sampling=config.sampling,
            row_fraction=config.row_fraction,
            feature_fraction=config.feature_fraction,
            seed=derive_seed(seed, "bag", index),
            row_seed=derive_seed(seed, "rows", index % config.num_row_draws),
        )
        for index, mask in enumerate(masks)
    )


def _draw_mask(
    config: BagsConfig,
    names: tuple[str, ...],
    k: int,
    num_drawn: int,
    used: list[tuple[str, ...]],
    draws: np.random.Generator,
) -> tuple[str, ...]:
    """The mask of drawn bag `k`: the first draw not in `used`, else the first draw."""
    first: tuple[str, ...] = ()
    for _ in range(_MAX_DRAWS):
        grows = config.strategy == "linear"
        rate = config.max_dropout * (k / num_drawn if grows else draws.random())
        kept = draws.random(len(names)) >= rate
        if not kept.any():
            kept[draws.integers(len(names))] = True
        mask = tuple(name for name, keep in zip(names, kept, strict=True) if keep)
        if mask not in used:
            return mask
        first = first or mask
    return first


def in_bag_rows(
    bag: Bag,
    rows: np.ndarray,
    target: np.ndarray | None,
    groups: np.ndarray | None,
    times: np.ndarray | None = None,
) -> np.ndarray:
    """The training rows of a bag, sorted; with repeats when it is a bootstrap.

    Rows that have times resemble their neighbours in time, and a learner judged on the neighbours of its own rows
    looks better than it is. With `times` therefore whole blocks are drawn, without strata: up to 20 consecutive spans
    of about as many rows each (blocks of observations: Künsch 1989, doi:10.1214/aos/1176347265; non-overlapping ones:
    Carlstein 1986). Rows of one time stay together, and so do groups, which count as of their last row.

    Args:
        bag: the bag.
        rows: positions to draw from, int64 [n].
        target: the targets of `rows`, in their order: integers [n] are class codes and the draw is stratified by
            them; any other array, or None, is drawn from without strata.
        groups: the groups of `rows`, in their order, or None. Given, whole groups are drawn (a bootstrap draws them
            with replacement), stratified by the class most of their rows have.
        times: the times of `rows`, in their order, or None.

    Returns:
        int64 positions out of `rows`. Every class (majority class of a group) keeps at least one row (group), unless
        blocks of time are drawn.

    Raises:
        ConfigError: nothing is left in the bag.
    """
    unit_of_row, strata = _units(rows, target, groups, times)
    counts = _draw_counts(bag, strata)
    drawn = np.repeat(rows, counts[unit_of_row])
    if not len(drawn):
        raise ConfigError(f"{bag.name}: 0 rows left of {len(rows)}; widen `row_fraction` ({bag.row_fraction})")
    return np.sort(drawn).astype(np.int64, copy=False)


def out_of_bag_rows(
    bag: Bag,
    rows: np.ndarray,
    target: np.ndarray | None,
    groups: np.ndarray | None,
    times: np.ndarray | None = None,
) -> np.ndarray:
    """The rows the bag left out, sorted and without repeats: the ones its learners can be judged on.

    Takes what `in_bag_rows` takes; both together are exactly `rows`.

    Raises:
        ConfigError: every row is in the bag.
    """
    unit_of_row, strata = _units(rows, target, groups, times)
    left = rows[_draw_counts(bag, strata)[unit_of_row] == 0]
    if not len(left):
        kinds = "blocks of time" if times is not None else "rows" if groups is None else "groups"
        raise ConfigError(
            f"{bag.name}: 0 rows left out of the bag to judge it on ({len(strata)} {kinds}, all drawn); "
            f"lower `row_fraction` ({bag.row_fraction}) or provide more {kinds}"
        )
    return np.sort(left).astype(np.int64, copy=False)


def bag_features(bag: Bag, spec: DataSpec) -> dict[str, tuple[int, ...]]:
    """The columns a bag keeps of each of its vector and tabular modalities; empty when it keeps all.

    Positions are in the dataset's spec, sorted; each modality keeps round(`feature_fraction` · columns), at least 1.
    """
    if bag.feature_fraction == 1.0:
        return {}
    kept: dict[str, tuple[int, ...]] = {}
    for name in bag.modalities:
        modality = spec[name]
        if modality.kind not in {"vector", "tabular"}:
            continue
        num_columns = modality.num_features
        num_kept = max(1, round(bag.feature_fraction * num_columns))
        chosen = generator(bag.seed, "features", name).choice(num_columns, num_kept, replace=False)
        kept[name] = tuple(int(i) for i in np.sort(chosen))
    return kept


def _units(
    rows: np.ndarray, target: np.ndarray | None, groups: np.ndarray | None, times: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """What is drawn (rows, groups, blocks of time): the unit of each row [n] and the stratum of each unit [units]."""
    if times is not None and len(times) and (block := _time_blocks(unit_times(times, groups))).any():
        return block, np.zeros(block.max() + 1, np.int64)
    codes = np.zeros(len(rows), np.int64)
    if target is not None and target.ndim == 1 and np.issubdtype(target.dtype, np.integer):
        codes = np.unique(target, return_inverse=True)[1]
    if groups is None:
        return np.arange(len(rows)), codes
    names, unit_of_row = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    votes = np.zeros((len(names), codes.max(initial=0) + 1), np.int64)
    np.add.at(votes, (unit_of_row, codes), 1)
    return unit_of_row, votes.argmax(axis=1)


def _time_blocks(times: np.ndarray) -> np.ndarray:
    """The block of each row, int64 [n], counted in time order; all 0 when there is a single time."""
    ordered = np.sort(times)
    num_blocks = min(_TIME_BLOCKS, max(2, len(times) // _BLOCK_ROWS))
    earlier = np.searchsorted(ordered, times, side="left")  # rows before the first of the same time
    block = np.unique(earlier * num_blocks // len(times), return_inverse=True)[1]
    if not block.any() and ordered[0] != ordered[-1]:  # the first time has most of the rows
        block = (earlier > 0).astype(np.int64)
    return block


def _draw_counts(bag: Bag, strata: np.ndarray) -> np.ndarray:
    """How often each unit is in the bag, int64 [units]."""
    draws = generator(bag.row_seed, "rows")
    counts = np.zeros(len(strata), np.int64)
    values, sizes = np.unique(strata, return_counts=True)
    for value, num_drawn in zip(values, _allocate(bag.row_fraction, sizes), strict=True):
        members = np.flatnonzero(strata == value)
        if bag.sampling == "bootstrap":
            counts += np.bincount(draws.choice(members, num_drawn, replace=True), minlength=len(strata))
        else:
            counts[draws.choice(members, num_drawn, replace=False)] = 1
    return counts


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
