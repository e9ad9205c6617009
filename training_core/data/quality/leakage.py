"""Inputs that give the target away: copies of it, and features that predict it all too well."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from training_core.data.quality.evidence import Evidence
from training_core.data.quality.hashing import hash_texts
from training_core.data.quality.power import MIN_ROWS, PowerJudge, halves_of
from training_core.data.quality.problems import Finding

GIVEN_AWAY = 0.95
"""A single feature that predicts this much is hardly ever an honest one; real single features stay below .9."""
STANDS_OUT = 0.4
"""What a feature has to predict at least before it can stand out: below, the damage is small."""
STANDS_OUT_TIMES = 4.0
"""How much more than the next best one it has to predict. Honest features come in company: the best of ten is rarely
twice as good as the second best; an outcome among the inputs is many times as good."""
MIN_OTHERS = 3
"""With fewer features to compare with, the best one stands out by chance."""
SAME_CONTENT = 0.9
"""Features that correlate (by rank) this much say the same; one does not hide the other."""
_MIN_COPIED_ROWS = 10  # fewer equal cells may be chance
_MOST_RIVALS = 2  # features that say the same as one that stands out; more, and nothing stands out
_SMALLEST_HALF = 0.2  # of the rows; less, when one group holds nearly all of them, is nothing to judge on
_FEATURES_AT_ONCE = 64  # turned round together: reading one column at a time of a long row misses the cache
_FEATURES_NAMED = 5  # of one vector; more are one finding


@dataclass(frozen=True)
class Feature:
    """One table column or vector feature, and how much of the target it predicts alone."""

    subject: str
    modality: str
    values: np.ndarray
    categorical: bool
    power: float
    output: int


def check_leakage(evidence: Evidence) -> Iterator[Finding]:
    """Copies of the target, features that predict it almost perfectly, and features that stand out by far."""
    rows = evidence.sample.rows
    labelled = np.flatnonzero(evidence.labelled[rows])
    if len(labelled) < _MIN_COPIED_ROWS:
        return
    target = np.asarray(evidence.known.target)[rows[labelled]]
    if len(np.unique(target)) < 2:
        return
    copies = dict(_copies(evidence, labelled, target))
    yield from (_finding(evidence, subject, 1.0, output, copied=True) for subject, output in copies.items())
    if len(labelled) < MIN_ROWS:
        return
    features = [f for f in _features(evidence, labelled, target) if f.subject not in copies]
    given_away = [f for f in features if f.power >= GIVEN_AWAY]
    yield from _given_away(evidence, given_away)
    texts = {name for name, _, _ in evidence.text_columns()}
    for feature in outstanding([f for f in features if f.subject not in texts and f.power < GIVEN_AWAY]):
        yield _finding(evidence, feature.subject, feature.power, feature.output)


def outstanding(features: list[Feature]) -> list[Feature]:
    """The features that predict far more of the target than any that is not much the same.

    Each is compared within its modality where there is enough to compare with, else within the whole data set.
    """
    found = []
    for feature in features:
        if feature.power < STANDS_OUT:
            continue
        others = [f for f in features if f is not feature]
        near = [f for f in others if f.modality == feature.modality]
        company = near if len(near) >= MIN_OTHERS else others
        rivals = [f for f in company if f.power * STANDS_OUT_TIMES > feature.power]
        enough = len(company) - len(rivals) >= MIN_OTHERS
        if enough and len(rivals) <= _MOST_RIVALS and all(_same_content(feature, rival) for rival in rivals):
            found.append(feature)
    return found


def _features(evidence: Evidence, labelled: np.ndarray, target: np.ndarray) -> Iterator[Feature]:
    """Every table column and vector feature with its power; values are kept of those that predict anything."""
    known, rows = evidence.known, evidence.sample.rows[labelled]
    keys = rows.astype(np.uint64) if known.groups is None else hash_texts(map(str, known.groups[rows]))
    first = halves_of(keys)
    if min(first.sum(), (~first).sum()) < _SMALLEST_HALF * len(rows):
        return
    judge = PowerJudge(known.spec.task.kind, target, first)
    for subject, values in _columns(evidence, labelled):
        categorical = values.dtype == np.uint64
        power = judge.of_categories(values) if categorical else judge.of_numbers(values)
        kept = values if power.value * STANDS_OUT_TIMES >= STANDS_OUT else np.empty(0)
        modality = subject.partition("[")[0].partition(".")[0]
        yield Feature(subject, modality, kept, categorical, power.value, power.output)


def _columns(evidence: Evidence, labelled: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The sampled cells of every table column (categories and texts as hashes) and vector feature, one at a time."""
    sample = evidence.sample
    for subject, values in (*sample.numbers.items(), *sample.hashes.items()):
        yield subject, values[labelled]
    for modality, matrix in sample.vectors.items():
        for start in range(0, matrix.shape[1], _FEATURES_AT_ONCE):
            columns = np.ascontiguousarray(matrix[labelled, start : start + _FEATURES_AT_ONCE].T)
            yield from ((f"{modality}[{start + place}]", values) for place, values in enumerate(columns))


def _copies(evidence: Evidence, labelled: np.ndarray, target: np.ndarray) -> Iterator[tuple[str, int]]:
    """Features all of whose cells are the target's, with the output they copy."""
    task = evidence.known.spec.task
    texts = None
    if task.kind == "classification":
        texts = hash_texts(task.classes)[target]
        try:
            outputs = np.asarray([float(name) for name in task.classes])[target][:, None]
        except ValueError:  # classes that are no numbers: no column of numbers can be a copy
            outputs = np.empty((len(target), 0))
    else:
        outputs = target.reshape(len(target), -1)
    for subject, values in _columns(evidence, labelled):
        if values.dtype == np.uint64:
            if texts is not None and (values == texts).all():
                yield subject, 0
            continue
        for output, truth in enumerate(outputs.T):
            if values[0] == truth[0].astype(values.dtype) and (values == truth.astype(values.dtype)).all():
                yield subject, output


def _given_away(evidence: Evidence, features: list[Feature]) -> Iterator[Finding]:
    """One finding per feature; of a vector with many such features, one for all."""
    for modality in dict.fromkeys(f.modality for f in features):
        own = [f for f in features if f.modality == modality]
        if len(own) <= _FEATURES_NAMED or "[" not in own[0].subject:
            yield from (_finding(evidence, f.subject, f.power, f.output) for f in own)
            continue
        best = max(own, key=lambda f: f.power)
        finding = _finding(evidence, best.subject, best.power, best.output)
        message = f"{finding.message}; so do {len(own) - 1} other features of '{modality}'"
        yield finding.model_copy(update={"subject": modality, "message": message})


def _finding(evidence: Evidence, subject: str, power: float, output: int, copied: bool = False) -> Finding:
    task = evidence.known.spec.task
    names = task.classes if task.kind == "multilabel" else task.targets
    target = f"target '{names[output]}'" if len(names) > 1 else "target"
    measure = "R²" if task.kind == "regression" else "skill over the commonest class"
    if copied:
        return Finding(
            code="label_leakage",
            severity="error",
            subject=subject,
            message=f"{subject} is a copy of the {target}: equal in every sampled row",
            advice="Remove it from the inputs.",
            value=1.0,
        )
    if power >= GIVEN_AWAY:
        return Finding(
            code="label_leakage",
            severity="error",
            subject=subject,
            message=f"{subject} alone predicts the {target} almost perfectly ({measure} {power:.2f} on held-out rows)",
            advice="Most likely it follows from the outcome. Remove it, unless it is surely known before the outcome.",
            value=power,
        )
    return Finding(
        code="label_leakage",
        severity="warning",
        subject=subject,
        message=f"{subject} alone predicts far more of the {target} than any other input ({measure} {power:.2f} on "
        "held-out rows)",
        advice="Was it known before the outcome? If it was recorded with or after it, remove it from the inputs.",
        value=power,
    )


def _same_content(one: Feature, other: Feature) -> bool:
    """Whether two features order the rows alike."""
    from scipy.stats import rankdata

    if one.categorical or other.categorical:
        return False
    both = np.isfinite(one.values) & np.isfinite(other.values)
    if both.sum() < MIN_ROWS or np.ptp(one.values[both]) == 0 or np.ptp(other.values[both]) == 0:
        return False
    ranks = rankdata(one.values[both]), rankdata(other.values[both])
    return abs(float(np.corrcoef(*ranks)[0, 1])) >= SAME_CONTENT
