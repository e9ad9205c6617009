"""Checks of single columns: empty, constant, full of gaps, ids in disguise, values far from all others."""

from collections.abc import Iterator

import numpy as np

from training_core.data.quality.checks_target import association
from training_core.data.quality.evidence import Evidence
from training_core.data.quality.hashing import ABSENT
from training_core.data.quality.problems import Finding
from training_core.data.quality.summary import CategorySummary, NumericSummary

MANY_MISSING = 0.5
"""Share of cells that are missing although the row has the modality: most of the column is then made up."""
NEARLY_UNIQUE = 0.95
"""Distinct whole numbers per row from which on they look like ids; a count or an amount repeats more."""
HARDLY_REPEATED = 0.5
"""Distinct categories per row from which on most of them are met for the first time when predicting."""
MIN_ROWS = 100
"""Below, nearly every column is nearly unique."""
ID_CELLS = 0.95
"""Share of cells equal to the id of their row."""
FAR_OUT = 5.0
"""How many times the span from the 1 % to the 99 % quantile a value has to lie beyond them. A normal distribution
would need 10^145 rows for one such value, a log-normal one (sigma 1) about 10^5."""
SENTINELS = frozenset(sign * value for sign in (-1, 1) for value in (9, 99, 999, 9999, 99999, 999999)) | {-1.0}
"""Numbers that often stand for "unknown" when they lie far from all others."""
RELATED = 0.3
"""Cramér's V, or correlation, of being missing with the target: a medium effect by Cohen 1988."""
SENTINEL_ROWS = 5
"""How often such a number has to occur in the sample."""


def check_columns(evidence: Evidence) -> Iterator[Finding]:
    """Findings about single table columns."""
    for subject, modality, column in (*evidence.numeric_columns(), *evidence.category_columns()):
        if evidence.few or not modality.available:
            continue
        if not column.count:
            yield _warning(
                "empty_column", subject, f"{subject} is empty in every row", "Remove it from the inputs.", value=1.0
            )
            continue
        share = (column.missing - (evidence.summary.num_rows - modality.available)) / max(modality.available, 1)
        if share >= MANY_MISSING:
            yield _warning(
                "missing_cells",
                subject,
                f"{subject} is missing in {share:.0%} of the rows that have '{modality.name}'",
                "Find out why, or remove it; missing cells are filled in with a typical value.",
                share,
            )
        if column.distinct == 1 and column.count > 1:
            yield _warning(
                "constant_column",
                subject,
                f"{subject} has the same value in all {column.count} rows that have it",
                "Remove it from the inputs: it tells nothing apart"
                + (", unless being present or missing is what tells." if column.missing else "."),
            )
        yield from _ids(evidence, subject, column)
    for subject, _, column in evidence.numeric_columns():
        if column.count and column.distinct > 2:
            yield from _far_out(evidence, subject, column)


def _ids(evidence: Evidence, subject: str, column: NumericSummary | CategorySummary) -> Iterator[Finding]:
    """Columns that name the rows instead of describing them."""
    matches = evidence.profile.id_matches.get(subject, 0) / max(evidence.summary.num_rows, 1)
    if matches >= ID_CELLS and evidence.summary.num_rows > 1:
        yield _warning(
            "id_as_input",
            subject,
            f"{subject} is the id of the row in {matches:.0%} of all rows",
            "Remove it from the inputs: a learner can only learn rows by heart from it.",
            matches,
        )
        return
    unique = min(column.distinct / column.count, 1.0)
    if column.count < MIN_ROWS:
        return
    if isinstance(column, CategorySummary):
        if unique >= HARDLY_REPEATED:
            yield _warning(
                "id_like",
                subject,
                f"{subject} has about {column.distinct} categories in {column.count} rows",
                "It names rows rather than describes them. Remove it, merge rare categories, or use it as text.",
                unique,
            )
    elif "int" in column.dtype and unique >= NEARLY_UNIQUE and column.min is not None and column.max is not None:
        dense = column.max - column.min + 1 <= 2 * column.count
        if column.increasing or dense:
            how = "grows from row to row" if column.increasing else "numbers the rows almost without gaps"
            yield _warning(
                "id_like",
                subject,
                f"{subject} is a whole number, different in nearly every row, and {how}",
                "If it is a running number, remove it; if it is a time, give it as `time` for the split.",
                unique,
            )


def _far_out(evidence: Evidence, subject: str, column: NumericSummary) -> Iterator[Finding]:
    """Values that stand for "unknown", and values far from all others."""
    rows = evidence.sample.rows
    values = evidence.sample.numbers[subject]
    sentinel = _sentinel(values)
    if sentinel is not None:
        same = np.flatnonzero(values == sentinel)
        share = len(same) / np.isfinite(values).sum()
        yield _warning(
            "sentinel_value",
            subject,
            f"{subject} is {sentinel:g} in {share:.1%} of the rows, far from all its other values",
            "If it stands for 'unknown', leave these cells empty in the source.",
            share,
            evidence.name_rows(rows[same]),
        )
        return
    if not column.quantiles or column.min is None or column.max is None:
        return
    low, high = column.quantiles[1], column.quantiles[-2]
    reach = FAR_OUT * (high - low)
    if reach <= 0 or (column.min >= low - reach and column.max <= high + reach):
        return
    far = np.flatnonzero((values < low - reach) | (values > high + reach))
    worst = column.max if column.max > high + reach else column.min
    yield _warning(
        "outliers",
        subject,
        f"{subject} reaches {worst:.4g}, while 98% of its values lie between {low:.4g} and {high:.4g}",
        "Check units and typing errors; if the values are right, consider their logarithm.",
        len(far) / max(np.isfinite(values).sum(), 1),
        evidence.name_rows(rows[far]),
    )


def _sentinel(sample: np.ndarray) -> float | None:
    """A least or greatest value that is a known stand-in, repeated, and farther away than the others are wide."""
    values, counts = np.unique(sample[np.isfinite(sample)], return_counts=True)
    if len(values) < 3:
        return None
    for place, rest in ((0, values[1:]), (-1, values[:-1])):
        value = float(values[place])
        gap = abs(value - (rest[0] if place == 0 else rest[-1]))
        if value in SENTINELS and counts[place] >= SENTINEL_ROWS and gap > rest[-1] - rest[0]:
            return value
    return None


def check_missing_related(evidence: Evidence) -> Iterator[Finding]:
    """Columns and modalities whose being missing goes along with the target."""
    sample, known = evidence.sample, evidence.known
    labelled = np.flatnonzero(evidence.labelled[sample.rows])
    if known.target is None or len(labelled) < 2 * MIN_ROWS:
        return
    target = known.target[sample.rows[labelled]]
    for modality in known.spec.modalities:
        absent = ~evidence.available(modality.name)[sample.rows[labelled]]
        cells = {f"{modality.name}.{c.name}" for c in modality.columns} if modality.kind == "tabular" else set()
        gaps = {modality.name: absent}
        for subject in cells & sample.numbers.keys():
            gaps[subject] = np.isnan(sample.numbers[subject][labelled]) & ~absent
        for subject in cells & sample.hashes.keys():
            gaps[subject] = (sample.hashes[subject][labelled] == ABSENT) & ~absent
        for subject, gap in gaps.items():
            strength = association(gap, target, known.spec.task.kind)
            if strength >= RELATED:
                yield _warning(
                    "missing_related_to_target",
                    subject,
                    f"whether {subject} is missing goes along with the target (association {strength:.2f} of 1)",
                    "Find out why it is missing. If it is missing because of the outcome, it gives the outcome away.",
                    strength,
                )


def _warning(
    code: str, subject: str, message: str, advice: str, value: float | None = None, rows: tuple[str, ...] = ()
) -> Finding:
    return Finding(
        code=code, severity="warning", subject=subject, message=message, advice=advice, value=value, rows=rows
    )
