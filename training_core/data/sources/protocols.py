"""What every table and every array can do, whatever it is read from: give any rows in bounded memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from training_core.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

HELD_BYTES = 64 << 20
"""What is smaller than this stays in memory; what is not is staged on disk."""


class TableSource(Protocol):
    """A table of `num_rows` rows."""

    @property
    def num_rows(self) -> int:
        """How many rows it has."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """Their names, in order."""
        ...

    def take(self, columns: Sequence[str], rows: slice | np.ndarray) -> "pa.Table":
        """Some columns of any rows, in any order, repeats allowed; -1 is a row of nulls.

        Memory is bounded by what is asked for. Cells are typed as in the file; those of csv and tsv are text.

        Raises:
            DataError: there is no such column, or the file does not read to its end.
            IndexError: there is no such row.
        """
        ...


class ArraySource(Protocol):
    """An array [N, …] of numbers."""

    @property
    def shape(self) -> tuple[int, ...]:
        """All its axes, rows first."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """Of the numbers, in the byte order of the machine."""
        ...

    @property
    def present(self) -> np.ndarray | None:
        """Which rows are there, bool [N]; None when all are. The others are 0."""
        ...

    def take(self, rows: slice | np.ndarray) -> np.ndarray:
        """Any rows [n, …], in any order, repeats allowed, as an array of the caller's own; -1 is a row of 0.

        Raises:
            DataError: the file does not read to its end.
            IndexError: there is no such row.
        """
        ...


class ArrayFile(Protocol):
    """A file of one or several arrays."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of its arrays; none when it is a single array without one."""
        ...

    def array(self, key: str) -> ArraySource:
        """The array of that name ("" when it has none).

        Raises:
            DataError: it is no array of numbers, or is damaged.
        """
        ...

    def labels(self, key: str) -> np.ndarray:
        """The array of that name, one-dimensional, of numbers or text.

        Raises:
            DataError: it is neither, or is damaged.
        """
        ...


@dataclass(frozen=True)
class Place:
    """Where a file is, and what it is called in messages, which is what the user called it."""

    path: Path
    name: str

    def __str__(self) -> str:
        return self.name

    def require(self) -> None:
        """Raise a DataError when there is no file, or an empty one."""
        if not self.path.is_file():
            raise DataError(f"{self} is not there; file names are relative to the folder of the SOURCE.yaml")
        if not self.path.stat().st_size:
            raise DataError(f"{self} is empty")


def listed(names: Sequence[str], limit: int = 20) -> str:
    """Names for a message: on one line, however odd or many they are."""
    shown = [" ".join("".join(c if c.isprintable() else "?" for c in name).split())[:100] for name in names[:limit]]
    return ", ".join(shown) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def require_columns(name: object, have: Sequence[str], wanted: Sequence[str]) -> None:
    """Raise a DataError when a wanted column is not there."""
    if missing := [column for column in wanted if column not in have]:
        raise DataError(f"{name} has no column '{missing[0]}'; it has {listed(have)}")


def chosen_columns(
    name: object, have: Sequence[str], wanted: Sequence[str] | None, if_there: Sequence[str] = ()
) -> list[str]:
    """The columns to read, each once: those `wanted` (all by default) and those of `if_there` that are there.

    Raises:
        DataError: a wanted one is not there.
    """
    require_columns(name, have, wanted or ())
    found = [column for column in if_there if column in have]
    return list(dict.fromkeys(have if wanted is None else [*wanted, *found]))


def require_numbers(name: object, dtype: np.dtype) -> np.dtype:
    """The dtype in the byte order of the machine; raises a DataError when it is not one of numbers."""
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise DataError(f"{name} holds {dtype}, expected an array of numbers of at most 64 bits")
    return dtype.newbyteorder("=")


def unreadable(name: object, what: str, error: BaseException) -> DataError:
    """One line for whatever a library raised about a file."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return DataError(f"{name} cannot be read as {what}: {reason[:200]}")
