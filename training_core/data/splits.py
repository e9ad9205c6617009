"""Which rows train, validate and test: drawn by class, by whole groups, or by time.

Every function returns an array [N] of "train", "validation" and "test" (str objects). Fractions are of all rows.
"""

import numpy as np

from training_core.errors import DataError
from training_core.seeding import generator

SPLITS = ("train", "validation", "test")


def draw_split(
    *,
    test: float,
    validation: float,
    seed: int,
    num_rows: int,
    codes: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    times: np.ndarray | None = None,
) -> np.ndarray:
    """The split that what is known of the rows asks for: by time, else by group, else by row.

    Args:
        test: fraction of the rows to test on.
        validation: fraction of the rows to validate on.
        seed: of everything random.
        num_rows: N.
        codes: class codes, int64 [N], to keep every class's share alike; None when there are no classes.
        groups: group of each row [N]; a group is never split.
        times: sortable time of each row [N]; the latest rows are the test rows.

    Raises:
        DataError: there are too few rows, groups, times, or rows of a class.
    """
    if times is not None:
        return time_split(times, groups, test=test, validation=validation)
    if groups is not None:
        return grouped_split(groups, codes, test=test, validation=validation, seed=seed)
    return row_split(num_rows, codes, test=test, validation=validation, seed=seed)


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

    rest, test_rows = draw(np.arange(num_rows), test, "the test")
    split = np.full(num_rows, "train", object)
    split[test_rows] = "test"
    if validation > 0:
        split[draw(rest, validation / (1 - test), "validation")[1]] = "validation"
    return split


def grouped_split(
    groups: np.ndarray, codes: np.ndarray | None, *, test: float, validation: float, seed: int
) -> np.ndarray:
    """Whole groups drawn at random, keeping the wanted number of rows, and of rows of each class, in sight.

    Groups are visited in random order. One joins the test (then the validation) rows when that brings their row
    count per class closer to the wanted one, in squares; a group whose joining never helped trains.

    Raises:
        DataError: there are fewer groups than parts.
    """
    names, group_of_row = np.unique(groups.astype(str), return_inverse=True)
    parts = [("test", test)] + ([("validation", validation)] if validation > 0 else [])
    if len(names) <= len(parts):
        raise DataError(
            f"{len(names)} group(s) cannot be shared out over {len(parts) + 1} parts without splitting one; "
            "provide more groups, or remove `group`"
        )
    strata = np.zeros(len(groups), np.int64) if codes is None else np.unique(codes, return_inverse=True)[1]
    counts = np.zeros((len(names), strata.max() + 1))
    np.add.at(counts, (group_of_row, strata), 1)
    order = generator(seed, "grouped-split").permutation(len(names))
    part_of_group = np.full(len(names), "train", object)
    for position, (part, fraction) in enumerate(parts):
        missing = fraction * counts.sum(axis=0)
        free = [g for g in order if part_of_group[g] == "train"]
        must_stay = len(parts) - position  # groups that have to be left for the other parts
        taken = 0
        for group in free:
            if len(free) - taken <= must_stay:
                break
            if _squares(missing - counts[group]) < _squares(missing):
                part_of_group[group] = part
                missing = missing - counts[group]
                taken += 1
        if not taken:  # every group is far too large: the least bad one
            part_of_group[min(free, key=lambda g: _squares(missing - counts[g]))] = part
    return part_of_group[group_of_row]


def time_split(times: np.ndarray, groups: np.ndarray | None, *, test: float, validation: float) -> np.ndarray:
    """The last `test` of the rows in time, and before them the last `validation`; rows of one time stay together.

    With groups, whole groups are ordered by the time of their last row, so a group that is still active late is
    tested on with all of its history.

    Raises:
        DataError: there are fewer distinct times (or groups) than parts.
    """
    _, rank = np.unique(times, return_inverse=True)
    if groups is not None:
        _, group_of_row = np.unique(groups.astype(str), return_inverse=True)
        last = np.zeros(group_of_row.max() + 1, np.int64)
        np.maximum.at(last, group_of_row, rank)
        rank = last[group_of_row]
    split = np.full(len(times), "train", object)
    for part, fraction in (("test", test), ("validation", validation)):
        if fraction == 0:
            continue
        rows = np.flatnonzero(split == "train")
        ranks = np.sort(rank[rows])
        if ranks[0] == ranks[-1]:
            raise DataError(
                f"too few distinct times to keep the latest rows for {part} without splitting one"
                f"{'' if groups is None else ' time or group'}; provide more rows, or give the split as a column"
            )
        wanted = max(1, round(fraction * len(times)))
        first = ranks[max(len(ranks) - wanted, 0)]
        if first == ranks[0]:  # it would leave nothing earlier
            first = ranks[np.searchsorted(ranks, first, side="right")]
        split[rows[rank[rows] >= first]] = part
    return split


def check_given_split(values: np.ndarray, groups: np.ndarray | None, where: str) -> np.ndarray:
    """A split read from a column, checked.

    Raises:
        DataError: a value is absent or not one of `SPLITS`, no row trains or none tests, or a group is in two parts.
    """
    for row, value in enumerate(values):
        if value not in SPLITS:
            got = "absent" if value is None else repr(value)
            raise DataError(f"{where}, row {row}: the split is {got}; expected one of {', '.join(SPLITS)}")
    for part in ("train", "test"):
        if part not in values:
            raise DataError(f"{where}: no row is marked '{part}'; mark some, or remove `split` to have them drawn")
    if groups is not None:
        seen: dict[str, str] = {}
        for group, part in zip(groups, values, strict=True):
            if seen.setdefault(group, part) != part:
                raise DataError(
                    f"{where}: group '{group}' is in both '{seen[group]}' and '{part}'; keep each group in one part"
                )
    return values


def _squares(values: np.ndarray) -> float:
    return float((values**2).sum())
