"""Checks of the target: classes too rare or unbalanced, labels that never change, values with a long tail."""

from collections.abc import Iterator, Sequence

import numpy as np

from training_core.data.quality.evidence import Evidence
from training_core.data.quality.problems import Finding, Severity
from training_core.schema import TaskKind

IMBALANCE = 10.0
"""Training rows of the commonest class per row of the rarest from which on accuracy says little about the rarest."""
FEW_ROWS = 5
"""Training rows below which a class or label cannot be learnt, nor spread over bags."""
LONG_TAIL = 20.0
"""Distance of the farthest target from the median, in standard deviations told by the quartiles. A normal
distribution stays below 6, an exponential one below 15 at 10^5 rows."""
SAME_VALUE = 0.5
"""Share of equal targets from which on a regression is half a classification …"""
MANY_VALUES = 20
"""… where there are more distinct values than that; fewer are grades, of which one is often the commonest."""
_CLASSES_NAMED = 5


def check_target(evidence: Evidence) -> Iterator[Finding]:
    """Findings about the target; whether rows that are added to others have all classes is no question."""
    if not evidence.labelled.any() or evidence.added:
        return
    kind = evidence.known.spec.task.kind
    if kind == "classification":
        yield from _check_classes(evidence)
    elif kind == "multilabel":
        yield from _check_labels(evidence)
    else:
        yield from _check_values(evidence)


def association(flag: np.ndarray, target: np.ndarray, kind: TaskKind) -> float:
    """How strongly a flag [m] goes along with a target, 0..1; 0 when it is hardly ever or nearly always set.

    Classes: Cramér's V, corrected for bias (Bergsma 2013). Labels and values: the greatest correlation, of ranks
    for values.
    """
    from scipy.stats import rankdata

    num_set = int(flag.sum())
    if min(num_set, len(flag) - num_set) < 4 * FEW_ROWS:
        return 0.0
    if kind == "classification":
        dense = np.unique(target, return_inverse=True)[1]
        table = np.stack([np.bincount(dense[half], minlength=dense.max() + 1) for half in (flag, ~flag)])
        expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
        squared = float(((table - expected) ** 2 / expected).sum()) / len(flag)
        return max(squared - (table.shape[1] - 1) / (len(flag) - 1), 0.0) ** 0.5
    outputs = target.reshape(len(target), -1).astype(np.float64)
    columns = [c for c in (outputs if kind == "multilabel" else rankdata(outputs, axis=0)).T if np.ptp(c) > 0]
    return max((abs(float(np.corrcoef(flag, column)[0, 1])) for column in columns), default=0.0)


def _check_classes(evidence: Evidence) -> Iterator[Finding]:
    classes = evidence.known.spec.task.classes
    target = np.asarray(evidence.known.target)
    counts = {
        split: np.bincount(target[evidence.in_split(split) & evidence.labelled], minlength=len(classes))
        for split in ("train", "validation", "test")
    }
    train, test = counts["train"], counts["test"]
    everywhere = sum(counts.values())
    if not train.sum():
        return
    if len(unseen := np.flatnonzero((train == 0) & (everywhere > 0))):
        yield _finding(
            "class_not_in_train",
            f"{_name(classes, unseen)} occur(s), but not in training",
            "Such rows are always predicted wrongly. Draw the split by class, add rows, or leave the class out.",
            len(unseen) / len(classes),
        )
    if test.sum() and len(untested := np.flatnonzero((test == 0) & (train > 0))):
        yield _finding(
            "class_not_in_test",
            f"{_name(classes, untested)} occur(s) in training, but not in the test rows",
            "Nothing is known about how well it is predicted; test on more rows, or draw the split by class.",
            len(untested) / len(classes),
        )
    if len(rare := np.flatnonzero((train > 0) & (train < FEW_ROWS))):
        yield _finding(
            "rare_class",
            f"{_name(classes, rare)} has (have) fewer than {FEW_ROWS} training rows",
            "Add rows, or merge rare classes.",
            float(train[rare].min()),
        )
    present = np.flatnonzero(train)
    ratio = float(train[present].max() / train[present].min())
    if ratio >= IMBALANCE and len(present) > 1:
        most, least = int(train.argmax()), int(present[train[present].argmin()])
        yield _finding(
            "class_imbalance",
            f"class '{classes[most]}' has {train[most]} training rows, '{classes[least]}' has {train[least]}: "
            f"{ratio:.0f} times as many",
            "Judge by balanced accuracy or per class rather than by accuracy; weigh or add rows of rare classes.",
            ratio,
        )


def _check_labels(evidence: Evidence) -> Iterator[Finding]:
    labels = evidence.known.spec.task.classes
    training = np.asarray(evidence.known.target)[evidence.in_split("train") & evidence.labelled]
    if not len(training):
        return
    num_on = training.sum(axis=0)
    for code, which, what in (
        ("label_never_on", np.flatnonzero(num_on == 0), "never"),
        ("label_always_on", np.flatnonzero(num_on == len(training)), "always"),
    ):
        if len(which):
            yield _finding(
                code,
                f"label {_name(labels, which)} is {what} on in training",
                "Nothing can be learnt about it; remove it from the target, or add rows.",
                len(which) / len(labels),
            )
    rarer = np.minimum(num_on, len(training) - num_on)
    if len(rare := np.flatnonzero((rarer > 0) & (rarer < FEW_ROWS))):
        yield _finding(
            "rare_label",
            f"label {_name(labels, rare)} is on (or off) in fewer than {FEW_ROWS} training rows",
            "Add rows, or remove it from the target.",
            float(rarer[rare].min()),
        )


def _check_values(evidence: Evidence) -> Iterator[Finding]:
    names = evidence.known.spec.task.targets
    target = np.asarray(evidence.known.target)
    values = target.reshape(len(target), -1)[evidence.labelled & evidence.in_split("train")]
    if not len(values):
        return
    for name, column in zip(names, values.T, strict=True):
        subject = "target" if len(names) == 1 else f"target.{name}"
        median, spread = np.median(column), np.subtract(*np.quantile(column, [0.75, 0.25])) / 1.349
        _, counts = np.unique(column, return_counts=True)
        share = counts.max() / len(column)
        if column.min() == column.max():
            if len(column) > 1:
                yield _finding(
                    "constant_target",
                    f"'{name}' is {column[0]:g} in every training row",
                    "There is nothing to learn; remove it from the target.",
                    severity="error",
                    subject=subject,
                )
        elif share >= SAME_VALUE and len(counts) > MANY_VALUES:
            yield _finding(
                "repeated_target",
                f"{share:.0%} of the training rows have the same '{name}'",
                "Consider two steps: whether it is that value, then how much it is otherwise.",
                share,
                subject=subject,
            )
        elif spread > 0 and (distance := float(np.abs(column - median).max() / spread)) > LONG_TAIL:
            yield _finding(
                "heavy_tailed_target",
                f"'{name}' reaches {column[np.abs(column - median).argmax()]:.4g}, {distance:.0f} standard deviations "
                f"(told by the quartiles) from its median {median:.4g}",
                "A few rows decide squared errors. Check them, or predict the logarithm.",
                distance,
                subject=subject,
            )


def _name(classes: Sequence[str], which: np.ndarray) -> str:
    more = f" and {len(which) - _CLASSES_NAMED} more" if len(which) > _CLASSES_NAMED else ""
    return ", ".join(f"'{classes[i]}'" for i in which[:_CLASSES_NAMED]) + more


def _finding(
    code: str,
    message: str,
    advice: str,
    value: float | None = None,
    *,
    severity: Severity = "warning",
    subject: str = "target",
) -> Finding:
    return Finding(code=code, severity=severity, subject=subject, message=message, advice=advice, value=value)
