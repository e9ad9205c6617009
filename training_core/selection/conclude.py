"""From trained learners and what they said about rows outside their bags to an ensemble on disk."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from training_core.errors import GateError
from training_core.schema import DataSpec, TaskSpec, patterns_to_judge
from training_core.selection.answering import row_losses, with_promise
from training_core.selection.combination import CombinationConfig, PatternWeights, combine_pattern, ignorant_losses
from training_core.selection.conformal import fit_conformal
from training_core.selection.evidence import Candidate, OutOfBag
from training_core.selection.manifest import MANIFEST, EnsembleManifest, Member, with_inherited
from training_core.selection.worth import modality_worth

__all__ = ["MAX_LEARNED", "Candidate", "conclude", "learn_patterns", "learn_worth"]

MAX_LEARNED = 6
"""Up to so many modalities every availability pattern has weights of its own (63 of them); beyond, see
`schema.patterns_to_judge`."""


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
    units: np.ndarray | None = None,
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
        units: int64 [n], training rows that belong together; see `units.units_of`.
        dataset: `name@version`.
        dataset_fingerprint: of the data set's content.

    Raises:
        GateError: there are no candidates.
        DataError: a candidate was judged on rows that are not among `rows`.
    """
    from threadpoolctl import threadpool_limits

    if not candidates:
        raise GateError("no learner trained, so there is nothing to combine; see the failures of the single jobs")
    config = config or CombinationConfig()
    heard = OutOfBag(spec, candidates, rows, target, available, config, seed, units)
    # Many small products: on busy cores the threads of a BLAS wait for each other most of the time (measured 6 times
    # slower), and with one thread sums do not depend on the machine.
    with threadpool_limits(limits=1):
        heard.calibrate_learners()
        patterns = learn_patterns(heard, config, seed)
        worth = learn_worth(heard, patterns)
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
                temperatures=heard.temperatures[index],
            )
        )
    prior, prior_std = _prior(spec.task, target)
    unknown = np.tile(np.array(prior), (len(rows), 1))
    unsure = None if prior_std is None else np.tile(np.maximum(np.array(prior_std), 1e-300), (len(rows), 1))
    manifest = EnsembleManifest(
        name=name,
        spec=spec,
        members=tuple(members),
        patterns=patterns,
        prior=prior,
        prior_std=prior_std,
        prior_conformal=fit_conformal(spec.task, target, unknown, config.coverage, config.set_method, unsure),
        worth=worth,
        dataset=dataset,
        dataset_fingerprint=dataset_fingerprint,
        seed=seed,
    )
    (folder / MANIFEST).write_text(manifest.to_json())
    return manifest


def learn_patterns(heard: OutOfBag, config: CombinationConfig, seed: int) -> tuple[PatternWeights, ...]:
    """Weights, calibration and promise of every listed pattern, the full set first.

    Args:
        heard: what the candidates said; see `OutOfBag.under` for the rows each pattern is learned from.
        config: how to combine.
        seed: root of the random draws.
    """
    names = heard.spec.names
    found: list[PatternWeights] = []
    for pattern in patterns_to_judge(names, MAX_LEARNED):
        seen = heard.under(pattern)
        present = tuple(n for n in names if n in pattern)
        partial = len(present) < len(names)
        said = (heard.spec.task, seen.target, seen.predictions, seen.names)
        found.append(combine_pattern(*said, config, seed, present, partial, seen.teams, seen.units))
    inherited = with_inherited(found, config.min_calibration_rows)
    # Gathered again rather than kept: the answers of all learners under all patterns can be many gigabytes.
    return tuple(
        with_promise(heard.spec.task, learned, heard.under(learned.pattern), config, seed) for learned in inherited
    )


def learn_worth(heard: OutOfBag, patterns: Sequence[PatternWeights]) -> dict[str, float]:
    """What each modality is worth to the ensemble; see `worth.modality_worth`. In nats, or shares of the variance."""
    task, names, target = heard.spec.task, heard.spec.names, heard.target
    scale = np.maximum(target.std(axis=0), 1e-12) if task.kind == "regression" else None
    full = frozenset(names)
    asked = {full, *(frozenset({n}) for n in names), *(full - {n} for n in names)}
    losses = {
        learned.pattern: row_losses(task, learned, heard.under(learned.pattern), len(target), scale)
        for learned in patterns
        if learned.pattern in asked
    }
    return modality_worth(losses, ignorant_losses(task, target), names, heard.units)


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
