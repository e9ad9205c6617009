"""Figures of loss curves, against curves whose figures are known."""

import math

import pytest

from training_core.engine.loop import History
from training_core.evaluation.convergence import (
    convergence_epoch,
    convergence_rate,
    denoising_losses,
    denoising_shares,
    generalisation_loss,
    judged_losses,
    overfitting_score,
    stability,
    supervised_losses,
)


def history(*epochs: dict[str, float]) -> History:
    return History(epochs=epochs, num_steps=len(epochs), stop_reason="all epochs done")


@pytest.mark.parametrize("kept", [0.5, 0.8, 0.95])
def test_a_geometric_curve_has_the_rate_it_was_made_with(kept: float) -> None:
    losses = [3 + 2 * kept**epoch for epoch in range(1000)]
    assert convergence_rate(losses) == pytest.approx(1 - kept, rel=1e-3)
    assert convergence_epoch(losses) == 1 + math.ceil(math.log(0.05) / math.log(kept))


@pytest.mark.parametrize("losses", [[], [1.0], [1.0, 2.0], [1.0, 1.0]])
def test_what_never_fell_has_not_converged(losses: list[float]) -> None:
    assert convergence_epoch(losses) is None
    assert convergence_rate(losses) is None


@pytest.mark.parametrize(
    ("losses", "steady"),
    [
        ([3, 2, 1], 1.0),
        ([1, 2, 3], 0.0),
        ([4, 1, 4, 1], 0.75),
        ([2, 2], 1.0),
        ([0, 0], 1.0),
        ([0, 1], 0.0),
        ([1], None),
    ],
)
def test_stability_is_how_little_is_lost_again(losses: list[float], steady: float | None) -> None:
    assert stability(losses) == steady


def test_jitter_at_the_end_of_a_large_fall_is_steady() -> None:
    assert (stability([1.0, 0.5, 0.2, 0.1, *([0.12, 0.1] * 100)]) or 0) > 0.95


def test_where_nothing_can_be_learned_jitter_is_steady() -> None:
    assert (stability([1.1, 1.11, 1.09, 1.1, 1.12]) or 0) > 0.8


def test_overfitting_is_between_none_and_all() -> None:
    assert overfitting_score(0.5, 1.0) == 0.5
    assert overfitting_score(2.0, 1.0) == 0.0
    assert overfitting_score(0.0, 1.0) == 1.0
    assert overfitting_score(0.1, 0.0) == 0.0


def test_the_generalisation_loss_is_prechelts() -> None:
    assert generalisation_loss([2.0, 1.0, 1.5]) == pytest.approx(0.5)
    assert generalisation_loss([2.0, 1.0]) == 0.0
    assert generalisation_loss([]) is None


def test_losses_are_told_apart_by_their_names() -> None:
    one = history(
        {
            "training/loss": 3.0,
            "training/supervised/cross_entropy": 1.0,
            "training/denoising/total": 2.0,
            "training/denoising/alignment": 20.0,
            "training/denoising/alignment/left": 5.0,
            "validation/loss": 1.5,
        },
        {"training/loss": 1.0, "training/supervised/cross_entropy": 1.0, "training/denoising/alignment": 0.0},
    )
    assert supervised_losses(one) == (1.0, 1.0)
    assert denoising_losses(one) == {"alignment": (20.0, 0.0)}
    assert denoising_shares(one) == (pytest.approx(2 / 3), 0.0)
    assert judged_losses(one) == (1.5,)


def test_without_denoising_the_loss_is_the_tasks_own() -> None:
    plain = history({"training/loss": 2.0}, {"training/loss": 1.0})
    assert supervised_losses(plain) == judged_losses(plain) == (2.0, 1.0)
    assert denoising_shares(plain) == ()
    assert supervised_losses(history({})) == judged_losses(history({})) == ()
