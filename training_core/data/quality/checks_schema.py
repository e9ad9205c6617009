"""Checks of rows to be added against the profile of the version they are added to."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from training_core.data.quality.evidence import Evidence
from training_core.data.quality.problems import Finding
from training_core.data.quality.summary import CategorySummary, ColumnSummary, ModalitySummary, NumericSummary

if TYPE_CHECKING:
    import pandas as pd

RANGE_MARGIN = 0.5
"""How far, in widths of the base's range, a value may lie outside it. More rows reach a little farther anyway."""
MISSING_CHANGED = 0.2
"""Change of the share of missing cells that is no chance."""
MIN_ROWS = 50
"""Below, shares are chance."""
_VALUES_NAMED = 5


def check_schema(evidence: Evidence) -> Iterator[Finding]:
    """What is not as it was in the base: modalities, columns, types, categories, ranges, gaps."""
    base = evidence.known.base
    if base is None:
        return
    before = {modality.name: modality for modality in base.modalities}
    now = {modality.name: modality for modality in evidence.summary.modalities}
    for name in sorted(before.keys() ^ now.keys()):
        what = "is new" if name in now else "is gone"
        yield _finding("modality_changed", name, f"modality '{name}' {what}", "A version has one set of modalities.")
    for name in [name for name in before if name in now]:
        yield from _check_modality(before[name], now[name], base.num_rows, evidence.summary.num_rows, _known(evidence))


def _check_modality(
    before: ModalitySummary, now: ModalitySummary, rows_before: int, rows_now: int, known: Mapping[str, set[str]]
) -> Iterator[Finding]:
    same_shape = before.shape == now.shape or now.kind == "tabular"  # of a table the columns are compared by name
    if before.kind != now.kind or not same_shape:
        yield _finding(
            "type_changed",
            now.name,
            f"'{now.name}' was {before.kind} {list(before.shape)} and is {now.kind} {list(now.shape)}",
            "Give it as it was, or start a data set of its own.",
        )
        return
    if before.array and now.array and before.array.dtype and now.array.dtype != before.array.dtype:
        yield _finding(
            "type_changed",
            now.name,
            f"the numbers of '{now.name}' were {before.array.dtype} and are {now.array.dtype}",
            "Check their range and unit: 0..255 and 0..1 are easily mixed up.",
            severity="warning",
        )
    if before.array and now.array:
        yield from _array_range(before, now)
    yield from _column_findings(before, now, known)
    old = {column.name: column for column in before.columns}
    shares = [(now.name, 1 - before.available / max(rows_before, 1), 1 - now.available / max(rows_now, 1))]
    shares += [
        (f"{now.name}.{c.name}", old[c.name].missing / max(rows_before, 1), c.missing / max(rows_now, 1))
        for c in now.columns
        if c.name in old
    ]
    for subject, then, here in shares if min(rows_before, rows_now) >= MIN_ROWS else []:
        if abs(here - then) >= MISSING_CHANGED:
            yield _finding(
                "missing_changed",
                subject,
                f"{subject} was missing in {then:.0%} of the rows and is in {here:.0%}",
                "Find out what changed where the data come from.",
                severity="warning",
                value=here - then,
            )


def _array_range(before: ModalitySummary, now: ModalitySummary) -> Iterator[Finding]:
    old, new = before.array, now.array
    if old is None or new is None or None in (old.min, old.max, new.min, new.max):
        return
    low, high = _widened(float(old.min or 0), float(old.max or 0))
    if float(new.min or 0) < low or float(new.max or 0) > high:
        yield _range_finding(now.name, old.min, old.max, new.min, new.max)


def _known(evidence: Evidence) -> dict[str, set[str]]:
    """Categories that the version has by its spec, which knows all rows of it, by `modality.column`."""
    spec = evidence.known.base_spec
    modalities = () if spec is None else spec.modalities
    return {f"{m.name}.{c.name}": set(c.categories or ()) for m in modalities for c in m.columns}


def _column_findings(before: ModalitySummary, now: ModalitySummary, known: Mapping[str, set[str]]) -> Iterator[Finding]:
    """Failure cases of a pandera schema made from the base, held against a few witnesses of each new column.

    The witnesses of a numeric column are its least and greatest value, those of a category all its categories, so
    the whole column is judged without being read again.
    """
    import pandera.pandas as pandera
    from pandera.errors import SchemaErrors

    columns: dict[str, Any] = {}
    old = {column.name: column for column in before.columns}
    new = {column.name: column for column in now.columns}
    for name, column in old.items():
        dtype = _pandas_type(column.dtype)
        if isinstance(column, NumericSummary) and column.min is not None and column.max is not None:
            checks = [pandera.Check.in_range(*_widened(column.min, column.max), error="range")]
        elif isinstance(column, CategorySummary) and column.complete:
            seen = {category for category, _ in column.top} | known.get(f"{now.name}.{name}", set())
            checks = [pandera.Check.isin(sorted(seen), error="categories")]
        else:
            checks = []
        columns[name] = pandera.Column(dtype, checks, nullable=True)
    try:
        pandera.DataFrameSchema(columns, strict=True).validate(_witnesses(new), lazy=True)
    except SchemaErrors as error:
        cases = error.failure_cases
    else:
        return
    for name, what in zip(cases["failure_case"], cases["check"], strict=True):
        if what in {"column_in_dataframe", "column_in_schema"}:
            gone = what == "column_in_dataframe"
            yield _finding(
                "columns_changed",
                f"{now.name}.{name}",
                f"column '{name}' of '{now.name}' {'is gone' if gone else 'is new'}",
                "Give the same columns as before, or start a data set of its own.",
            )
    for name in [name for name in new if name in old]:
        own = cases[cases["column"] == name]
        failed = set(own["check"])
        subject = f"{now.name}.{name}"
        yield from _type_change(subject, old[name], new[name])
        if "categories" in failed:
            unknown = [str(value) for value in own.loc[own["check"] == "categories", "failure_case"]]
            more = f" and {len(unknown) - _VALUES_NAMED} more" if len(unknown) > _VALUES_NAMED else ""
            named = ", ".join(f"'{value}'" for value in unknown[:_VALUES_NAMED])
            yield _finding(
                "unknown_categories",
                subject,
                f"{subject} has categories it did not have before: {named}{more}",
                "A model trained before knows nothing about them; check the spelling.",
                severity="warning",
                value=float(len(unknown)),
            )
        if "range" in failed:
            was, here = old[name], new[name]
            if isinstance(was, NumericSummary) and isinstance(here, NumericSummary):
                yield _range_finding(subject, was.min, was.max, here.min, here.max)


def _type_change(subject: str, old: ColumnSummary, new: ColumnSummary) -> Iterator[Finding]:
    """Another type of cells; fractions that happen to be whole numbers in the new rows are no change."""
    if old.dtype == new.dtype or not old.count or not new.count or (old.dtype == "double" and "int" in new.dtype):
        return
    numbers = old.kind == new.kind == "numeric"
    yield _finding(
        "type_changed",
        subject,
        f"{subject} was {old.dtype} and is {new.dtype}",
        "Check the unit and how the cells are written."
        if numbers
        else "Give it as it was, or start a data set of its own.",
        severity="warning" if numbers else "error",
    )


def _witnesses(columns: dict[str, Any]) -> "pd.DataFrame":
    import pandas as pd

    frame = {}
    for name, column in columns.items():
        if isinstance(column, NumericSummary):
            values = [] if column.min is None else [column.min, column.max]
            if column.dtype == "bool":
                values = [bool(value) for value in values]
        else:
            values = [value for value, _ in column.top] if isinstance(column, CategorySummary) else []
        frame[name] = pd.Series(values, dtype=_pandas_type(column.dtype))
    return pd.DataFrame(frame)


def _pandas_type(dtype: str) -> str:
    """The pandas type, of those that know missing cells, of a stored type."""
    known = {"float": "Float32", "double": "Float64", "bool": "boolean", "string": "string", "large_string": "string"}
    return known.get(dtype) or dtype.replace("uint", "UInt").replace("int", "Int")


def _widened(low: float, high: float) -> tuple[float, float]:
    margin = RANGE_MARGIN * (high - low)
    return low - margin, high + margin


def _range_finding(subject: str, *ends: float | None) -> Finding:
    low, high, least, greatest = (f"{end:.5g}" for end in ends if end is not None)
    return _finding(
        "outside_range",
        subject,
        f"{subject} lay between {low} and {high} and now lies between {least} and {greatest}",
        "Check the unit and how the numbers were made; a model trained before has seen nothing like it.",
        severity="warning",
    )


def _finding(
    code: str, subject: str, message: str, advice: str, severity: Any = "error", value: float | None = None
) -> Finding:
    return Finding(code=code, severity=severity, subject=subject, message=message, advice=advice, value=value)
