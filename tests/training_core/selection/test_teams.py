"""Learners of one kind trained on different folds are weighed together."""

from typing import Any

import numpy as np
import pytest

from training_core.evaluation.calibration import LEAST_PROBABILITY
from training_core.schema import TaskSpec
from training_core.selection.combination import CombinationConfig, combine_pattern
from training_core.selection.teams import joined_predictions, member_weights, team_positions


def test_teams_are_counted_in_the_order_of_their_first_members() -> None:
    assert team_positions(("b", "a", "b", "c", "a")).tolist() == [0, 1, 0, 2, 1]
    assert team_positions(()).tolist() == []


def test_a_team_says_the_mean_of_its_members_that_speak() -> None:
    nothing = [np.nan, np.nan]
    predictions = np.array([[[0.2, 0.8], nothing, nothing], [[0.6, 0.4], [0.1, 0.9], nothing], [nothing] * 3])
    joined = joined_predictions(predictions, np.array([0, 0, 1]))
    expected = np.array([[[0.4, 0.6], [0.1, 0.9], nothing], [nothing] * 3])
    np.testing.assert_allclose(joined, expected)
    assert joined_predictions(predictions, np.array([0, 1, 2])) is predictions


def test_members_share_the_weight_of_their_team() -> None:
    shared = member_weights(np.array([0.6, 0.4]), np.array([0, 1, 0, 0]))
    np.testing.assert_allclose(shared, [0.2, 0.4, 0.2, 0.2])


def in_folds(
    num_rows: int, num_folds: int, noise: float, hard: np.ndarray, target: np.ndarray, seed: int
) -> np.ndarray:
    """Out-of-bag probabilities of a learner's folds, [folds, rows, 2]; `hard` rows are coin tosses to it."""
    draws = np.random.default_rng(seed)
    logit = np.where(hard, 0.0, 3.0 * (2 * target - 1)) + noise * draws.normal(size=num_rows)
    chance = np.clip(1 / (1 + np.exp(-logit)), LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    said = np.full((num_folds, num_rows, 2), np.nan)
    fold = np.arange(num_rows) % num_folds
    said[fold, np.arange(num_rows)] = np.stack([1 - chance, chance], axis=1)
    return said


@pytest.fixture(scope="module")
def world() -> dict[str, Any]:
    """Two kinds of learner in three folds each; the rows of fold 2 are easy, those of the others often hard."""
    draws = np.random.default_rng(0)
    target = draws.integers(0, 2, 900)
    hard = (draws.random(900) < 0.4) & (np.arange(900) % 3 != 2)
    good, poor = (in_folds(900, 3, noise, hard, target, seed) for seed, noise in ((1, 1.0), (2, 4.0)))
    return {
        "task": TaskSpec.classification(2),
        "target": target,
        "predictions": np.concatenate([good, poor]),
        "names": tuple(f"{kind}-{fold}" for kind in ("good", "poor") for fold in range(3)),
        "config": CombinationConfig(),
        "seed": 0,
    }


@pytest.mark.parametrize("method", ["likelihood", "greedy"])
def test_every_fold_of_a_learner_has_the_same_weight(world: dict[str, Any], method: str) -> None:
    config = CombinationConfig.model_validate({"method": method})
    teams = ("good",) * 3 + ("poor",) * 3
    learned = combine_pattern(**{**world, "config": config}, teams=teams)
    assert learned.num_rows == 900
    for kind in ("good", "poor"):
        of_kind = {learned.weights.get(f"{kind}-{fold}", 0.0) for fold in range(3)}
        assert len(of_kind) == 1
    assert learned.weights["good-0"] > learned.weights.get("poor-0", 0.0)
    assert sum(learned.weights.values()) == pytest.approx(1.0)
    assert learned.best_single == "good-0"


def test_teams_of_one_change_nothing(world: dict[str, Any]) -> None:
    assert combine_pattern(**world) == combine_pattern(**world, teams=world["names"])
