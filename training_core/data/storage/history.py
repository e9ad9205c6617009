"""Where a version of a data set comes from, and what changed from one version to another."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from training_core.config import Config
from training_core.data.splitting.splits import SET_ASIDE
from training_core.data.storage import table_cells
from training_core.data.storage.dataset import SPLIT_CODES, Dataset
from training_core.data.storage.distributions import (
    Summary,
    add_numbers,
    category_divergence,
    joined,
    number_divergence,
    summarise,
)
from training_core.data.storage.part_reading import Part
from training_core.errors import DataError, StorageError

if TYPE_CHECKING:
    import pyarrow as pa

    from training_core.data.storage.store import DatasetStore

_MAX_EXAMPLES = 10
_LARGE_SHARE = 0.05  # of the rows: a change in who has a modality that is worth a sentence


class RowsChanged(Config):
    """Some rows, by their ids."""

    count: int = 0
    examples: tuple[str, ...] = ()
    """The first ids, at most 10."""


class Shift(Config):
    """How the distribution of one thing changed, among the rows that are in a split."""

    subject: str
    """`meta.age`, `vec`, `availability of vec`, or a target column."""
    message: str
    """In words."""
    before: float | None = None
    """Mean; of a category, class or modality its share."""
    after: float | None = None
    divergence: float | None = None
    """Population stability index, see `distributions`; 0.2 and more is large."""
    flagged: bool = False
    """Whether it is large and no play of chance."""


class DatasetDiff(Config):
    """What changed from version `old` to version `new`."""

    old: str
    new: str
    rows_before: int
    rows_after: int
    added: RowsChanged
    removed: RowsChanged
    moved: dict[str, RowsChanged]
    """Rows that changed their split, by `train → test`."""
    schema_changes: tuple[str, ...]
    shifts: tuple[Shift, ...]

    def sentences(self) -> list[str]:
        """What changed in plain words, the rows first; one sentence when nothing did."""
        said = []
        for what, rows in (("added", self.added), ("removed", self.removed)):
            if rows.count:
                said.append(f"{rows.count:,} rows were {what} ({_named(rows)}).")
        said += [f"{rows.count:,} rows moved {way} ({_named(rows)})." for way, rows in self.moved.items()]
        said += self.schema_changes
        said += [f"{shift.subject}: {shift.message}." for shift in self.shifts if shift.flagged]
        return said or ["Nothing that matters changed."]


def lineage(store: "DatasetStore", ref: str) -> list[dict[str, Any]]:
    """The version `ref` and those it was made from, the newest first.

    Returns:
        Per version: version, created, action, parent, num_rows and files (the SHA-256 of each source file). A parent
        that was removed ends the list.

    Raises:
        DataError: there is no such data set or version.
        StorageError: it does not read back.
    """
    steps: list[dict[str, Any]] = []
    dataset: Dataset | None = store.open(ref)
    while dataset is not None:
        made = dataset.manifest["lineage"]
        steps.append(
            {
                "version": dataset.version,
                "created": dataset.manifest["created"],
                "action": made.get("action", "prepare"),
                "parent": dataset.parent,
                "num_rows": dataset.num_rows,
                "files": made.get("files", {}),
            }
        )
        seen = {step["version"] for step in steps}
        try:
            parent = dataset.parent
            dataset = store.open(f"{dataset.name}@{parent}") if parent and parent not in seen else None
        except (DataError, StorageError):
            dataset = None
    return steps


def diff(old: Dataset, new: Dataset) -> DatasetDiff:
    """What changed from `old` to `new`: rows, splits, schema, and how values are distributed.

    Parts that both have are not compared, and read once at most.

    Raises:
        StorageError: a file does not read back.
    """
    added, removed, moved = _changed_rows(old, new)
    return DatasetDiff(
        old=old.ref,
        new=new.ref,
        rows_before=old.num_rows,
        rows_after=new.num_rows,
        added=added,
        removed=removed,
        moved=moved,
        schema_changes=tuple(_schema_changes(old, new)),
        shifts=tuple(_shifts(old, new)),
    )


def _changed_rows(old: Dataset, new: Dataset) -> tuple[RowsChanged, RowsChanged, dict[str, RowsChanged]]:
    """Rows added, removed, and in another split."""
    places_old, places_new = _places(old), _places(new)
    shared = places_old.keys() & places_new.keys()
    own_old = np.concatenate([rows for d, rows in places_old.items() if d not in shared] or [np.arange(0)])
    own_new = np.concatenate([rows for d, rows in places_new.items() if d not in shared] or [np.arange(0)])
    ids_old, ids_new = _ids(old, own_old), _ids(new, own_new)
    found = _positions_in(ids_new, ids_old)
    is_new = found < 0
    gone = np.ones(len(own_old), bool)
    gone[found[~is_new]] = False
    pairs_old = np.concatenate([*(places_old[d] for d in shared), own_old[found[~is_new]]])
    pairs_new = np.concatenate([*(places_new[d] for d in shared), own_new[~is_new]])
    split_old, split_new = _split_codes(old)[pairs_old], _split_codes(new)[pairs_new]
    moved = {}
    for code, count in sorted(Counter((split_old * 16 + split_new)[split_old != split_new].tolist()).items()):
        rows = np.sort(pairs_new[(split_old == code // 16) & (split_new == code % 16)])
        way = f"{SPLIT_CODES[code // 16]} → {SPLIT_CODES[code % 16]}"
        moved[way] = RowsChanged(count=count, examples=tuple(new.ids(rows[:_MAX_EXAMPLES])))
    return (
        RowsChanged(count=int(is_new.sum()), examples=_first(ids_new, is_new)),
        RowsChanged(count=int(gone.sum()), examples=_first(ids_old, gone)),
        moved,
    )


def _schema_changes(old: Dataset, new: Dataset) -> Iterable[str]:
    """Sentences on modalities, columns, categories, classes, shapes and dtypes."""
    yield from _set_changes("modality", "modalities", old.spec.names, new.spec.names)
    for name in old.spec.names:
        if name not in new.spec.names:
            continue
        before, after = old.spec[name], new.spec[name]
        if (before.kind, old.dtype(name)) != (after.kind, new.dtype(name)):
            was, now = f"{before.kind} of {old.dtype(name)}", f"{after.kind} of {new.dtype(name)}"
            yield f"Modality '{name}' was {was} and is {now}."
        if before.shape != after.shape and not before.columns:
            yield f"Modality '{name}' had the shape {list(before.shape)} and has {list(after.shape)}."
        was_columns, now_columns = ({column.name: column for column in spec.columns} for spec in (before, after))
        yield from _set_changes(f"column of '{name}'", f"columns of '{name}'", was_columns, now_columns)
        for column in (name for name in was_columns if name in now_columns):
            known = [spec[column].categories for spec in (was_columns, now_columns)]
            if (known[0] is None) != (known[1] is None):
                yield f"Column '{name}.{column}' became {'categories' if known[0] is None else 'numbers'}."
            what = f"of '{name}.{column}'"
            yield from _set_changes(f"category {what}", f"categories {what}", known[0] or (), known[1] or ())
    if old.spec.task.kind != new.spec.task.kind:
        yield f"The task was {old.spec.task.kind} and is {new.spec.task.kind}."
    yield from _set_changes("class", "classes", old.spec.task.classes, new.spec.task.classes)
    yield from _set_changes("target", "targets", old.manifest["target_names"], new.manifest["target_names"])


def _shifts(old: Dataset, new: Dataset) -> Iterable[Shift]:
    """Target, availability, and every column and array that both versions have."""
    known: dict[tuple[str, bytes, str], dict[str, Summary]] = {}
    for name in old.manifest["target_names"]:
        column = f"__target__.{name}"
        if name in new.manifest["target_names"] and old.spec.task.kind == new.spec.task.kind:
            is_class = old.spec.task.kind == "classification"
            before, after = (_target_summary(dataset, column, is_class) for dataset in (old, new))
            yield (_category_shift if is_class else _number_shift)(name, before, after)
    for modality in old.spec.modalities:
        if modality.name not in new.spec.names or new.spec[modality.name].kind != modality.kind:
            continue
        yield _availability_shift(modality.name, old, new)
        found = []
        for dataset in (old, new):
            served = _split_codes(dataset) != SPLIT_CODES.index(SET_ASIDE)
            summaries: dict[str, list[Summary]] = {}
            for part, rows in zip(dataset.parts, _places(dataset).values(), strict=True):
                spec = dataset.spec[modality.name]
                key = (part.digest, served[rows].tobytes(), spec.to_json())
                if key not in known:
                    known[key] = summarise(part, served[rows], spec)
                for name, summary in known[key].items():
                    summaries.setdefault(name, []).append(summary)
            found.append({name: joined(each) for name, each in summaries.items()})
        for name in found[0]:
            if name in found[1]:
                before, after = found[0][name], found[1][name]
                is_category = bool(before.counts) and bool(after.counts)
                what = " (characters)" if modality.kind == "text" else " (row means)" if not modality.columns else ""
                yield (_category_shift if is_category else _number_shift)(name + what, before, after)


def _target_summary(dataset: Dataset, column: str, is_class: bool) -> Summary:
    """Of the rows that are in a split."""
    served = _split_codes(dataset) != SPLIT_CODES.index(SET_ASIDE)
    whole = Summary()
    for part, rows in zip(dataset.parts, _places(dataset).values(), strict=True):
        for cells in _column_blocks(part, column, served[rows], table_cells.texts if is_class else table_cells.numbers):
            if is_class:
                whole.counts.update(str(cell) for cell in cells)
                whole.num_rows += len(cells)
            else:
                add_numbers(whole, cells)
    return whole


def _column_blocks(
    part: Part, column: str, served: np.ndarray, as_values: "Callable[[pa.ChunkedArray], np.ndarray]"
) -> Iterable[np.ndarray]:
    for start in range(0, part.num_rows, 1 << 16):
        rows = np.arange(start, min(start + (1 << 16), part.num_rows))
        yield as_values(part.take([column], rows)[column])[served[rows]]


def _number_shift(subject: str, before: Summary, after: Summary) -> Shift:
    divergence, is_large = number_divergence(before, after)
    moved = (after.mean - before.mean) / before.std if before.std else 0.0
    message = (
        f"mean {before.mean:.4g} → {after.mean:.4g} ({moved:+.2g} standard deviations), "
        f"standard deviation {before.std:.4g} → {after.std:.4g}"
    )
    if abs(_share(after.num_absent, after) - _share(before.num_absent, before)) >= _LARGE_SHARE:
        gone = f"{_share(before.num_absent, before):.1%} → {_share(after.num_absent, after):.1%}"
        message += f", absent {gone}"
    return Shift(
        subject=subject,
        message=message,
        before=before.mean if before.num_present else None,
        after=after.mean if after.num_present else None,
        divergence=divergence,
        flagged=is_large,
    )


def _category_shift(subject: str, before: Summary, after: Summary) -> Shift:
    divergence, is_large = category_divergence(before.counts, after.counts)
    names = before.counts.keys() | after.counts.keys()
    shares = {n: (_share(before.counts.get(n, 0), before), _share(after.counts.get(n, 0), after)) for n in names}
    most = max(sorted(shares), key=lambda n: abs(shares[n][1] - shares[n][0]), default="")
    was, now = shares.get(most, (0.0, 0.0))
    called = {"\x00absent": "absent cells", "\x00others": "rare ones"}.get(most, f"'{most}'")
    return Shift(
        subject=subject,
        message=f"share of {called} {was:.1%} → {now:.1%}",
        before=was,
        after=now,
        divergence=divergence,
        flagged=is_large,
    )


def _availability_shift(name: str, old: Dataset, new: Dataset) -> Shift:
    counts = []
    for dataset in (old, new):
        has = dataset.manifest["available"][name]
        total = dataset.num_rows - dataset.manifest["splits"].get(SET_ASIDE, 0)
        counts.append({"has": float(has), "lacks": float(total - has)})
    was, now = (c["has"] / max(1.0, c["has"] + c["lacks"]) for c in counts)
    divergence, is_large = category_divergence(counts[0], counts[1])
    return Shift(
        subject=f"availability of {name}",
        message=f"{was:.1%} of the rows have it → {now:.1%}",
        before=was,
        after=now,
        divergence=divergence,
        flagged=is_large or abs(now - was) >= _LARGE_SHARE,
    )


def _places(dataset: Dataset) -> dict[str, np.ndarray]:
    """Per part, by digest and in order, the positions of its rows in the data set."""
    starts = np.cumsum([0, *(part.num_rows for part in dataset.parts)])
    return {p.digest: np.arange(start, start + p.num_rows) for p, start in zip(dataset.parts, starts, strict=False)}


def _split_codes(dataset: Dataset) -> np.ndarray:
    """Codes of the splits, int64 [N]."""
    return np.asarray(np.load(dataset.path / "split.npy", allow_pickle=False), np.int64)


def _ids(dataset: Dataset, rows: np.ndarray) -> "pa.Array":
    import pyarrow as pa

    return pa.array(dataset.ids(rows).tolist(), pa.string())


def _positions_in(ids: "pa.Array", known: "pa.Array") -> np.ndarray:
    """Where each of `ids` is among `known`, int64; -1 for one that is not."""
    import pyarrow.compute as pc

    found = pc.call_function("index_in", [ids], pc.SetLookupOptions(known))
    return pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int64)


def _first(ids: "pa.Array", chosen: np.ndarray) -> tuple[str, ...]:
    import pyarrow as pa

    return tuple(ids.take(pa.array(np.flatnonzero(chosen)[:_MAX_EXAMPLES])).to_pylist())


def _set_changes(one: str, several: str, before: Iterable[str], after: Iterable[str]) -> Iterable[str]:
    was, now = list(before), list(after)
    for what, names in (("New", [n for n in now if n not in was]), ("Gone", [n for n in was if n not in now])):
        if names:
            more = f" and {len(names) - 10} more" if len(names) > 10 else ""
            yield f"{what} {one if len(names) == 1 else several}: {', '.join(names[:10])}{more}."
    if set(was) == set(now) and was != now:
        yield f"The {several} are in another order."


def _share(count: float, summary: Summary) -> float:
    return count / summary.num_rows if summary.num_rows else 0.0


def _named(rows: RowsChanged) -> str:
    return ", ".join(rows.examples[:3]) + (" …" if rows.count > 3 else "")
