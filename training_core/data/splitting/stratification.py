"""Sharing rows out over parts so that every label, or pair of labels, keeps its frequency in each of them."""

import heapq
from collections.abc import Sequence
from typing import Literal

import numpy as np


def share_out(
    labels: np.ndarray,
    fractions: Sequence[float],
    draws: np.random.Generator,
    *,
    order: Literal[1, 2] = 1,
    random_rounding: bool = False,
) -> np.ndarray:
    """The part of each row, by iterative stratification.

    The label with the fewest rows left comes first. Each of its rows goes where most of that label is still wanted;
    among several such parts, where most rows are wanted; among several, to a random one. Rows without a label fill
    what is wanted last. Rare labels come out exact to about a row; common ones, most of whose rows were shared out
    for rarer labels, and the sizes of parts to about a percent.

    Sechidis, Tsoumakas and Vlahavas 2011, "On the Stratification of Multi-label Data", algorithm 1; with `order` 2
    pairs of labels are shared out as well as single ones (Szymański and Kajdanowicz 2017, "A Network Perspective on
    Stratification of Multi-Label Data").

    Args:
        labels: bool [N, L] (or numbers, true above one half; NaN is false).
        fractions: wanted share of each part; they sum to 1.
        draws: of the order of rows and of ties.
        order: 1 for labels, 2 for pairs too.
        random_rounding: wanted numbers are whole ones, each part's correct on average. One row then goes to each
            part with the probability of its fraction, instead of always to the largest.

    Returns:
        int64 [N] in [0, parts).
    """
    num_rows = len(labels)
    row_of, item_of, num_items = _items(np.asarray(labels) > 0.5, order)
    shuffle = draws.permutation(num_rows)
    by_row = np.argsort(row_of, kind="stable")
    items, row_starts = item_of[by_row], np.searchsorted(row_of[by_row], np.arange(num_rows + 1))
    by_item = np.lexsort((shuffle[row_of], item_of))  # the rows of an item stand in random order
    rows, item_starts = row_of[by_item], np.searchsorted(item_of[by_item], np.arange(num_items + 1))

    left = np.diff(item_starts)
    wanted = _wanted(left, fractions, draws if random_rounding else None)  # [items, parts]
    room = _wanted(np.asarray([num_rows]), fractions, draws if random_rounding else None)[0].tolist()
    tie = draws.random(num_rows).tolist()
    part = np.full(num_rows, -1, np.int64)
    while (open_items := np.flatnonzero(left > 0)).size:
        item = open_items[np.argmin(left[open_items])]
        for row in rows[item_starts[item] : item_starts[item + 1]]:
            if part[row] >= 0:
                continue
            chosen = _most_wanted(wanted[item].tolist(), room, tie[row])
            own = items[row_starts[row] : row_starts[row + 1]]
            part[row] = chosen
            wanted[own, chosen] -= 1
            left[own] -= 1
            room[chosen] -= 1
    queue = [(-space, draws.random(), index) for index, space in enumerate(room)]
    heapq.heapify(queue)
    for row in shuffle[part[shuffle] < 0]:
        space, tie_break, index = queue[0]
        part[row] = index
        heapq.heapreplace(queue, (space + 1, tie_break, index))
    return part


def deal(codes: np.ndarray, fractions: Sequence[float], draws: np.random.Generator) -> np.ndarray:
    """The part of each row, int64 [N] in [0, parts): class by class, numbers rounded at random.

    Each part gets a whole number of rows of each class (`codes` [N]), within one of its fraction and on average equal
    to it, so that rows arriving one at a time are shared out in these fractions too.
    """
    _, stratum, totals = np.unique(codes, return_inverse=True, return_counts=True)
    wanted = _wanted(totals, fractions, draws).astype(np.int64)
    part = np.empty(len(codes), np.int64)
    parts = np.tile(np.arange(len(fractions)), len(totals))
    part[np.lexsort((draws.permutation(len(codes)), stratum))] = np.repeat(parts, wanted.ravel())
    return part


def one_hot(codes: np.ndarray) -> np.ndarray:
    """Class codes [N] as labels, bool [N, classes there are]."""
    distinct, position = np.unique(codes, return_inverse=True)
    return position[:, None] == np.arange(len(distinct))


def spread(part: np.ndarray, labels: np.ndarray, num_parts: int) -> np.ndarray:
    """`part` [N] changed so that no label with several rows has all of them in one part, where that can be had.

    A row is moved to the smallest part where it takes no other label's last row elsewhere along.
    """
    part, labels = part.copy(), np.asarray(labels) > 0.5
    sizes = np.bincount(part, minlength=num_parts)
    counts = np.stack([labels[part == index].sum(axis=0) for index in range(num_parts)])  # [parts, labels]
    totals = counts.sum(axis=0)
    for label in np.flatnonzero((totals > 1) & ((counts > 0).sum(axis=0) == 1)):
        home = int(counts[:, label].argmax())
        if counts[home, label] != totals[label]:
            continue  # an earlier move has mended it
        for row in np.flatnonzero(labels[:, label] & (part == home)):
            own = labels[row] & (totals > 1)
            after = counts[:, own] + 1
            harmless = [p for p in range(num_parts) if p != home and (after[p] < totals[own]).all()]
            harmless = harmless if sizes[home] > 1 else []
            if harmless:
                target = min(harmless, key=lambda p: sizes[p])
                part[row] = target
                counts[home] -= labels[row]
                counts[target] += labels[row]
                sizes[home] -= 1
                sizes[target] += 1
                break
    return part


def _items(labels: np.ndarray, order: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Which rows have which items (labels; with order 2 pairs too), as two lists, and how many items there are."""
    num_labels = labels.shape[1]
    row_of, item_of = np.nonzero(labels)
    if order == 1 or not len(row_of):
        return row_of, item_of, num_labels
    rows, pairs = [row_of], [item_of]
    numbers = np.zeros((num_labels, num_labels), np.int64)
    numbers[np.triu_indices(num_labels, 1)] = num_labels + np.arange(num_labels * (num_labels - 1) // 2)
    for label in range(num_labels - 1):
        having = np.flatnonzero(labels[:, label])
        found, other = np.nonzero(labels[having, label + 1 :])
        rows.append(having[found])
        pairs.append(numbers[label, other + label + 1])
    return np.concatenate(rows), np.concatenate(pairs), num_labels + num_labels * (num_labels - 1) // 2


def _wanted(totals: np.ndarray, fractions: Sequence[float], draws: np.random.Generator | None) -> np.ndarray:
    """How many of `totals` [items] each part should get, float [items, parts]; with `draws` whole numbers."""
    exact = np.outer(totals, fractions)
    if draws is None:
        return exact
    edges = np.floor(np.cumsum(exact, axis=1) + draws.random((len(totals), 1)) + 1e-9)
    edges[:, -1] = totals  # the last edge is total + u, whose floor is the total but for rounding
    return np.diff(edges, axis=1, prepend=0.0)


def _most_wanted(wanted: list[float], room: list[float], tie: float) -> int:
    """The part that wants most; among equals the one with most room, then a random one."""
    most = max(wanted)
    best = [index for index, value in enumerate(wanted) if value == most]
    if len(best) > 1:
        widest = max(room[index] for index in best)
        best = [index for index in best if room[index] == widest]
    return best[int(tie * len(best))]
