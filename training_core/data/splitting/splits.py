"""Which rows train, validate and test: drawn by class, by labels, by whole groups, or by time.

Every function returns an array [N] of "train", "validation" and "test" (str objects), and of `SET_ASIDE` where an
embargo keeps rows out of all three. Fractions are of all rows.
"""

from typing import Protocol

import numpy as np

from training_core.data.splitting.embargo import Embargo, embargo_of, unit_times
from training_core.data.splitting.stratification import deal, share_out
from training_core.errors import ConfigError, DataError
from training_core.seeding import generator

SPLITS = ("train", "validation", "test")
SET_ASIDE = "quarantined"
"""Value of rows that no split serves."""

_MAX_PAIRS = 5_000_000  # pairs of labels in all rows that are still balanced, at about 50 bytes each


class SplitRule(Protocol):
    """How rows are shared out."""

    @property
    def test(self) -> float:
        """Fraction to test on, in [0, 1)."""
        ...

    @property
    def validation(self) -> float:
        """Fraction to validate on, in [0, 1)."""
        ...

    @property
    def seed(self) -> int:
        """Of everything random."""
        ...

    @property
    def embargo(self) -> Embargo:
        """How long before a later part training has to end."""
        ...


class SplitRows(Protocol):
    """Rows that have been split before, all in one order: a data set version."""

    def split(self) -> np.ndarray:
        """Part of each row, str objects [N]."""
        ...

    def groups(self) -> np.ndarray | None:
        """Group of each row [N], if there are any."""
        ...

    def times(self) -> np.ndarray | None:
        """Time of each row [N], if there are any."""
        ...


def draw_split(
    *,
    test: float,
    validation: float,
    seed: int,
    num_rows: int,
    strata: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    times: np.ndarray | None = None,
    embargo: Embargo = 0.0,
) -> np.ndarray:
    """The split that what is known of the rows asks for: by time, else by group, else by row.

    Args:
        test: fraction of the rows to test on; 0 for none.
        validation: fraction of the rows to validate on.
        seed: of everything random.
        num_rows: N.
        strata: what keeps its share in every part: class codes, int64 [N], or labels of 0 and 1, [N, L]; or None.
        groups: group of each row [N]; a group is never split.
        times: time of each row, numbers or datetime64 [N]; the latest rows are the test rows.
        embargo: how long before a later part training has to end; needs `times`.

    Raises:
        DataError: there are too few rows, groups, times, or rows of a class.
        ConfigError: the embargo does not fit the times.
    """
    if times is not None:
        return time_split(times, groups, test=test, validation=validation, embargo=embargo)
    if embargo:
        raise ConfigError(f"an embargo ({embargo}) needs the times of the rows; give `time`, or remove it")
    if groups is not None:
        return grouped_split(groups, strata, test=test, validation=validation, seed=seed)
    if strata is not None and strata.ndim == 2:
        return label_split(strata, test=test, validation=validation, seed=seed)
    return row_split(num_rows, strata, test=test, validation=validation, seed=seed)


def row_split(num_rows: int, codes: np.ndarray | None, *, test: float, validation: float, seed: int) -> np.ndarray:
    """Rows drawn at random, stratified by `codes`.

    Exactly scikit-learn's `train_test_split(np.arange(N), test_size=test, stratify=codes, random_state=seed)`, so
    that scores can be compared with published ones; validation rows are drawn the same way from what is left.

    Raises:
        DataError: a class has a single row, or there are too few rows to have every class on both sides.
    """
    from sklearn.model_selection import train_test_split

    def draw(rows: np.ndarray, fraction: float, name: str) -> tuple[np.ndarray, np.ndarray]:
        strata = None if codes is None else codes[rows]
        try:
            kept, drawn = train_test_split(rows, test_size=fraction, stratify=strata, random_state=seed)
        except ValueError as error:
            by_class = "" if codes is None else f" with each of {len(np.unique(codes))} classes on both sides"
            raise DataError(
                f"cannot draw {fraction:.0%} of {len(rows)} rows for {name}{by_class} "
                f"({error}); provide more rows, or give the split as a column"
            ) from None
        return np.asarray(kept), np.asarray(drawn)

    rest = np.arange(num_rows)
    split = np.full(num_rows, "train", object)
    if test > 0:
        rest, test_rows = draw(rest, test, "the test")
        split[test_rows] = "test"
    if validation > 0:
        split[draw(rest, validation / (1 - test), "validation")[1]] = "validation"
    return split


def label_split(labels: np.ndarray, *, test: float, validation: float, seed: int) -> np.ndarray:
    """Rows drawn at random, keeping the share of every label [N, L], and pair of labels, alike; see `share_out`.

    Every label that any row has is trained on. With more than 5 million pairs in all rows only labels are balanced.

    Raises:
        DataError: there are too few rows to have one in every part.
    """
    present = np.asarray(labels) > 0.5
    num_labels = present.sum(axis=1, dtype=np.int64)
    order = 2 if (num_labels * (num_labels - 1)).sum() <= 2 * _MAX_PAIRS else 1
    fractions = (1 - test - validation, validation, test)
    part = share_out(present, fractions, generator(seed, "label-split"), order=order)
    for label in np.flatnonzero(present.any(axis=0) & ~present[part == 0].any(axis=0)):
        if not present[part == 0, label].any():  # all of its rows went elsewhere with rarer labels
            part[np.flatnonzero(present[:, label])[0]] = 0
    for index, fraction in enumerate(fractions):
        if fraction > 0 and not (part == index).any():
            raise DataError(
                f"cannot draw {fraction:.0%} of {len(part)} rows for {SPLITS[index]} with every label in training; "
                "provide more rows, or give the split as a column"
            )
    return np.asarray(SPLITS, object)[part]


def grouped_split(
    groups: np.ndarray, strata: np.ndarray | None, *, test: float, validation: float, seed: int
) -> np.ndarray:
    """Whole groups drawn at random, keeping the wanted number of rows, and of rows of each class or label, in sight.

    Groups are visited in random order. One joins the test (then the validation) rows when that brings their row
    count per class (or per label, and in all) closer to the wanted one, in squares; a group whose joining never
    helped trains, and so does one that would take the last training rows of a class or label along.

    Raises:
        DataError: there are fewer groups than parts.
    """
    names, group_of_row = np.unique(groups.astype(str), return_inverse=True)
    parts = [(part, fraction) for part, fraction in (("test", test), ("validation", validation)) if fraction > 0]
    if len(names) <= len(parts):
        raise DataError(
            f"{len(names)} group(s) cannot be shared out over {len(parts) + 1} parts without splitting one; "
            "provide more groups, or remove `group`"
        )
    counts = _counts_by_group(group_of_row, strata)
    order = generator(seed, "grouped-split").permutation(len(names))
    part_of_group = np.full(len(names), "train", object)
    training = counts.sum(axis=0)  # rows per class that still train

    def spares(group: int) -> bool:
        return bool(((training > counts[group]) | (counts[group] == 0)).all())

    for position, (part, fraction) in enumerate(parts):
        missing = fraction * counts.sum(axis=0)
        free = [g for g in order if part_of_group[g] == "train"]
        must_stay = len(parts) - position  # groups that have to be left for the other parts
        taken = 0
        for group in free:
            if len(free) - taken <= must_stay:
                break
            if _squares(missing - counts[group]) < _squares(missing) and spares(group):
                part_of_group[group] = part
                missing = missing - counts[group]
                training = training - counts[group]
                taken += 1
        if not taken:  # every group is far too large, or has a class of its own: the least bad one
            least = min(free, key=lambda g: (not spares(g), _squares(missing - counts[g])))
            part_of_group[least] = part
            training = training - counts[least]
    return part_of_group[group_of_row]


def time_split(
    times: np.ndarray, groups: np.ndarray | None, *, test: float, validation: float, embargo: Embargo = 0.0
) -> np.ndarray:
    """The last `test` of the rows in time, and before them the last `validation`; rows of one time stay together.

    Rows whose time is less than or exactly `embargo` before the first of a later part are set aside, so that nothing
    measured over such a span is in two parts. With groups, whole groups are ordered by the time of their last row,
    which then is their time: a group that is still active late is tested on with all of its history.

    Raises:
        DataError: there are fewer distinct times (or groups) than parts, or the embargo leaves too few.
        ConfigError: the embargo does not fit the times.
    """
    gap = embargo_of(embargo, times)
    times = unit_times(times, groups)
    split = np.full(len(times), "train", object)
    for part, fraction in (("test", test), ("validation", validation)):
        if fraction == 0:
            continue
        rows = np.flatnonzero(split == "train")
        left = np.sort(times[rows])
        if not len(left) or left[0] == left[-1]:
            raise DataError(
                f"too few distinct times to keep the latest rows for {part} without splitting one"
                f"{'' if groups is None else ' time or group'}{f' and an embargo of {embargo}' if embargo else ''}; "
                "provide more rows, or give the split as a column"
            )
        wanted = max(1, round(fraction * len(times)))
        first = left[max(len(left) - wanted, 0)]
        if first == left[0]:  # it would leave nothing earlier
            first = left[np.searchsorted(left, first, side="right")]
        split[rows[times[rows] >= first]] = part
        if embargo:
            split[(split == "train") & (times >= first - gap)] = SET_ASIDE
    if not (split == "train").any():
        raise DataError(f"an embargo of {embargo} leaves no row to train on; shorten it, or provide earlier rows")
    return split


def check_given_split(
    values: np.ndarray, groups: np.ndarray | None, where: str, *, base: SplitRows | None = None
) -> np.ndarray:
    """A split read from a column, checked; that of rows added to `base` may lack training or test rows.

    Raises:
        DataError: a value is absent or not one of `SPLITS`, no row trains or none tests, or a group is in two parts,
            those of `base` included.
    """
    for row, value in enumerate(values):
        if value not in SPLITS:
            got = "absent" if value is None else repr(value)
            raise DataError(f"{where}, row {row}: the split is {got}; expected one of {', '.join(SPLITS)}")
    for part in ("train", "test") if base is None else ():
        if part not in values:
            raise DataError(f"{where}: no row is marked '{part}'; mark some, or remove `split` to have them drawn")
    if groups is not None:
        seen = {} if base is None else _known_sides(base)
        for group, part in zip(groups, values, strict=True):
            if seen.setdefault(group, part) != part:
                raise DataError(
                    f"{where}: group '{group}' is in both '{seen[group]}' and '{part}'; keep each group in one part"
                )
    return values


def _squares(values: np.ndarray) -> float:
    return float((values**2).sum())


def extend_split(
    base: SplitRows,
    *,
    num_rows: int,
    strata: np.ndarray | None,
    groups: np.ndarray | None,
    times: np.ndarray | None,
    rule: SplitRule,
) -> np.ndarray:
    """The split of rows that are added to `base`, whose own rows keep theirs.

    A row that was ever tested on is never trained on later, so that the test scores of all versions, and of models
    trained on earlier ones, stay honest. New rows go as follows, the first that applies:

    1. a group that is known keeps its side;
    2. without times, rows (or whole new groups) are drawn in the fractions of `rule`, stratified, each number rounded
       at random: rows that arrive one by one are shared out in these fractions too;
    3. with times, a row within the span of the old test rows (or the old validation rows) joins them;
    4. of the rows later than the old test rows, the newest fraction is tested on and the next newest validated on
       (rounded at random too; rows of one time stay together): the test set moves on with the data;
    5. rows within the embargo before a new part, or on either side of an old one, are set aside;
    6. the others train.

    Training rows of rule 4 are later than the old test rows. To judge strictly forward in time, test on rows later
    than all training rows, or prepare the data set anew.

    Args:
        base: the rows there are.
        num_rows: N, how many rows are added.
        strata: class codes [N] or labels [N, L] of the new rows; see `draw_split`.
        groups: groups of the new rows [N].
        times: times of the new rows [N].
        rule: fractions, seed and embargo.

    Returns:
        Parts of the new rows, str objects [N].

    Raises:
        ConfigError: the embargo does not fit the times.
        DataError: some times are dates and others are numbers.
    """
    before = base.split()
    split = np.full(num_rows, "", object)
    if groups is not None:
        side = _known_sides(base)
        split[:] = [side.get(group, "") for group in groups]
    rows = np.flatnonzero(split == "")
    draws = generator(rule.seed, "extended-split", len(before))
    own = None if groups is None else groups[rows]
    if times is None:
        split[rows] = _extended_at_random(None if strata is None else strata[rows], own, len(rows), rule, draws)
    else:
        split[rows] = _extended_in_time(unit_times(times[rows], own), base.times(), before, rule, draws)
    return split


def _known_sides(base: SplitRows) -> dict[str, str]:
    """The part of each group of `base`, if there are any; groups of rows that were set aside have none."""
    split, groups = base.split(), base.groups()
    if groups is None:
        return {}
    served = split != SET_ASIDE
    return dict(zip(groups[served], split[served], strict=True))


def _extended_at_random(
    strata: np.ndarray | None, groups: np.ndarray | None, num_rows: int, rule: SplitRule, draws: np.random.Generator
) -> np.ndarray:
    """Rows, or whole groups by the class most of their rows have or the labels any has, in the fractions of `rule`."""
    fractions = (1 - rule.test - rule.validation, rule.validation, rule.test)
    unit_of_row = np.arange(num_rows) if groups is None else np.unique(groups.astype(str), return_inverse=True)[1]
    counts = _counts_by_group(unit_of_row, strata)
    if strata is not None and strata.ndim == 2:
        part = share_out(counts[:, :-1] > 0, fractions, draws, random_rounding=True)
    else:
        part = deal(counts.argmax(axis=1), fractions, draws)
    return np.asarray(SPLITS, object)[part[unit_of_row]]


def _extended_in_time(
    times: np.ndarray, known: np.ndarray | None, before: np.ndarray, rule: SplitRule, draws: np.random.Generator
) -> np.ndarray:
    """Rules 3 to 6 of `extend_split` for rows of `times`; rows of times `known` are split as `before`."""
    if known is not None and np.issubdtype(known.dtype, np.datetime64) != np.issubdtype(times.dtype, np.datetime64):
        raise DataError("the times of the new rows are dates and those before are numbers, or the other way round")
    gap = embargo_of(rule.embargo, times)
    split = np.full(len(times), "train", object)
    later = np.ones(len(times), bool)
    for part in ("test", "validation"):
        old = None if known is None else known[before == part]
        if old is None or not len(old):
            continue
        low, high = old.min(), old.max()
        split[(split == "train") & (times >= low) & (times <= high)] = part
        if rule.embargo:
            split[(split == "train") & (times >= low - gap) & (times <= high + gap)] = SET_ASIDE
        if part == "test":
            later = times > high
    for part, fraction in (("test", rule.test), ("validation", rule.validation)):
        wanted = int(fraction * later.sum() + draws.random())
        rows = np.flatnonzero(later & (split == "train"))
        if not wanted or not len(rows):
            continue
        first = np.sort(times[rows])[max(len(rows) - wanted, 0)]
        split[rows[times[rows] >= first]] = part
        if rule.embargo:
            split[(split == "train") & later & (times >= first - gap)] = SET_ASIDE
    return split


def _counts_by_group(group_of_row: np.ndarray, strata: np.ndarray | None) -> np.ndarray:
    """Rows of each group by class, or by label and in all, float [groups, classes | labels + 1]."""
    num_groups = int(group_of_row.max(initial=-1)) + 1
    if strata is not None and strata.ndim == 2:
        columns = np.column_stack([strata > 0.5, np.ones(len(strata), bool)])
        counts = np.zeros((num_groups, columns.shape[1]))
        np.add.at(counts, group_of_row, columns)
        return counts
    codes = np.zeros(len(group_of_row), np.int64) if strata is None else np.unique(strata, return_inverse=True)[1]
    counts = np.zeros((num_groups, codes.max(initial=0) + 1))
    np.add.at(counts, (group_of_row, codes), 1)
    return counts
