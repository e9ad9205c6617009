"""What went wrong in a run, said with the figures that show it; what mends it is in `campaigns.advice`.

Each check looks at one kind of trouble and gives a diagnosis or nothing. Limits are chosen so that a training that is
well does not set them off; each says why it is what it is.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from training_core.config import Config
from training_core.evaluation.analytics import LearnerTraining
from training_core.evaluation.convergence import (
    convergence_epoch,
    denoising_losses,
    denoising_shares,
    generalisation_loss,
    overfitting_score,
    stability,
    supervised_losses,
)
from training_core.evaluation.evidence import ModalityEvidence, RunEvidence
from training_core.evaluation.importance import Association
from training_core.quantities import format_seconds

Problem = Literal[
    "diverged",
    "memory",
    "denoising_dominates",
    "denoising_stalls",
    "unstable",
    "overfitting",
    "unfinished",
    "noise_modality",
    "poor_cross_modal",
    "poor_generalisation",
    "slow",
]

DOMINATING_SHARE = 0.75
"""Of the training loss: beyond it the denoising objectives weigh three times what the task does."""
UNMOVED = 0.98
"""Share of its highest loss above which a denoising objective was not learned."""
STEADY = 0.7
"""Least stability of a steady training: on average it lies less than a third of its fall above its lowest loss."""
RISEN = 0.25
"""Share by which the validation loss must have risen above its lowest for overfitting: less is ordinary jitter."""
GAP = 0.1
"""Least rise or gap of a loss, in nats or in shares of the target's variance, that matters at all."""
TWICE = 0.5
"""Overfitting score at which the held-out loss is twice the training loss."""
MANY = 0.25
"""Share of the learners that must show something for the run's settings, and not chance, to be the cause."""
CHANCE = 3.0
"""Standard errors above chance below which predictions may well be chance: it passes them once in 700 times."""
WEAK = 0.3
"""Association that must be ruled out before a modality is called noise: an AUROC of .65. With few rows nothing is."""
SHORTFALL = 0.05
"""Least shortfall of a learner of several modalities that matters."""
_LEARNABLE = ("reconstruction", "alignment", "prediction")
"""Objectives that start high and fall when they are learned. Consistency and information start near 0, for a fresh net
says the same of everything."""
OVER_MEMORY = "of memory, its process may have"
"""How it is said that a learner was ended for the memory it took."""
_OUT_OF_MEMORY = (
    OVER_MEMORY,
    "outofmemory",
    "out of memory",
    "memoryerror",
    "can't allocate memory",
    "not enough memory",
    "does not fit into memory",
    "signal 9",
    "sigkill",
)


class Diagnosis(Config):
    """One thing that is wrong with a run."""

    problem: Problem
    modalities: tuple[str, ...] = ()
    """Those that are noise."""
    kept: tuple[str, ...] = ()
    """The modalities that are not."""
    objectives: tuple[str, ...] = ()
    """The denoising objectives it is about."""
    evidence: str
    """What was seen, in numbers, as a sentence."""
    figures: Mapping[str, float] = {}
    """Those numbers, for whoever works out what to change."""
    learners: tuple[str, ...] = ()
    """Who shows it."""


def diagnose(found: RunEvidence) -> tuple[Diagnosis, ...]:
    """Everything that is wrong with a run as far as `found` shows, what cost most first; empty when all is well."""
    return tuple(diagnosis for check in _CHECKS for diagnosis in check(found))


def _diverged(found: RunEvidence) -> Iterable[Diagnosis]:
    lost = [t for t in found.trainings if t.status == "failed" and "DivergenceError" in t.error]
    if lost:
        yield Diagnosis(
            problem="diverged",
            evidence=f"{len(lost)} of {len(found.trainings)} learners left the finite numbers; {lost[0].error}",
            figures={"num_diverged": len(lost)},
            learners=_names(lost),
        )


def _memory(found: RunEvidence) -> Iterable[Diagnosis]:
    limit = found.limits.memory_bytes
    killed = [t for t in found.trainings if t.status == "failed" and any(w in t.error.lower() for w in _OUT_OF_MEMORY)]
    if killed:
        yield Diagnosis(
            problem="memory",
            evidence=f"{len(killed)} learners ran out of memory ({killed[0].error})",
            figures={
                "peak_bytes": max(t.peak_bytes for t in found.trainings),
                **({"limit_bytes": limit} if limit is not None else {}),
            },
            learners=_names(killed),
        )


def _denoising_dominates(found: RunEvidence) -> Iterable[Diagnosis]:
    shares = {t.name: _median(denoising_shares(t.history)) for t in found.trainings if t.history}
    denoised = {name: share for name, share in shares.items() if share is not None}
    over = {name: share for name, share in denoised.items() if share > DOMINATING_SHARE}
    if over and len(over) >= MANY * len(denoised):
        share = float(np.median(list(over.values())))
        yield Diagnosis(
            problem="denoising_dominates",
            evidence=f"{share:.0%} of the training loss of {_count(over, denoised)} was denoising, not the task",
            figures={"denoising_share": share},
            learners=tuple(sorted(over)),
        )


def _denoising_stalls(found: RunEvidence) -> Iterable[Diagnosis]:
    """An objective whose loss at the end is where it began: its gradients cost steps and teach nothing."""
    fallen: dict[str, dict[str, float]] = {}
    for training in found.trainings:
        for name, losses in (denoising_losses(training.history) if training.history else {}).items():
            if name in _LEARNABLE and len(losses) >= 4 and max(losses) > 0:
                fallen.setdefault(name, {})[training.name] = float(np.mean(losses[-len(losses) // 4 :])) / max(losses)
    medians = {name: float(np.median(list(left.values()))) for name, left in fallen.items()}
    left = {name: share for name, share in medians.items() if share > UNMOVED}
    if left:
        learners = sorted({learner for name in left for learner in fallen[name]})
        said = ", ".join(f"{name} ({share:.0%} of its highest loss was left)" for name, share in left.items())
        yield Diagnosis(
            problem="denoising_stalls",
            objectives=tuple(left),
            evidence=f"denoising objectives that were not learned: {said}, median of {len(learners)} learners",
            figures={f"left/{name}": share for name, share in left.items()},
            learners=tuple(learners),
        )


def _unstable(found: RunEvidence) -> Iterable[Diagnosis]:
    steady = {t.name: stability(supervised_losses(t.history)) for t in found.trainings if t.history}
    known = {name: value for name, value in steady.items() if value is not None}
    rough = {name: value for name, value in known.items() if value < STEADY}
    if rough and len(rough) >= MANY * len(known):
        value = float(np.median(list(rough.values())))
        yield Diagnosis(
            problem="unstable",
            evidence=f"the training loss of {_count(rough, known)} lost what it had gained again: stability "
            f"{value:.2f}",
            figures={"stability": value},
            learners=tuple(sorted(rough)),
        )


def _overfitting(found: RunEvidence) -> Iterable[Diagnosis]:
    scores = {t.name: _overfit(t) for t in found.trainings if t.history and len(t.history.epochs) > 1}
    known = {name: score for name, score in scores.items() if score is not None}
    over = {name: score for name, score in known.items() if score[0] > TWICE and score[2]}
    if over and len(over) >= MANY * len(known):
        score, held_out = (float(np.median([found[i] for found in over.values()])) for i in (0, 1))
        yield Diagnosis(
            problem="overfitting",
            evidence=f"the loss of {_count(over, known)} on rows it never saw was {held_out:.3g} at the end, the "
            f"training loss {held_out * (1 - score):.3g}",
            figures={"overfitting": score, "held_out_loss": held_out},
            learners=tuple(sorted(over)),
        )


def _overfit(training: LearnerTraining) -> tuple[float, float, bool] | None:
    """Overfitting at the last epoch, the held-out loss then, and whether it matters.

    Watched trainings: when the validation loss rose, for a gap alone may cost nothing. Unwatched ones are judged by
    the loss on rows outside the bag, where there is one in the same unit.
    """
    own = supervised_losses(training.history) if training.history else ()
    validated = [value for _, value in training.history.curve("validation/loss")] if training.history else []
    if own and validated:
        risen = generalisation_loss(validated) or 0.0
        matters = risen > RISEN and validated[-1] - min(validated) > GAP
        return overfitting_score(own[-1], validated[-1]), validated[-1], matters
    held_out = training.metrics.get("log_loss")
    if not own or held_out is None:
        return None
    return overfitting_score(own[-1], held_out), held_out, held_out - own[-1] > GAP


def _unfinished(found: RunEvidence) -> Iterable[Diagnosis]:
    """Validation loss that was lowest at the very end, and had not come to rest: all epochs were used up."""
    watched, short = {}, {}
    for training in found.trainings:
        losses = [value for _, value in training.history.curve("validation/loss")] if training.history else []
        if len(losses) < 4 or training.history is None:
            continue
        watched[training.name] = len(losses)
        ended = training.history.stop_reason.startswith("all ")
        converged = convergence_epoch(losses) or 0
        if ended and losses[-1] == min(losses) and converged > 0.8 * len(losses):
            short[training.name] = len(losses)
    if short and len(short) >= MANY * len(watched):
        epochs = max(short.values())
        yield Diagnosis(
            problem="unfinished",
            evidence=f"the validation loss of {_count(short, watched)} was still falling after all {epochs} epochs",
            figures={"epochs": epochs},
            learners=tuple(sorted(short)),
        )


def _noise_modality(found: RunEvidence) -> Iterable[Diagnosis]:
    """Modalities that tell nothing alone and are not missed where there are others.

    Both, for a modality may tell nothing alone and all together with another; and a copy of another is not missed.
    """
    noise = {one: one.association for one in found.modalities if one.association and _is_noise(one, one.association)}
    if not noise or len(noise) == len(found.modalities):
        return
    said = []
    for modality, alone in noise.items():
        most = max(modality.importances, key=lambda one: one.loss_increase)
        said.append(
            f"'{modality.name}' alone ranks {alone.num_rows} rows {alone.strength:.2f} ± {alone.std_error:.2f} better "
            f"than chance (1 is perfect), and shuffling it changes the loss of learners that have others by at most "
            f"{most.loss_increase:.2g} ± {most.std_error:.2g}"
        )
    yield Diagnosis(
        problem="noise_modality",
        modalities=tuple(one.name for one in noise),
        kept=tuple(one.name for one in found.modalities if one not in noise),
        evidence="; ".join(said),
        figures={f"association/{one.name}": alone.strength for one, alone in noise.items()},
    )


def _is_noise(modality: ModalityEvidence, alone: Association) -> bool:
    by_chance = alone.strength < CHANCE * alone.std_error and alone.strength + 2 * alone.std_error < WEAK
    others = modality.importances
    return by_chance and bool(others) and not any(one.is_beyond_noise for one in others)


def _poor_cross_modal(found: RunEvidence) -> Iterable[Diagnosis]:
    poor = [one for one in found.cross_modal if one.shortfall > max(SHORTFALL, 2 * one.std_error)]
    learners = sorted({one.learner for one in poor})
    if learners and len(learners) >= MANY * len({one.learner for one in found.cross_modal}):
        worst = max(poor, key=lambda one: one.shortfall)
        yield Diagnosis(
            problem="poor_cross_modal",
            evidence=f"with {'+'.join(worst.shown)} alone {worst.learner} does {worst.shortfall:.3f} ± "
            f"{worst.std_error:.3f} worse than {worst.rival}, which never had more ({worst.num_rows} rows)",
            figures={"shortfall": worst.shortfall, "std_error": worst.std_error},
            learners=tuple(learners),
        )


def _poor_generalisation(found: RunEvidence) -> Iterable[Diagnosis]:
    """A test score that lies below the score outside the bag by more than the draw of rows explains."""
    for one in found.generalisation:
        spread = math.sqrt(
            one.out_of_bag * (1 - one.out_of_bag) / one.out_of_bag_rows + one.test * (1 - one.test) / one.test_rows
        )  # of the difference of two shares of independent rows
        drop = one.out_of_bag - one.test
        if drop > max(SHORTFALL, 3 * spread):
            yield Diagnosis(
                problem="poor_generalisation",
                evidence=f"{one.learner} scores {one.out_of_bag:.3f} outside its bag and {one.test:.3f} on the test "
                f"split, {drop:.3f} ± {spread:.3f} less: training rows resemble each other more than those to come",
                figures={"drop": drop, "std_error": spread},
                learners=(one.learner,),
            )


def _slow(found: RunEvidence) -> Iterable[Diagnosis]:
    limit, seconds = found.limits.seconds, found.seconds
    if limit is None or seconds is None or seconds <= limit:
        return
    slowest = sorted(found.trainings, key=lambda t: -t.seconds)
    waits = _median([t.speed.data_wait_share for t in found.trainings if t.speed is not None])
    said = "" if waits is None else f"; nets waited for data {waits:.0%} of their time"
    yield Diagnosis(
        problem="slow",
        evidence=f"the run took {format_seconds(seconds)}, {format_seconds(limit)} are allowed; {slowest[0].name} took "
        f"{format_seconds(slowest[0].seconds)}{said}"
        if slowest
        else f"the run took {format_seconds(seconds)}, {format_seconds(limit)} are allowed",
        figures={"seconds": seconds, "limit_seconds": limit, **({} if waits is None else {"data_wait_share": waits})},
        learners=_names(slowest[:3]),
    )


_CHECKS: tuple[Callable[[RunEvidence], Iterable[Diagnosis]], ...] = (
    _diverged,
    _memory,
    _denoising_dominates,
    _unstable,
    _overfitting,
    _poor_cross_modal,
    _noise_modality,
    _poor_generalisation,
    _denoising_stalls,
    _unfinished,
    _slow,
)


def _names(trainings: Iterable[LearnerTraining]) -> tuple[str, ...]:
    return tuple(sorted(training.name for training in trainings))


def _count(some: Mapping[str, object], of: Mapping[str, object]) -> str:
    return f"{len(some)} of {len(of)} nets"


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if len(values) else None
