"""Learners that were trained alike on different folds, taken for one while weights are learned.

Each member of such a team is out of bag on a fold of its own. Compared one by one, the member with the easiest fold
would win; together they speak for every row, one of them for each, and are compared on the same rows as other teams.
"""

from collections.abc import Sequence

import numpy as np


def team_positions(teams: Sequence[str]) -> np.ndarray:
    """The team of each of L learners, int64 [L], teams counted from 0 in the order of their first member."""
    first = {name: position for position, name in enumerate(dict.fromkeys(teams))}
    return np.array([first[name] for name in teams], np.int64)


def joined_predictions(predictions: np.ndarray, team_of: np.ndarray) -> np.ndarray:
    """What each team says, [T, N, C]: the mean of its members that speak for a row, NaN where none does.

    `predictions` [L, N, C] is NaN where a learner does not speak; `team_of` as `team_positions` gives it. Where every
    team has one member this is `predictions` itself.
    """
    num_teams = int(team_of.max(initial=-1)) + 1
    if num_teams == len(predictions):
        return predictions
    speaks = np.asarray(np.isfinite(predictions).all(axis=2))
    total = np.zeros((num_teams, *predictions.shape[1:]))
    speakers = np.zeros((num_teams, predictions.shape[1]))
    np.add.at(total, team_of, np.where(speaks[..., None], predictions, 0.0))
    np.add.at(speakers, team_of, speaks)
    return total / np.where(speakers > 0, speakers, np.nan)[..., None]


def member_weights(weights: np.ndarray, team_of: np.ndarray) -> np.ndarray:
    """The weight of each learner, [L], when the members of a team share its weight, [T], equally."""
    return weights[team_of] / np.bincount(team_of)[team_of]
