"""Checks of how the rows are shared out: groups in two splits, a test before the training, unequal gaps."""

from collections.abc import Iterator

import numpy as np

from training_core.data.quality.evidence import Evidence
from training_core.data.quality.problems import Finding

OFTEN_MISSING = 0.5
"""Share of rows without a modality from which on it can hardly be learnt from, or expected when predicting."""
UNEQUAL_GAPS = 0.2
"""Difference between test and training rows in how often a modality is missing, with …"""
MIN_ROWS = 50
"""… so many rows in both: chance then makes a difference of .2 about once in 20 data sets at worst."""


def check_splits(evidence: Evidence) -> Iterator[Finding]:
    """Findings about splits and availability."""
    yield from _groups(evidence)
    yield from _times(evidence)
    yield from _availability(evidence)


def _groups(evidence: Evidence) -> Iterator[Finding]:
    groups = evidence.known.groups
    if groups is None:
        return
    names, code = np.unique(groups.astype(str), return_inverse=True)
    training = np.zeros(len(names), bool)
    training[code[evidence.in_split("train")]] = True
    for split in ("test", "validation"):
        inside = evidence.in_split(split)
        shared = np.flatnonzero(inside & training[code])
        if len(shared):
            share = len(shared) / inside.sum()
            yield Finding(
                code="group_overlap",
                severity="error",
                subject=split,
                message=f"{len(shared)} {split} rows ({share:.0%}) belong to groups that are also trained on, "
                f"such as '{names[code[shared[0]]]}'",
                advice="Keep every group in one split; as it is, scores are those of known groups.",
                rows=evidence.name_rows(shared),
                value=share,
            )


def _times(evidence: Evidence) -> Iterator[Finding]:
    times = evidence.known.times
    training, test = evidence.in_split("train"), evidence.in_split("test")
    if times is None or not training.any() or not test.any():
        return
    rank = np.unique(times, return_inverse=True)[1]
    if evidence.known.groups is not None:  # a group is where its last row is: it keeps its history
        code = np.unique(evidence.known.groups.astype(str), return_inverse=True)[1]
        last = np.zeros(code.max() + 1, np.int64)
        np.maximum.at(last, code, rank)
        rank = last[code]
    early = np.flatnonzero(test & (rank < rank[training].max()))
    if not len(early):
        return
    share = len(early) / test.sum()
    backwards = rank[test].max() < np.median(rank[training])
    yield Finding(
        code="time_overlap",
        severity="error" if backwards else "warning",
        subject="split",
        message=f"{len(early)} test rows ({share:.0%}) are earlier than the last training row"
        + ("; all test rows are from the first half of the training time" if backwards else ""),
        advice="Test on the latest rows (remove the given split to have them drawn so); as it is, the future is known.",
        rows=evidence.name_rows(early),
        value=share,
    )


def _availability(evidence: Evidence) -> Iterator[Finding]:
    num_usable = int(evidence.usable.sum())
    if not num_usable:
        return
    training, test = evidence.in_split("train"), evidence.in_split("test")
    for name in evidence.known.spec.names:
        mask = evidence.available(name)
        missing = 1 - (mask & evidence.usable).sum() / num_usable
        if missing >= OFTEN_MISSING and not evidence.few:
            yield Finding(
                code="often_missing",
                severity="warning",
                subject=name,
                message=f"'{name}' is missing in {missing:.0%} of the rows",
                advice="Check that the ids of its file are written as those of the samples; else expect little of it.",
                value=missing,
            )
        if min(training.sum(), test.sum()) < MIN_ROWS:
            continue
        there, here = mask[training].mean(), mask[test].mean()
        if abs(there - here) >= UNEQUAL_GAPS:
            yield Finding(
                code="unequal_availability",
                severity="warning",
                subject=name,
                message=f"'{name}' is missing in {1 - there:.0%} of the training rows and {1 - here:.0%} of the test "
                "rows",
                advice="Find out which of the two is what predicting will meet, and draw the split so.",
                value=float(abs(there - here)),
            )
