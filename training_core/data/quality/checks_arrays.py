"""Checks of images, vectors and sequences: blank rows, dead features, numbers that are none, values far out."""

from collections.abc import Iterator

import numpy as np

from training_core.data.quality.arrays import TELLING_FEATURES, ArrayProfile
from training_core.data.quality.evidence import Evidence
from training_core.data.quality.problems import Finding
from training_core.schema import ModalitySpec

BLANK_ROWS = 0.01
"""Share of blank rows from which on something is wrong with how they were made; a few black pictures always occur."""
MOST_DEAD = 0.5
"""Share of dead features that is normal in images and sequences: dark borders, padding."""
FAR_FROM_ALL = 100.0
"""Standard deviations, in the sample, from the mean to the most distant value of a vector's feature."""
MIN_ROWS = 50
"""Below, quantiles of 1 % are the extremes."""
_FEATURES_NAMED = 5
_ROWS_LOOKED_AT = 2000
_FEATURES_AT_ONCE = 256


def check_arrays(evidence: Evidence) -> Iterator[Finding]:
    """Findings about array modalities."""
    for modality in evidence.profile.spec.modalities:
        if modality.name in evidence.profile.arrays and evidence.profile.available[modality.name]:
            yield from _check(evidence, modality, evidence.profile.arrays[modality.name])


def _check(evidence: Evidence, modality: ModalitySpec, array: ArrayProfile) -> Iterator[Finding]:
    name, available = modality.name, evidence.profile.available[modality.name]
    if array.moments.num_non_finite:
        yield Finding(
            code="non_finite",
            severity="error",
            subject=name,
            message=f"'{name}' holds {array.moments.num_non_finite} numbers that are NaN or infinite, in rows that "
            "are not missing as a whole",
            advice="Fill them in, or make the whole row NaN to have it count as missing.",
            value=float(array.moments.num_non_finite),
        )
    blank = array.constant_rows / available
    if modality.num_features >= TELLING_FEATURES and blank >= BLANK_ROWS:
        yield Finding(
            code="blank_rows",
            severity="warning",
            subject=name,
            message=f"{array.constant_rows} of {available} rows of '{name}' ({blank:.1%}) are blank: "
            "all their numbers are equal",
            advice="If these are failed recordings, make the rows missing (NaN, or leave out the id).",
            rows=evidence.name_rows(np.flatnonzero(_blank_rows(evidence, name))),
            value=blank,
        )
    dead = array.dead_features
    if dead is not None and dead.any() and available > 1 and not evidence.few:
        share = float(dead.mean())
        if modality.kind == "vector" or share > MOST_DEAD:
            yield Finding(
                code="dead_features",
                severity="warning",
                subject=name,
                message=f"{dead.sum()} of {len(dead)} features of '{name}' have the same value in every row "
                f"({_some(np.flatnonzero(dead))})",
                advice="They tell nothing apart; leave them out, or find out whether they were filled in by mistake.",
                value=share,
            )
    if modality.kind == "vector":
        yield from _far_out(evidence, name, array)


def _far_out(evidence: Evidence, name: str, array: ArrayProfile) -> Iterator[Finding]:
    """Features with a value so far out that it decides their mean and spread."""
    sample = evidence.sample.vectors[name]
    rows = np.flatnonzero(~np.isnan(sample[:, 0]))
    rows = rows[:: max(1, len(rows) // _ROWS_LOOKED_AT)]
    if len(rows) < MIN_ROWS:
        return
    width = sample.shape[1]
    mean, std = np.empty(width), np.empty(width)
    for start in range(0, width, _FEATURES_AT_ONCE):
        here = slice(start, start + _FEATURES_AT_ONCE)
        values = np.sort(sample[rows, here].T.astype(np.float64))
        # without the extremes, so that a wild value does not hide itself by widening the spread
        inner = values[:, len(rows) // 100 : len(rows) - len(rows) // 100]
        core = values[:, len(rows) // 20 : len(rows) - len(rows) // 20]
        varies = core[:, 0] < core[:, -1]  # else a few rows alone are not zero, as counts are
        mean[here], std[here] = inner.mean(axis=1), np.where(varies, inner.std(axis=1), 0.0)
    extreme = np.maximum(array.moments.greatest[:width] - mean, mean - array.moments.least[:width])
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.where(std > 0, extreme / std, 0.0)
    far = np.flatnonzero(distance > FAR_FROM_ALL)
    if len(far):
        worst = int(far[np.argmax(distance[far])])
        yield Finding(
            code="outliers",
            severity="warning",
            subject=name,
            message=f"{len(far)} of {width} features of '{name}' have values more than {FAR_FROM_ALL:g} standard "
            f"deviations from the rest ({_some(far)}); the farthest is {name}[{worst}], by {distance[worst]:.4g}",
            advice="Check units and failed computations; such values swamp all others when features are scaled.",
            value=len(far) / width,
        )


def _blank_rows(evidence: Evidence, name: str) -> np.ndarray:
    return evidence.available(name) & ~evidence.profile.telling(name)


def _some(features: np.ndarray) -> str:
    more = f" and {len(features) - _FEATURES_NAMED} more" if len(features) > _FEATURES_NAMED else ""
    return f"feature {', '.join(map(str, features[:_FEATURES_NAMED]))}{more}"
