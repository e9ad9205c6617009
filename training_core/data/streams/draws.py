"""Random numbers that are a hash of who draws and where: many learners draw at once, and each as it would alone.

A generator deals its numbers one after the other, so what one learner is dealt depends on how many others there are.
Here a draw is a function of a key and a place, and the same on every device.
"""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15
"""2⁶⁴ over the golden ratio: its multiples are spread evenly (Steele et al. 2014, doi:10.1145/2660193.2660195)."""
NUM_LEVELS = 2**16
"""Of a draw: rates are kept to within a 130,000th."""


def mixed(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele et al. 2014), uint64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def as_keys(values: np.ndarray) -> Tensor:
    """The upper halves of uint64 values as int32, the keys of `hashed`."""
    return torch.from_numpy((values >> np.uint64(32)).astype(np.uint32).view(np.int32))


def places(number: int, device: torch.device) -> Tensor:
    """Where each draw begins, int32 [number]: a constant of a program."""
    spread = torch.arange(number, device=device) * (GOLDEN >> 32) & 0xFFFFFFFF
    return (spread - (spread >> 31 << 32)).to(torch.int32)


def hashed(values: Tensor) -> Tensor:
    """A hash of int32 values: two rounds of shift and product, with the factors of lowbias32.

    They are from https://github.com/skeeto/hash-prospector. int32 is what torch multiplies fastest on a CPU. Its shifts
    keep the sign, so that two values share a hash; a last shift would leave the sign bit always 0 and is left out.
    """
    values = (values ^ (values >> 16)) * 0x21F0AAAD
    return (values ^ (values >> 15)) * 0x735A2D97


def limits(kept: Tensor) -> Tensor:
    """The highest draw that is kept when a share `kept` (float64) of all is, int16."""
    # The lowest draw is minus half the levels; where nothing is dropped the limit is the highest there is.
    return ((kept * NUM_LEVELS).round() - (NUM_LEVELS // 2 + 1)).to(torch.int16)


def draws(keys: Tensor, number: int) -> Tensor:
    """For each of `keys` (int32 [...]) that many even draws of all 2¹⁶ levels, int16 [..., number]."""
    found = hashed(places(-(-number // 2), keys.device) + keys.unsqueeze(-1))
    return found.view(torch.int16)[..., :number]  # two draws of 16 bits from each hash of 32


def normal_draws(keys: Tensor, number: int) -> Tensor:
    """For each of `keys` (int32 [...]) that many draws of the standard normal distribution, float32 [..., number].

    The quantiles of the levels, so nothing is further out than 4.3 standard deviations.
    """
    found = draws(keys, number)
    levels = found.to(torch.int32).add_(NUM_LEVELS // 2)
    return _quantiles(keys.device).index_select(0, levels.view(-1)).view(found.shape)


@lru_cache
def _quantiles(device: torch.device) -> Tensor:
    """Of the standard normal distribution at the middle of each level, scaled to a variance of 1."""
    middles = (torch.arange(NUM_LEVELS, dtype=torch.float64) + 0.5) / NUM_LEVELS
    quantiles = torch.special.ndtri(middles)
    return (quantiles / quantiles.square().mean().sqrt()).to(device, torch.float32)
