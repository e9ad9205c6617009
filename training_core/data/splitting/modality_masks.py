"""Which modalities each bag of an ensemble has: the subsets that matter one by one, then subsets that are drawn.

Sampling subsets at random misses some and repeats others. With few modalities every subset can be trained on, and
with many at least those can that a row is most likely to be left with: all modalities, all but one, and a single one.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from training_core.errors import ConfigError
from training_core.schema import MAX_ENUMERATED, patterns_to_judge
from training_core.seeding import generator

Mask = tuple[str, ...]
"""The modalities of a bag, in the order of the spec."""
DropoutStrategy = Literal["random", "linear", "exponential", "adaptive"]

_GROWTH = 3.0  # exponential: half of the bags stay below 18 % of the highest rate, the last tenth is above 73 % of it
_MAX_DRAWS = 64  # masks tried before a repeated one is taken: finds a free one of a handful almost surely


def modality_masks(
    names: Sequence[str],
    num_masks: int,
    num_full: int,
    strategy: DropoutStrategy,
    max_dropout: float,
    seed: int,
    utilities: Mapping[str, float] | None = None,
) -> list[Mask]:
    """The masks of an ensemble's bags, those that matter one by one before those that are drawn.

    In this order:

    1. the full set, `num_full` times while there is room, once at least;
    2. every single modality;
    3. with up to 4 modalities and `num_masks` ≥ 2^M - 1 every other subset, the larger ones first; else every set that
       lacks one modality, as far as `num_masks` goes: those that lack the most useful modalities first when
       `utilities` are given, otherwise drawn;
    4. drawn masks. Drawn mask k of K (k = 1 … K) drops modality m, independently of the others, at rate

       - `random`:       r = `max_dropout` · U_k, with U_k uniform in [0, 1];
       - `linear`:       r = `max_dropout` · k/K;
       - `exponential`:  r = `max_dropout` · (e^{3k/K} - 1) / (e³ - 1): most bags lack little, the last ones a lot;
       - `adaptive`:     r = `max_dropout` · k/K · u_m / max(u), where u_m ≥ 0 is the utility of the modality.

    Adaptive drops the modality that tells most by itself as often as `linear` does, and others more rarely, one that
    tells nothing never: what is dominant hides from a learner what the others could tell it, and once learners lean on
    it they lean more. The idea of balancing modalities by what each is capable of is that of Zhao, Zhang and Zou 2025,
    arXiv:2510.10534; the formula is ours. With all utilities 0 it is `linear`.

    A drawn mask that lost every modality keeps one of them, drawn uniformly. One that is in use already is drawn again
    (`random`: at a new rate) up to 64 times, after which the first of those draws is taken: masks differ while
    different ones can be had.

    Args:
        names: of all modalities, M of them.
        num_masks: how many to return; never fewer than 1 + M are (1 when M is 1).
        num_full: how often the full set is wanted.
        strategy: how masks are drawn.
        max_dropout: the highest rate of dropping a modality, in [0, 1].
        seed: of the draws.
        utilities: adaptive: what each modality tells by itself, ≥ 0; one that is not listed counts as the mean of the
            others. Every other strategy takes None.

    Raises:
        ConfigError: `adaptive` without utilities, or utilities that are negative or of no modality.
    """
    names = tuple(names)
    if len(names) == 1:
        return [names] * max(1, num_masks)
    shares = _relative_utilities(names, utilities) if strategy == "adaptive" else np.ones(len(names))
    masks = _listed_masks(names, num_masks, num_full, shares, seed)
    num_drawn = num_masks - len(masks)
    for k in range(1, num_drawn + 1):
        draws = generator(seed, "bag-mask", k)
        masks.append(_unused_mask(names, strategy, max_dropout, k / num_drawn, shares, masks, draws))
    return masks


def dropout_rate(strategy: DropoutStrategy, max_dropout: float, progress: float, draws: np.random.Generator) -> float:
    """The rate r of a drawn mask, see `modality_masks`; `progress` = k/K in (0, 1]. Only `random` draws anything."""
    if strategy == "random":
        return max_dropout * draws.random()
    if strategy == "exponential":
        return max_dropout * math.expm1(_GROWTH * progress) / math.expm1(_GROWTH)
    return max_dropout * progress


def draw_mask(names: Sequence[str], rates: np.ndarray, draws: np.random.Generator) -> Mask:
    """A mask that lacks each modality at its rate, [M] in [0, 1]; one is kept, drawn uniformly, where all would go."""
    kept = draws.random(len(names)) >= rates
    if not kept.any():
        kept[draws.integers(len(names))] = True
    return tuple(name for name, keep in zip(names, kept, strict=True) if keep)


def _listed_masks(names: Mask, num_masks: int, num_full: int, shares: np.ndarray, seed: int) -> list[Mask]:
    """Parts 1 to 3 of `modality_masks`."""
    patterns = patterns_to_judge(names)
    between = [tuple(n for n in names if n in pattern) for pattern in patterns if 1 < len(pattern) < len(names)]
    every = len(names) <= MAX_ENUMERATED and num_masks >= 2 ** len(names) - 1
    others = len(names) + (len(between) if every else 0)
    masks = [names] * min(num_full, max(1, num_masks - others)) + [(name,) for name in names]
    if every:
        return masks + between
    lacking_one = [mask for mask in between if len(mask) == len(names) - 1]
    room = max(0, num_masks - len(masks))
    if room < len(lacking_one):
        at_random = generator(seed, "leave-one-out").permutation(len(lacking_one))
        lacks = np.array([next(i for i, n in enumerate(names) if n not in mask) for mask in lacking_one])
        order = np.lexsort((at_random, -shares[lacks]))
        lacking_one = [lacking_one[i] for i in order[:room]]
    return masks + lacking_one


def _unused_mask(
    names: Mask,
    strategy: DropoutStrategy,
    max_dropout: float,
    progress: float,
    shares: np.ndarray,
    used: list[Mask],
    draws: np.random.Generator,
) -> Mask:
    """The first draw not in `used`, else the first draw."""
    first: Mask = ()
    for _ in range(_MAX_DRAWS):
        mask = draw_mask(names, dropout_rate(strategy, max_dropout, progress, draws) * shares, draws)
        if mask not in used:
            return mask
        first = first or mask
    return first


def _relative_utilities(names: Mask, utilities: Mapping[str, float] | None) -> np.ndarray:
    """u_m / max(u) of each modality, [M] in [0, 1]; all 1 when no utility is above 0."""
    if utilities is None:
        raise ConfigError(
            "adaptive bags need the utility of each modality, what it tells by itself; measure them with a first round "
            "of learners of single modalities, or choose strategy `linear`"
        )
    for name, value in utilities.items():
        if name not in names:
            raise ConfigError(f"a utility is given for '{name}', which is no modality; there are {', '.join(names)}")
        if not (value >= 0 and math.isfinite(value)):
            raise ConfigError(f"the utility of '{name}' is {value}; give a finite number of 0 or more")
    mean = sum(utilities.values()) / len(utilities) if utilities else 0.0
    values = np.array([utilities.get(name, mean) for name in names], np.float64)
    return values / values.max() if values.max() > 0 else np.ones(len(names))
