"""Rows with equal content: copies within the training data, across splits, and with different targets.

Only rows that cannot well be equal by chance count: those with an array that is not constant, a text of some length,
or table cells that together have many possible values.
"""

from collections.abc import Iterator

import numpy as np

from training_core.data.quality.arrays import TELLING_FEATURES
from training_core.data.quality.evidence import Evidence
from training_core.data.quality.hashing import ABSENT
from training_core.data.quality.problems import Finding

REPEATED_ROWS = 0.005
"""Share of copies among the training rows from which on they are worth a warning: they weigh double."""
LEAKED_ROWS = 0.05
"""Share of test rows with a copy in training from which on scores mislead: a memory alone gains as much."""
COPIED_ROWS = 0.001
"""Share of the rows of a split with a copy in training that is worth a warning; fewer cannot move a score."""
SHARED_CONTENT = 0.02
"""Share of test rows that share one modality (the same picture with other facts) with a training row."""
CONFLICTING_ROWS = 0.001
"""Share of rows whose copies have other targets."""
_SPARE_BITS = 7  # so that fewer than one pair in a hundred data sets is equal by chance


def check_duplicates(evidence: Evidence) -> Iterator[Finding]:
    """Copies within training, of training rows in other splits, and copies that disagree about the target."""
    hashes = evidence.profile.row_hashes()
    telling = evidence.usable & _telling(evidence)
    training = evidence.in_split("train") & telling
    yield from _repeated(evidence, hashes, training)
    found = 0.0
    for split in ("test", "validation"):
        rows = evidence.in_split(split)
        leaked = np.flatnonzero(rows & telling & np.isin(hashes, hashes[training]))
        share = len(leaked) / max(rows.sum(), 1)
        if share < COPIED_ROWS:
            continue
        found = max(found, share)
        yield Finding(
            code="copied_across_splits",
            severity="error" if share >= LEAKED_ROWS and split == "test" else "warning",
            subject=split,
            message=f"{len(leaked)} of {rows.sum()} {split} rows ({share:.1%}) are exact copies of training rows",
            advice="Remove the copies, or give them one `group` so that they stay in one split; "
            "as it is, learning by heart is rewarded.",
            rows=evidence.name_rows(leaked),
            value=share,
        )
    yield from _shared_content(evidence, found)
    yield from _conflicting(evidence, hashes, telling & evidence.labelled)


def _repeated(evidence: Evidence, hashes: np.ndarray, training: np.ndarray) -> Iterator[Finding]:
    rows = np.flatnonzero(training)
    _, first, counts = np.unique(hashes[rows], return_index=True, return_counts=True)
    num_copies = len(rows) - len(first)
    if not num_copies or num_copies < REPEATED_ROWS * evidence.in_split("train").sum():
        return
    share = num_copies / evidence.in_split("train").sum()
    yield Finding(
        code="repeated_rows",
        severity="warning",
        subject="train",
        message=f"{num_copies} training rows ({share:.1%}) repeat an earlier one exactly; "
        f"the commonest content occurs {counts.max()} times",
        advice="Remove the copies, or keep them if the same case really occurred several times.",
        rows=evidence.name_rows(rows[np.sort(first[counts > 1])]),
        value=share,
    )


def _shared_content(evidence: Evidence, found: float) -> Iterator[Finding]:
    """Content of one array or text modality that test rows share with training rows, beyond whole copies."""
    modalities = [m for m in evidence.profile.spec.modalities if m.kind != "tabular"]
    if len(evidence.profile.spec.modalities) < 2:
        return
    training, test = evidence.in_split("train"), evidence.in_split("test")
    for modality in modalities:
        hashes = evidence.profile.hashes(modality.name)
        able = evidence.profile.telling(modality.name)
        shared = np.flatnonzero(test & able & np.isin(hashes, hashes[training & able]))
        share = len(shared) / max(test.sum(), 1)
        if share < max(SHARED_CONTENT, 2 * found):
            continue
        yield Finding(
            code="shared_content",
            severity="warning",
            subject=modality.name,
            message=f"{len(shared)} of {test.sum()} test rows ({share:.1%}) have the very same '{modality.name}' "
            "as a training row",
            advice="If such rows belong together (one subject, one picture), name what they share as `group`.",
            rows=evidence.name_rows(shared),
            value=share,
        )


def _conflicting(evidence: Evidence, hashes: np.ndarray, rows: np.ndarray) -> Iterator[Finding]:
    places = np.flatnonzero(rows)
    if not len(places):
        return
    targets = np.asarray(evidence.known.target)[places].reshape(len(places), -1)
    code = np.unique(hashes[places], return_inverse=True)[1]
    differs = np.zeros(code.max() + 1, bool)
    for column in targets.T:
        least, greatest = np.full(len(differs), np.inf), np.full(len(differs), -np.inf)
        np.minimum.at(least, code, column)
        np.maximum.at(greatest, code, column)
        differs |= least < greatest
    conflicting = places[differs[code]]
    share = len(conflicting) / len(places)
    if not len(conflicting) or share < CONFLICTING_ROWS:
        return
    order = np.argsort(hashes[conflicting], kind="stable")  # copies named next to each other
    yield Finding(
        code="conflicting_targets",
        severity="warning",
        subject="target",
        message=f"{len(conflicting)} rows ({share:.1%}) have copies with the same inputs and another target",
        advice="Look at these labels: some are wrong, or an input that tells the rows apart is missing.",
        rows=evidence.name_rows(conflicting[order]),
        value=share,
    )


def _telling(evidence: Evidence) -> np.ndarray:
    """Which rows cannot well be equal by chance, bool [N]."""
    telling = np.logical_or.reduce([evidence.profile.telling(name) for name in evidence.profile.spec.names])
    bits = 0.0
    needed = 2 * np.log2(max(evidence.profile.num_rows, 2)) + _SPARE_BITS
    modalities, sample = evidence.profile.spec.modalities, evidence.sample
    tables = {m.name for m in modalities if m.kind == "tabular"}
    narrow = {m.name for m in modalities if m.kind == "vector" and m.num_features < TELLING_FEATURES}
    for subject, cells in (*sample.numbers.items(), *sample.hashes.items()):
        bits += _collision_bits(cells) if subject.partition(".")[0] in tables else 0.0
    for name in narrow & sample.vectors.keys():
        bits += sum(_collision_bits(feature) for feature in sample.vectors[name].T)
    if bits >= needed:
        for name in tables | narrow:
            telling = telling | evidence.available(name)
    return telling


def _collision_bits(cells: np.ndarray) -> float:
    """−log2 of the chance that two random cells are equal, columns taken as independent."""
    present = cells[cells != ABSENT] if cells.dtype == np.uint64 else cells[np.isfinite(cells)]
    pairs = len(cells) * (len(cells) - 1) / 2
    counts = np.append(np.unique(present, return_counts=True)[1], len(cells) - len(present)).astype(np.float64)
    equal = (counts * (counts - 1) / 2).sum()
    return float(-np.log2(max(equal, 0.5) / pairs)) if pairs else 0.0
