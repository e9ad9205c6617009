"""What every modality is worth to an ensemble, out of bag: the loss it saves."""

from collections.abc import Mapping, Sequence

import numpy as np

from training_core.schema import Pattern
from training_core.selection.units import BEYOND_NOISE, mean_error, of_rows

_ONLY_TOGETHER = 0.2
"""Share of all that is saved which a modality that tells nothing alone must save, last to the others, to count. Hiding
a modality also silences learners that cannot do without it, so hiding pure noise costs a little, too."""


def modality_worth(
    losses: Mapping[Pattern, np.ndarray],
    ignorant: np.ndarray,
    names: Sequence[str],
    units: np.ndarray | None = None,
) -> dict[str, float]:
    """The loss each modality saves: alone against nothing, or last to all the others, whichever is more.

    Alone only, a modality that tells something together with another would be worth nothing; last only, none of two
    that tell the same. A saving that is not beyond two standard errors of the paired difference is none.

    Args:
        losses: per pattern, the ensemble's loss per row [n], NaN where it says nothing; the full set, every single
            modality and every one left out are looked at, as far as they are given.
        ignorant: [n], the loss of an answer without any input.
        names: of all modalities.
        units: int64 [n], rows that belong together; see `units.units_of`.
    """
    full = frozenset(names)
    together = _saving(ignorant, losses.get(full), units)
    worth = {}
    for name in names:
        alone, last = (
            _saving(ignorant, losses.get(frozenset({name})), units),
            _saving(losses.get(full - {name}), losses.get(full), units),
        )
        worth[name] = max(alone, last) if alone or last > _ONLY_TOGETHER * together else 0.0
    return worth


def _saving(before: np.ndarray | None, after: np.ndarray | None, units: np.ndarray | None) -> float:
    if before is None or after is None:
        return 0.0
    gain = before - after
    known = np.isfinite(gain)
    gain = gain[known]
    if not len(gain) or gain.mean() <= BEYOND_NOISE * mean_error(gain, of_rows(units, known)):
        return 0.0
    return float(gain.mean())


def modality_shares(
    weights: Mapping[str, float],
    modalities: Mapping[str, Sequence[str]],
    worth: Mapping[str, float],
    names: Sequence[str],
) -> dict[str, float]:
    """How the weight of learners falls on the modalities they look at, sum 1 (or all 0 without any weight).

    A learner's weight is divided among its modalities in the ratio of their worth, evenly where those are all 0.

    Args:
        weights: per learner.
        modalities: per learner, what it looks at; one without any takes no part.
        worth: per modality, not negative; 0 where none is given.
        names: of all modalities.
    """
    shares = dict.fromkeys(names, 0.0)
    for name, weight in weights.items():
        own = modalities[name]
        total = sum(worth.get(modality, 0.0) for modality in own)
        for modality in own:
            shares[modality] += weight * (worth.get(modality, 0.0) / total if total > 0 else 1.0 / len(own))
    whole = sum(shares.values())
    return {name: share / whole if whole else 0.0 for name, share in shares.items()}
