"""From trained learners and what they said about rows outside their bags to an ensemble on disk."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training_core.errors import DataError, GateError
from training_core.schema import DataSpec, TaskSpec, pattern_key, patterns_to_judge
from training_core.selection.combination import CombinationConfig, PatternWeights, combine_pattern, drawn_rows
from training_core.selection.manifest import MANIFEST, EnsembleManifest, Member, with_inherited

MAX_ENUMERATED = 6
"""Up to so many modalities every availability pattern has weights of its own (63 of them); beyond, see
`schema.patterns_to_judge`."""


@dataclass(frozen=True)
class Candidate:
    """A trained learner that may become a member.

    `rows` int64 [n]: data set positions of the rows outside its bag. `predictions`: what it says about them, [n, C] per
    pattern of its own modalities (`schema.pattern_key` in the spec's order), NaN where it cannot say anything; a
    pattern it is not listed for is one under which it stays silent.
    """

    name: str
    kind: str
    modalities: tuple[str, ...]
    folder: Path
    rows: np.ndarray
    predictions: Mapping[str, np.ndarray]
    score: float | None = None


def conclude(
    folder: Path,
    *,
    name: str,
    spec: DataSpec,
    candidates: Sequence[Candidate],
    rows: np.ndarray,
    target: np.ndarray,
    available: Mapping[str, np.ndarray],
    config: CombinationConfig | None = None,
    seed: int = 0,
    dataset: str = "",
    dataset_fingerprint: str = "",
) -> EnsembleManifest:
    """Combine the candidates and write the ensemble into the empty directory `folder`.

    Every candidate comes along, those without a weight too: the plain mean they belong to is what the ensemble is
    compared with, and they step in for patterns nothing was learned for.

    Args:
        folder: where `ensemble.json` and `members/` go; publishing it is the caller's business.
        name: of the ensemble.
        spec: of the data set.
        candidates: the learners that trained.
        rows: int64 [n] data set positions of all training rows.
        target: their targets, as in `Samples`.
        available: their availability, bool [n] per modality of the spec.
        config: how to combine; the defaults when None.
        seed: root of the random draws.
        dataset: `name@version`.
        dataset_fingerprint: of the data set's content.

    Raises:
        GateError: there are no candidates.
        DataError: a candidate was judged on rows that are not among `rows`.
    """
    if not candidates:
        raise GateError("no learner trained, so there is nothing to combine; see the failures of the single jobs")
    members = []
    for index, candidate in enumerate(candidates):
        place = f"members/{index:03d}-{candidate.kind}"
        shutil.copytree(candidate.folder, folder / place)
        members.append(
            Member(
                name=candidate.name,
                folder=place,
                kind=candidate.kind,
                modalities=candidate.modalities,
                score=candidate.score,
            )
        )
    prior, prior_std = _prior(spec.task, target)
    manifest = EnsembleManifest(
        name=name,
        spec=spec,
        members=tuple(members),
        patterns=learn_patterns(spec, candidates, rows, target, available, config or CombinationConfig(), seed),
        prior=prior,
        prior_std=prior_std,
        dataset=dataset,
        dataset_fingerprint=dataset_fingerprint,
        seed=seed,
    )
    (folder / MANIFEST).write_text(manifest.to_json())
    return manifest


def learn_patterns(
    spec: DataSpec,
    candidates: Sequence[Candidate],
    rows: np.ndarray,
    target: np.ndarray,
    available: Mapping[str, np.ndarray],
    config: CombinationConfig,
    seed: int,
) -> tuple[PatternWeights, ...]:
    """Weights and calibration of every listed pattern, the full set first.

    A pattern is learned on the rows that have all its modalities; when fewer than `min_calibration_rows` do, on all
    rows that have any of them, as if what they lack had been hidden too. Takes what `conclude` takes.
    """
    places = [_positions(candidate, rows) for candidate in candidates]
    names = tuple(candidate.name for candidate in candidates)
    found = []
    for pattern in patterns_to_judge(spec.names, MAX_ENUMERATED):
        heard = np.zeros(len(rows), bool)
        keys = []
        for candidate, place in zip(candidates, places, strict=True):
            key = pattern_key(pattern, [n for n in spec.names if n in candidate.modalities])
            keys.append(key)
            if key in candidate.predictions:
                heard[place[np.isfinite(candidate.predictions[key]).all(axis=1)]] = True
        whole = heard & np.logical_and.reduce([available[n] for n in spec.names if n in pattern])
        used = np.flatnonzero(whole if whole.sum() >= config.min_calibration_rows else heard)
        used = drawn_rows(used, len(candidates), spec.task.num_outputs, config, seed)
        index_of = np.full(len(rows), -1)
        index_of[used] = np.arange(len(used))
        stack = np.full((len(candidates), len(used), spec.task.num_outputs), np.nan)
        for slot, candidate, place, key in zip(stack, candidates, places, keys, strict=True):
            if key in candidate.predictions:
                kept = index_of[place] >= 0
                slot[index_of[place][kept]] = candidate.predictions[key][kept]
        present = tuple(n for n in spec.names if n in pattern)
        found.append(combine_pattern(spec.task, target[used], stack, names, config, seed, present))
    return with_inherited(found, config.min_calibration_rows)


def _positions(candidate: Candidate, rows: np.ndarray) -> np.ndarray:
    """Where in `rows` each of the candidate's rows is, int64 [n]."""
    order = np.argsort(rows, kind="stable")
    place = order[np.minimum(np.searchsorted(rows, candidate.rows, sorter=order), len(rows) - 1)]
    strangers = int(np.sum(rows[place] != candidate.rows))
    if strangers:
        raise DataError(
            f"{candidate.name}: {strangers} of its {len(place)} out-of-bag rows are not training rows of this data "
            "set; it was trained on another version, so train it again"
        )
    return place


def _prior(task: TaskSpec, target: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...] | None]:
    """What to answer without any input, and for regression how far off that is.

    Frequencies are smoothed by one row in all (add-one-row, Laplace), so that no class is ruled out.
    """
    if task.kind == "regression":
        return tuple(map(float, target.mean(axis=0))), tuple(map(float, target.std(axis=0)))
    if task.kind == "multilabel":
        counts, share = target.sum(axis=0, dtype=np.float64), 0.5
    else:
        counts, share = np.bincount(target, minlength=task.num_outputs).astype(np.float64), 1 / task.num_outputs
    return tuple(float(p) for p in (counts + share) / (len(target) + 1)), None
