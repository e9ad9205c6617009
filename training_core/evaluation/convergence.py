"""What a curve of losses says about a training: when it converged, how steadily, and whether it overfitted.

Every function takes values epoch by epoch, the first of epoch 1, and says None where they do not tell.
"""

import itertools
from collections.abc import Sequence

from training_core.engine.loop import History

CONVERGED_SHARE = 0.95
"""Of the way from the first loss to the best one, by which a training counts as converged: the rest is polish."""


def judged_losses(history: History) -> tuple[float, ...]:
    """The loss on validation rows per epoch, or on training rows where nothing was validated; empty without either."""
    found = history.curve("validation/loss") or history.curve("training/loss")
    return tuple(value for _, value in found)


def supervised_losses(history: History) -> tuple[float, ...]:
    """The loss of the task itself on training rows per epoch, whatever was trained towards besides."""
    return tuple(
        sum(terms) if (terms := _terms(epoch, "training/supervised/")) else epoch["training/loss"]
        for epoch in history.epochs
        if "training/loss" in epoch or _terms(epoch, "training/supervised/")
    )


def convergence_epoch(losses: Sequence[float]) -> int | None:
    """The epoch, from 1, by which `CONVERGED_SHARE` of the fall from the first to the lowest loss was done.

    None when the first loss is the lowest, or there is none.
    """
    if not losses or min(losses) >= losses[0]:
        return None
    limit = losses[0] - CONVERGED_SHARE * (losses[0] - min(losses))
    return next(epoch for epoch, loss in enumerate(losses, start=1) if loss <= limit)


def convergence_rate(losses: Sequence[float]) -> float | None:
    """The share of the excess over the lowest loss that an epoch removes, geometric mean up to convergence; 0..1.

    A loss that falls as a + b·qᵗ has rate 1 - q. None where `convergence_epoch` is.
    """
    epoch = convergence_epoch(losses)
    if epoch is None:
        return None
    left = (losses[epoch - 1] - min(losses)) / (losses[0] - min(losses))
    return 1.0 - left ** (1.0 / (epoch - 1))


def stability(losses: Sequence[float]) -> float | None:
    """How steadily a loss fell: 1 for one that only falls, 0 for one that loses all it gained; None under 2 epochs.

    1 - mean over epochs of Lₜ - min{L₁ … Lₜ}, the loss's rise above its lowest so far, over L₁ - min L, its whole fall;
    at least 0. A fall of less than a tenth of the first loss counts as a tenth, so that a loss with nothing to learn,
    which only jitters, is steady too.
    """
    if len(losses) < 2:
        return None
    lowest = list(itertools.accumulate(losses, min))
    risen = sum(loss - low for loss, low in zip(losses, lowest, strict=True)) / len(losses)
    fall = max(losses[0] - lowest[-1], 0.1 * abs(losses[0]))
    return max(0.0, 1.0 - risen / fall) if fall > 0 else float(risen == 0)


def overfitting_score(training_loss: float, held_out_loss: float) -> float:
    """How far the loss on rows never seen lies above that on training rows: 1 - training / held out, 0..1.

    0: no gap; ½: twice the loss. Losses are of the same kind and at least 0. A training loss measured while units and
    modalities were dropped out is too high, so the score says rather too little.
    """
    return min(1.0, max(0.0, 1.0 - training_loss / held_out_loss)) if held_out_loss > 0 else 0.0


def generalisation_loss(validation_losses: Sequence[float]) -> float | None:
    """By what share of the lowest validation loss the last one lies above it; None without any, or where it is 0.

    Prechelt 1998, "Early stopping - but when?", doi:10.1007/3-540-49430-8_3, §2.1: GL(t) = E_va(t) / E_opt(t) - 1.
    """
    if not validation_losses or min(validation_losses) <= 0:
        return None
    return validation_losses[-1] / min(validation_losses) - 1.0


def denoising_losses(history: History) -> dict[str, tuple[float, ...]]:
    """The loss of each denoising objective per epoch, unweighted, by the objective's name; empty without denoising."""
    prefix = "training/denoising/"
    names = {key.removeprefix(prefix) for epoch in history.epochs for key in epoch if key.startswith(prefix)}
    objectives = sorted(name for name in names if "/" not in name and name != "total")
    return {name: tuple(value for _, value in history.curve(prefix + name)) for name in objectives}


def denoising_shares(history: History) -> tuple[float, ...]:
    """Per epoch the share of the training loss, 0..1, that is not the task's own; empty without denoising."""
    shares = []
    for epoch in history.epochs:
        own = _terms(epoch, "training/supervised/")
        denoises = any(key.startswith("training/denoising/") for key in epoch)
        if own and denoises and epoch.get("training/loss", 0.0) > 0:
            shares.append(min(1.0, max(0.0, 1.0 - sum(own) / epoch["training/loss"])))
    return tuple(shares)


def _terms(epoch: dict[str, float], prefix: str) -> list[float]:
    return [value for key, value in epoch.items() if key.startswith(prefix)]
