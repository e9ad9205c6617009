"""Rows of one version said in the words of another: a model that knows an earlier version is asked about later rows.

Rows that are appended may bring categories and classes that a model has never met; codes of those it knows may differ
where a data set was prepared anew.
"""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from training_core.data.views import Features, RowSource
from training_core.errors import DataError
from training_core.schema import DataSpec, ModalitySpec, Samples


def recoded(rows: RowSource, spec: DataSpec) -> RowSource:
    """`rows` as `spec` describes them: its modalities, its codes of categories and classes.

    A category that `spec` does not know is an absent cell, as it is when a model predicts for a file. A class it does
    not know is the code after its last one: no answer can be right, and a tally counts it as another class. Labels
    and targets have to be the same ones.

    Raises:
        DataError: a modality is missing or of another form, or the task is another.
    """
    if rows.spec == spec:
        return rows
    if rows.spec.task.kind != spec.task.kind or (spec.task.kind != "classification" and rows.spec.task != spec.task):
        raise DataError(
            f"the rows are of another task ({_outputs(rows.spec)}) than the model ({_outputs(spec)}); give rows that "
            "were described like those it was trained on"
        )
    theirs = {modality.name: modality for modality in rows.spec.modalities}
    for modality in spec.modalities:
        other = theirs.get(modality.name)
        if other is None or _form(other) != _form(modality):
            raise DataError(
                f"modality '{modality.name}' is {'absent' if other is None else _form(other)} in the rows and "
                f"{_form(modality)} for the model; give rows that were described like those it was trained on"
            )
    return _Recoded(rows.subset(modalities=spec.names), spec)


class _Recoded:
    """A `RowSource` whose samples are given other codes as they are read."""

    def __init__(self, rows: RowSource, spec: DataSpec) -> None:
        self.spec = spec
        self._rows = rows
        mine = {modality.name: modality for modality in rows.spec.modalities}
        self._tables = {
            modality.name: {
                place: _codes(before.categories, column.categories, np.nan)
                for place, (before, column) in enumerate(
                    zip(mine[modality.name].columns, modality.columns, strict=True)
                )
                if column.categories is not None and before.categories != column.categories
            }
            for modality in spec.modalities
            if modality.kind == "tabular"
        }
        before, after = rows.spec.task.classes, spec.task.classes
        is_class = spec.task.kind == "classification" and before != after
        self._classes = _codes(before, after, len(after)).astype(np.int64) if is_class else None

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def num_bytes(self) -> int:
        return self._rows.num_bytes

    def ids(self) -> np.ndarray:
        return self._rows.ids()

    def target(self) -> np.ndarray | None:
        return self._own_target(self._rows.target())

    def groups(self) -> np.ndarray | None:
        return self._rows.groups()

    def times(self) -> np.ndarray | None:
        return self._rows.times()

    def available(self) -> dict[str, np.ndarray]:
        return self._rows.available()

    def samples(self, positions: np.ndarray | None = None) -> Samples:
        return self._own(self._rows.samples(positions))

    def blocks(self, num_rows: int) -> Iterator[Samples]:
        for block in self._rows.blocks(num_rows):
            yield self._own(block)

    def subset(
        self,
        rows: np.ndarray | None = None,
        modalities: Iterable[str] | None = None,
        features: Features | None = None,
    ) -> RowSource:
        spec = (
            self.spec
            if modalities is None and features is None
            else self.spec.select(self.spec.names if modalities is None else modalities)
        )
        if features is not None:
            raise DataError("columns are chosen before rows are recoded; cut the rows first")
        return _Recoded(self._rows.subset(rows, spec.names), spec)

    def _own(self, samples: Samples) -> Samples:
        inputs = dict(samples.inputs)
        for name, columns in self._tables.items():
            if columns:
                inputs[name] = _with_codes(inputs[name], columns)
        return Samples(
            inputs=inputs,
            available=samples.available,
            ids=samples.ids,
            target=self._own_target(samples.target),
            groups=samples.groups,
        )

    def _own_target(self, target: np.ndarray | None) -> np.ndarray | None:
        if target is None or self._classes is None:
            return target
        return np.where(target < 0, -1, self._classes[np.maximum(target, 0)])


def _codes(before: tuple[str, ...] | None, after: tuple[str, ...] | None, unknown: float) -> np.ndarray:
    """For each code of `before` that of the same word in `after`, float64."""
    places = {word: float(place) for place, word in enumerate(after or ())}
    return np.array([places.get(word, unknown) for word in before or ()])


def _with_codes(values: np.ndarray, columns: Mapping[int, np.ndarray]) -> np.ndarray:
    """A table [N, columns] with the codes of some of its columns looked up."""
    out = values.copy()
    for place, codes in columns.items():
        known = np.isfinite(values[:, place])
        out[known, place] = codes[values[known, place].astype(np.int64)]
    return out


def _form(modality: ModalitySpec) -> str:
    """What two descriptions of a modality have to agree on."""
    columns = [f"{c.name}{'' if c.categories is None else ' (categories)'}" for c in modality.columns]
    return f"{modality.kind} of {', '.join(columns)}" if columns else f"{modality.kind} {list(modality.shape)}"


def _outputs(spec: DataSpec) -> str:
    return f"{spec.task.kind} of {', '.join(spec.task.classes or spec.task.targets)}"
