"""Rows × modalities × columns of data, as a learner is given them: nothing is copied before samples are asked for.

`RowSource` is what training code takes; a `View` serves it from a data set on disk, `HeldSamples` from memory.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from training_core.errors import DataError
from training_core.schema import DataSpec, ModalitySpec, Samples

if TYPE_CHECKING:
    from training_core.data.storage.dataset import Dataset

Features = Mapping[str, Sequence[int | str]]
"""Per vector or table of which only some columns are wanted: their positions, or in a table their names."""

_TEXT_BYTES = 256  # guessed size of one text: a few sentences as a Python string
_ROW_BYTES = 96  # of a row's id, availability and target


class RowSource(Protocol):
    """Rows a learner can be trained on, in memory or not."""

    @property
    def spec(self) -> DataSpec:
        """Of the samples it serves."""
        ...

    @property
    def num_bytes(self) -> int:
        """About how many bytes all its samples take in memory, without reading any."""
        ...

    def __len__(self) -> int: ...

    def ids(self) -> np.ndarray:
        """Ids of its rows, str objects [N]."""
        ...

    def target(self) -> np.ndarray | None:
        """Targets of its rows, as in `Samples`; None when unknown."""
        ...

    def groups(self) -> np.ndarray | None:
        """Groups of its rows, str objects [N]; None when there are none."""
        ...

    def times(self) -> np.ndarray | None:
        """Times of its rows, float64 or datetime64 [N]; None when there are none."""
        ...

    def available(self) -> dict[str, np.ndarray]:
        """Per modality of `spec` whether each row has it, bool [N]."""
        ...

    def samples(self, positions: np.ndarray | None = None) -> Samples:
        """The raw samples at `positions` among its rows (all by default; repeats allowed)."""
        ...

    def blocks(self, num_rows: int) -> Iterator[Samples]:
        """All samples in order, `num_rows` at a time (the last time what is left), none of them kept."""
        ...

    def subset(
        self,
        rows: np.ndarray | None = None,
        modalities: Iterable[str] | None = None,
        features: Features | None = None,
    ) -> "RowSource":
        """Some of its rows (positions among them, repeats allowed), modalities and feature columns."""
        ...


class View:
    """Rows × modalities × feature columns of a data set.

    Attributes:
        dataset: the data set it looks at.
        modalities: names of its modalities, in the data set's order.
        features: per modality cut down to some columns, their positions in the data set.
        spec: of the samples it serves.
    """

    def __init__(
        self,
        dataset: "Dataset",
        rows: np.ndarray | None = None,
        modalities: Iterable[str] | None = None,
        features: Features | None = None,
    ) -> None:
        """Look at a part of `dataset`; whatever is not given is there as a whole.

        Args:
            dataset: what to look at.
            rows: positions in the data set, int [N]; in any order, repeats allowed, none at all allowed.
            modalities: names; their order makes no difference.
            features: of vectors and tables cut down, the columns to keep, in their new order.

        Raises:
            DataError: there is no such row, modality or column.
        """
        self.dataset = dataset
        self._rows = None if rows is None else checked_positions(rows, len(dataset))
        self.spec, self.features = _cut(dataset.spec, {}, modalities, features)
        self.modalities = self.spec.names

    def __repr__(self) -> str:
        return f"View({self.dataset!r}, {len(self)} rows of {', '.join(self.modalities) or 'no modality'})"

    def __len__(self) -> int:
        return len(self.dataset) if self._rows is None else len(self._rows)

    @property
    def rows(self) -> np.ndarray:
        """Positions of its rows in the data set, int64 [N]."""
        return np.arange(len(self.dataset)) if self._rows is None else self._rows

    @property
    def num_bytes(self) -> int:
        """About how many bytes all its samples take in memory; a text is guessed at 256 bytes."""
        return len(self) * (_ROW_BYTES + sum(_sample_bytes(modality) for modality in self.spec.modalities))

    def ids(self) -> np.ndarray:
        """Ids of its rows, str objects [N]."""
        return self.dataset.ids(self._rows)

    def target(self) -> np.ndarray:
        """Targets of its rows, as in `Samples`."""
        return self.dataset.target(self._rows)

    def groups(self) -> np.ndarray | None:
        """Groups of its rows, str objects [N]; None when there are none."""
        return self.dataset.groups(self._rows)

    def times(self) -> np.ndarray | None:
        """Times of its rows, float64 or datetime64 [N]; None when there are none."""
        return self.dataset.times(self._rows)

    def available(self) -> dict[str, np.ndarray]:
        """Per modality of the view whether each row has it, bool [N]."""
        masks = self.dataset.available(self._rows)
        return {name: masks[name] for name in self.modalities}

    def samples(self, positions: np.ndarray | None = None) -> Samples:
        """The raw samples at `positions` among its rows (all by default; repeats allowed); nothing else is read.

        Raises:
            DataError: there is no such position.
            StorageError: a file does not read back.
        """
        rows = self._rows
        if positions is not None:
            chosen = checked_positions(positions, len(self))
            rows = chosen if rows is None else rows[chosen]
        return self._own(self.dataset.samples(rows, modalities=self.modalities))

    def blocks(self, num_rows: int) -> Iterator[Samples]:
        """All samples in order, `num_rows` at a time (the last time what is left), none of them kept.

        Raises:
            StorageError: a file does not read back.
        """
        for block in self.dataset.blocks(self.rows, num_rows, modalities=self.modalities):
            yield self._own(block)

    def subset(
        self,
        rows: np.ndarray | None = None,
        modalities: Iterable[str] | None = None,
        features: Features | None = None,
    ) -> "View":
        """A part of this view: `rows` and `features` count among its own rows and columns.

        Raises:
            DataError: there is no such row, modality or column in this view.
        """
        part = View.__new__(View)
        part.dataset = self.dataset
        part._rows = self._rows
        if rows is not None:
            chosen = checked_positions(rows, len(self))
            part._rows = chosen if self._rows is None else self._rows[chosen]
        part.spec, part.features = _cut(self.spec, self.features, modalities, features)
        part.modalities = part.spec.names
        return part

    def _own(self, samples: Samples) -> Samples:
        return samples.select(self.modalities, self.features)


class HeldSamples:
    """Samples in memory as a `RowSource`.

    Attributes:
        spec: of the samples.
    """

    def __init__(self, samples: Samples, spec: DataSpec, times: np.ndarray | None = None) -> None:
        """Serve the modalities of `spec` out of `samples`, which may have more; `times` of the rows [N] if they have.

        Raises:
            DataError: `samples` lacks one of them, or there are not as many times as rows.
        """
        if times is not None and len(times) != len(samples):
            raise DataError(f"{len(samples)} rows need {len(samples)} times; got {len(times)}")
        for name in spec.names:
            if name not in samples.inputs:
                have = ", ".join(samples.inputs) or "none"
                raise DataError(f"the samples have no modality '{name}'; they have {have}")
        self.spec = spec
        self._samples = samples.select(spec.names)
        self._times = times

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def num_bytes(self) -> int:
        """The bytes its arrays take; a text is guessed at 256 bytes."""
        inputs = self._samples.inputs.values()
        sizes = [len(values) * _TEXT_BYTES if values.dtype == object else values.nbytes for values in inputs]
        return len(self) * _ROW_BYTES + sum(sizes)

    def ids(self) -> np.ndarray:
        """Ids of its rows, str objects [N]."""
        return self._samples.ids

    def target(self) -> np.ndarray | None:
        """Targets of its rows, as in `Samples`; None when unknown."""
        return self._samples.target

    def groups(self) -> np.ndarray | None:
        """Groups of its rows, str objects [N]; None when there are none."""
        return self._samples.groups

    def times(self) -> np.ndarray | None:
        """Times of its rows, float64 or datetime64 [N]; None when there are none."""
        return self._times

    def available(self) -> dict[str, np.ndarray]:
        """Per modality whether each row has it, bool [N]."""
        return dict(self._samples.available)

    def samples(self, positions: np.ndarray | None = None) -> Samples:
        """The samples at `positions` (all by default, and then not copied; repeats allowed).

        Raises:
            DataError: there is no such position.
        """
        return self._samples if positions is None else self._samples.take(checked_positions(positions, len(self)))

    def blocks(self, num_rows: int) -> Iterator[Samples]:
        """All samples in order, `num_rows` at a time (the last time what is left), not copied."""
        for start in range(0, len(self), num_rows):
            yield self._samples.take(slice(start, start + num_rows))

    def subset(
        self,
        rows: np.ndarray | None = None,
        modalities: Iterable[str] | None = None,
        features: Features | None = None,
    ) -> "HeldSamples":
        """Some rows (positions, repeats allowed), modalities and columns; given rows and columns are copied.

        Raises:
            DataError: there is no such row, modality or column.
        """
        spec, chosen = _cut(self.spec, {}, modalities, features)
        part = self._samples.select(spec.names, chosen)
        if rows is None:
            return HeldSamples(part, spec, self._times)
        rows = checked_positions(rows, len(self))
        return HeldSamples(part.take(rows), spec, None if self._times is None else self._times[rows])


def checked_positions(rows: np.ndarray, num_rows: int) -> np.ndarray:
    """Positions as int64, after a look at their range.

    Raises:
        DataError: they are not whole numbers, or one is not in [0, `num_rows`).
    """
    rows = np.asarray(rows)
    if not rows.size:
        return np.zeros(0, np.int64)
    if rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer):
        raise DataError(
            f"rows are given by their positions, whole numbers in one array; got {rows.dtype} of shape {rows.shape} "
            "(np.flatnonzero turns a mask into positions)"
        )
    low, high = int(rows.min()), int(rows.max())
    if low < 0 or high >= num_rows:
        wrong = low if low < 0 else high
        raise DataError(f"there is no row {wrong}; rows are 0 to {num_rows - 1}" if num_rows else "there are no rows")
    return rows.astype(np.int64, copy=False)


def _cut(
    spec: DataSpec,
    kept: Mapping[str, tuple[int, ...]],
    modalities: Iterable[str] | None,
    features: Features | None,
) -> tuple[DataSpec, dict[str, tuple[int, ...]]]:
    """`spec` cut down, and the columns that are left by their original positions, `kept` being those of `spec`."""
    chosen = {name: _checked_columns(spec[name], columns) for name, columns in (features or {}).items()}
    part = spec.select(spec.names if modalities is None else modalities, chosen)
    left = dict(kept)
    for name, columns in chosen.items():
        left[name] = tuple(kept[name][column] for column in columns) if name in kept else columns
    return part, {name: left[name] for name in part.names if name in left}


def _checked_columns(modality: ModalitySpec, columns: Sequence[int | str]) -> tuple[int, ...]:
    """Columns given by place, or in a table by name, as places."""
    if modality.kind not in {"vector", "tabular"}:
        raise DataError(
            f"modality '{modality.name}' is {modality.kind}; only vectors and tables have columns to choose"
        )
    places = {column.name: place for place, column in enumerate(modality.columns)}
    given, num = columns, modality.num_features
    columns = tuple(places.get(column, -1) if isinstance(column, str) else int(column) for column in given)
    if not columns:
        raise DataError(f"no column of modality '{modality.name}' is chosen; choose some, or leave the modality out")
    if wrong := [name for name, place in zip(given, columns, strict=True) if not 0 <= place < num]:
        names = f" ({', '.join(column.name for column in modality.columns)})" if modality.columns else ""
        raise DataError(f"modality '{modality.name}' has no column {wrong[0]}; it has 0 to {num - 1}{names}")
    return columns


def _sample_bytes(modality: ModalitySpec) -> int:
    """Bytes of one raw sample: arrays are served as float32, tables as float64."""
    if modality.kind == "text":
        return _TEXT_BYTES
    return modality.num_features * (8 if modality.kind == "tabular" else 4)
