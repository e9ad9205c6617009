"""What the checks of a data set found, next to the numbers they rest on."""

from collections.abc import Callable, Iterator

import numpy as np

from training_core.config import Config
from training_core.data.quality.checks_arrays import check_arrays
from training_core.data.quality.checks_columns import check_columns, check_missing_related
from training_core.data.quality.checks_rows import check_rows
from training_core.data.quality.checks_schema import check_schema
from training_core.data.quality.checks_splits import check_splits
from training_core.data.quality.checks_target import check_target
from training_core.data.quality.checks_texts import check_texts
from training_core.data.quality.columns import bins_of
from training_core.data.quality.duplicates import check_duplicates
from training_core.data.quality.evidence import QUARANTINED, Evidence, Known
from training_core.data.quality.leakage import check_leakage
from training_core.data.quality.problems import Finding, accept
from training_core.data.quality.profile import Profile
from training_core.data.quality.summary import Bins, ProfileSummary
from training_core.data.splitting.splits import SPLITS
from training_core.schema import TaskKind

CHECKS: tuple[Callable[[Evidence], Iterator[Finding]], ...] = (
    check_rows,
    check_schema,
    check_splits,
    check_duplicates,
    check_leakage,
    check_target,
    check_columns,
    check_missing_related,
    check_arrays,
    check_texts,
)
CLASSES_KEPT = 1000


class TargetSummary(Config):
    """The target per split, of rows whose target is known."""

    kind: TaskKind
    names: tuple[str, ...]
    """Classes, labels, or target columns."""
    counts: dict[str, tuple[int, ...]]
    """Classification: rows per class; multilabel: rows with each label on; per split. Of the first
    `CLASSES_KEPT`; empty for regression."""
    bins: dict[str, tuple[Bins, ...]]
    """Regression: the values of every target column, per split; else empty."""


class QualityReport(Config):
    """What was found, and the profile it was found in. Kept with the version as JSON."""

    findings: tuple[Finding, ...]
    """Worst first; accepted ones last."""
    profile: ProfileSummary
    num_rows: int
    splits: dict[str, int]
    """Rows per split, `quarantined` among them when there are such."""
    availability: dict[str, dict[str, float]]
    """Per modality the share of rows that have it, per split; rows set aside are in none."""
    target: TargetSummary | None = None
    unused_accept: tuple[str, ...] = ()
    """`accept` entries that mean none of the findings: mended by now, or misspelt."""

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that make results misleading, but for accepted ones."""
        return tuple(f for f in self.findings if f.severity == "error" and not f.accepted)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The findings to look at, but for accepted ones."""
        return tuple(f for f in self.findings if f.severity == "warning" and not f.accepted)

    @property
    def accepted(self) -> tuple[Finding, ...]:
        """The findings that are known and accepted."""
        return tuple(f for f in self.findings if f.accepted)


def check_quality(profile: Profile, known: Known) -> QualityReport:
    """Every check on a profile of rows and what is known about them.

    Raises:
        DataError: `known` is not about as many rows as were profiled.
    """
    evidence = Evidence(profile, known)
    findings, unused = accept((finding for check in CHECKS for finding in check(evidence)), known.accept)
    masks = {split: evidence.in_split(split) for split in (*SPLITS, QUARANTINED)}
    masks = {split: mask for split, mask in masks.items() if mask.any()}
    return QualityReport(
        findings=tuple(findings),
        profile=evidence.summary,
        num_rows=profile.num_rows,
        splits={split: int(mask.sum()) for split, mask in masks.items()},
        availability={
            name: {s: float(evidence.available(name)[mask].mean()) for s, mask in masks.items() if s != QUARANTINED}
            for name in profile.spec.names
        },
        target=_summarise_target(evidence),
        unused_accept=unused,
    )


def _summarise_target(evidence: Evidence) -> TargetSummary | None:
    known, task = evidence.known, evidence.known.spec.task
    if known.target is None:
        return None
    rows = {split: np.flatnonzero(evidence.in_split(split) & evidence.labelled) for split in SPLITS}
    targets = {split: known.target[of_split] for split, of_split in rows.items() if len(of_split)}
    if task.kind == "regression":
        columns = {split: values.reshape(len(values), -1).T for split, values in targets.items()}
        bins = {split: tuple(map(bins_of, values)) for split, values in columns.items()}
        return TargetSummary(kind=task.kind, names=task.targets, counts={}, bins=bins)
    if task.kind == "classification":
        counts = {split: np.bincount(values, minlength=len(task.classes)) for split, values in targets.items()}
    else:
        counts = {split: values.sum(axis=0).astype(int) for split, values in targets.items()}
    kept = {split: tuple(values[:CLASSES_KEPT].tolist()) for split, values in counts.items()}
    return TargetSummary(kind=task.kind, names=task.classes[:CLASSES_KEPT], counts=kept, bins={})
