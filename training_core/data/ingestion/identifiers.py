"""Ids of samples: found again in another file, checked to be unique, and named in messages."""

from collections.abc import Callable

import numpy as np

from training_core.errors import DataError


def name_some(ids: np.ndarray, limit: int = 3) -> str:
    """A few ids for an error message: `id a, b, c and 4 more`."""
    more = f" and {len(ids) - limit} more" if len(ids) > limit else ""
    return f"id {', '.join(str(i) for i in ids[:limit])}{more}"


def positions_of(ids: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Where each of `ids` stands in `keys`, int64 [N]; -1 where it does not. Both are str objects."""
    import pandas as pd

    return pd.Index(keys, dtype=object).get_indexer(pd.Index(ids, dtype=object)).astype(np.int64)


def check_unique(ids: np.ndarray, where: str, are_alike: Callable[[int, int], bool]) -> None:
    """Every row has an id of its own.

    Args:
        ids: str objects [N], None where absent.
        where: the file and column, in messages.
        are_alike: whether two rows say the same.

    Raises:
        DataError: one has none, or an id occurs twice; it is said whether those rows are copies or contradict.
    """
    import pandas as pd

    absent = np.flatnonzero(np.asarray([value is None for value in ids], bool))
    if len(absent):
        raise DataError(f"{where}: row {absent[0]} has no id ({len(absent)} such row(s)); every row needs one")
    rows = np.flatnonzero(pd.Series(ids, dtype=object).duplicated(keep=False).to_numpy(bool))
    if not len(rows):
        return
    repeated = np.asarray(sorted(set(ids[rows].tolist())), object)
    row, other = rows[ids[rows] == repeated[0]][:2].tolist()
    alike = "are alike in all columns that are read" if are_alike(row, other) else "contradict each other"
    how = f"{alike}: keep the right one"
    raise DataError(
        f"{where}: {name_some(repeated)} occur(s) more than once (rows {row} and {other} {how}); "
        "every id has to be unique"
    )


def refuse_strangers(ids: np.ndarray, where: str, keys: np.ndarray, key_where: str) -> None:
    """Raise a DataError because not a single id of one file is in the other; both are quoted, with a guess why."""
    if not len(ids) or not len(keys):
        return
    guesses: list[tuple[str, Callable[[str], str]]] = [
        ("without the spaces around them", str.strip),
        ("in lower case", lambda text: text.strip().casefold()),
        ("without leading zeros and `.0`", lambda text: text.strip().removesuffix(".0").lstrip("0")),
    ]
    for guess, simplify in guesses:
        both = {simplify(each) for each in ids.tolist()} & {simplify(each) for each in keys.tolist()}
        if both:
            advice = f"{guess} {len(both)} of them would; write them the same way"
            break
    else:
        advice = "name the column that holds the same ids, or give the file no ids to align it by row"
    raise DataError(f"not one id of {key_where} ({_quoted(keys)}) is an id of {where} ({_quoted(ids)}); {advice}")


def _quoted(ids: np.ndarray) -> str:
    return f"such as {str(ids[0])[:60]!r}"
