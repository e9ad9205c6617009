"""Greedy ensemble selection with replacement: Caruana et al. 2004, "Ensemble Selection from Libraries of Models".

Start from the best learner, then add, over and over, the one whose addition lowers the loss most; weights are the
counts. Against overfitting: sorted initialisation (§2.2) and bagged selection (§2.3), and the best prefix is kept.
"""

import numpy as np

from training_core.evaluation.calibration import LEAST_PROBABILITY
from training_core.schema import TaskSpec
from training_core.seeding import generator
from training_core.selection.pooling import speaks

_SORTED_START = 5
"""At most so many learners are taken from the top of the ranking before the search is free."""
_TIE = 1e-9
"""Losses closer than this are equal, and a learner already in use is preferred."""


def greedy_weights(
    task: TaskSpec, target: np.ndarray, predictions: np.ndarray, max_rounds: int, num_bags: int, seed: int
) -> np.ndarray:
    """Weights [L], sum 1, from out-of-bag `predictions` [L, N, C] (NaN: in the bag) and their `target`.

    Out of bag, different rows are spoken for by different learners. A row that no chosen learner speaks for is scored
    with the plain mean of all who do, so every candidate is judged on the same rows against the same reference.
    `num_bags` > 1: the selection is repeated on that many random halves of the learners and the weights are averaged.
    """
    spoken = speaks(predictions)
    rows = spoken.any(axis=0)
    num_learners = len(predictions)
    if num_learners == 1 or not rows.any():
        return np.full(num_learners, 1.0 / num_learners)
    cover = spoken[:, rows].astype(np.float64)
    parts = np.where(spoken[:, rows, None], _parts(task, target[rows], predictions[:, rows]), 0.0)
    if num_bags <= 1 or num_learners < 4:
        return _select(task, parts, cover, np.arange(num_learners), max_rounds)
    weights = np.zeros(num_learners)
    for index in range(num_bags):
        order = generator(seed, "bagged-selection", index).permutation(num_learners)
        weights += _select(task, parts, cover, np.sort(order[: (num_learners + 1) // 2]), max_rounds)
    return weights / num_bags


def _parts(task: TaskSpec, target: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """What a loss needs of a prediction, in a form that pools like it, [L, N, D].

    The probability of the truth (classification, D = 1; multilabel, per label), or the scaled error (regression).
    """
    if task.kind == "classification":
        return predictions[:, np.arange(len(target)), target][..., None]
    if task.kind == "multilabel":
        return np.where(target > 0.5, predictions, 1.0 - predictions)
    return (predictions - target) / np.maximum(target.std(axis=0), 1e-12)


def _row_losses(task: TaskSpec, pooled: np.ndarray) -> np.ndarray:
    """Loss per row of pooled parts [..., N, D] -> [..., N]."""
    if task.kind == "regression":
        return np.mean(pooled**2, axis=-1)
    return np.mean(-np.log(np.clip(pooled, LEAST_PROBABILITY, 1.0)), axis=-1)


def _select(
    task: TaskSpec, parts: np.ndarray, cover: np.ndarray, candidates: np.ndarray, max_rounds: int
) -> np.ndarray:
    """One greedy run among `candidates` (sorted positions)."""
    reference = parts.sum(axis=0) / cover.sum(axis=0)[:, None]

    def losses_with(added: np.ndarray, mixed: np.ndarray, total: np.ndarray) -> np.ndarray:
        """Mean loss, [len(added)], of what is chosen so far with each of `added` put in."""
        totals = total + cover[added]
        pooled = (mixed + parts[added]) / np.where(totals > 0, totals, 1.0)[..., None]
        return _row_losses(task, np.where(totals[..., None] > 0, pooled, reference)).mean(axis=1)

    counts, mixed, total = np.zeros(len(parts)), np.zeros_like(reference), np.zeros(len(reference))
    best_loss, best_counts = np.inf, counts
    ranked = candidates[np.argsort(losses_with(candidates, mixed, total), kind="stable")]
    for step in range(max_rounds):
        # Sorted initialisation: the first learners are taken from the top of the ranking, if that helps.
        pick_from = ranked[step : step + 1] if step < min(_SORTED_START, len(ranked)) else candidates
        losses = losses_with(pick_from, mixed, total)
        place = int(np.argmin(losses - _TIE * (counts[pick_from] > 0)))
        if step < _SORTED_START and losses[place] > best_loss:
            losses = losses_with(candidates, mixed, total)
            pick_from, place = candidates, int(np.argmin(losses - _TIE * (counts[candidates] > 0)))
        chosen = pick_from[place]
        counts = counts.copy()
        counts[chosen] += 1
        mixed, total = mixed + parts[chosen], total + cover[chosen]
        if losses[place] < best_loss - _TIE:
            best_loss, best_counts = losses[place], counts
    return best_counts / best_counts.sum()
