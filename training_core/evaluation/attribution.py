"""What each modality is worth: its fair share of the score, over every set of modalities it can be added to."""

from collections.abc import Callable, Sequence
from functools import cache
from math import factorial

import numpy as np

from training_core.schema import Pattern
from training_core.seeding import generator

MAX_EXACT = 6
"""Up to so many modalities all their subsets are looked at: 64 of them."""

Worth = Callable[[Pattern], np.ndarray]
"""What a set of modalities is worth, as an array of any fixed shape: a score, or one for each of many resamples."""


def shapley_values(
    names: Sequence[str], worth: Worth, num_permutations: int = 64, seed: int = 0
) -> dict[str, np.ndarray]:
    """Shapley's value of every modality, in the shape `worth` answers with.

    Σ over sets S without m of |S|! (M - |S| - 1)! / M! · (worth(S ∪ m) - worth(S)); Shapley 1953. They sum to
    worth(all) - worth(none). Exact for up to `MAX_EXACT` modalities; of more, the mean over random orders, each also
    read backwards, which keeps that sum exactly (Castro et al. 2009; antithetic: Mitchell et al. 2022,
    arXiv:2104.12199, §4.1).

    Args:
        names: all modalities.
        worth: asked once per set.
        num_permutations: random orders, where there are too many modalities for all sets.
        seed: root of the random orders.
    """
    known = cache(lambda pattern: np.asarray(worth(pattern), dtype=np.float64))
    orders = list(names)
    if len(names) <= MAX_EXACT:
        return {name: _exact(name, names, known) for name in names}
    random = generator(seed, "shapley")
    found = {name: np.zeros_like(known(frozenset())) for name in names}
    half = max(1, num_permutations // 2)
    for _ in range(half):
        order = [orders[i] for i in random.permutation(len(orders))]
        for walk in (order, order[::-1]):
            for place, name in enumerate(walk):
                found[name] += known(frozenset(walk[: place + 1])) - known(frozenset(walk[:place]))
    return {name: total / (2 * half) for name, total in found.items()}


def shares(values: np.ndarray) -> np.ndarray:
    """Values as parts of a whole, [M]: those below 0 count as 0; all 0 when none is above."""
    positive = np.maximum(values, 0.0)
    total = positive.sum()
    return positive / total if total > 0 else np.zeros_like(positive)


def _exact(name: str, names: Sequence[str], worth: Worth) -> np.ndarray:
    others = [other for other in names if other != name]
    total = np.zeros_like(worth(frozenset()))
    for code in range(2 ** len(others)):
        chosen = frozenset(other for i, other in enumerate(others) if code >> i & 1)
        weight = factorial(len(chosen)) * factorial(len(others) - len(chosen)) / factorial(len(names))
        total = total + weight * (worth(chosen | {name}) - worth(chosen))
    return total
