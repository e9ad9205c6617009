"""How numbers that tell something appear: as a vector, a table, an image, a sequence or a text."""

from typing import TYPE_CHECKING

import numpy as np

from training_core.data.synthetic.config import SEQUENCE_FEATURES, SyntheticModality

if TYPE_CHECKING:
    import pandas as pd


_QUARTILES = (-0.6745, 0.0, 0.6745)  # of the standard normal distribution
_LEVELS = np.linspace(-2.5, 4.5, 15)  # steps of one half, from where noise is to where a strong signal is
_IDLE_WORDS = 60


def numbers_of(
    told: np.ndarray, modality: SyntheticModality, offset: np.ndarray | float, draws: np.random.Generator
) -> np.ndarray:
    """What a modality tells, [N, K], among other standard normal numbers, [N, D].

    The K directions that tell are random and orthonormal; along them the numbers are `told`, elsewhere noise, so
    nothing is lost and nothing added. `offset` [N, D] comes on top. For a text D is K and nothing is hidden.
    """
    if modality.kind == "text":
        return told + offset
    basis, _ = np.linalg.qr(draws.standard_normal((modality.width, told.shape[1])))
    noise = draws.standard_normal((len(told), modality.width))
    return noise + (told - noise @ basis) @ basis.T + offset


def shown(
    numbers: np.ndarray, modality: SyntheticModality, missing: np.ndarray, draws: np.random.Generator
) -> "np.ndarray | pd.DataFrame | list[str | None]":
    """Numbers [N, D] in the form of the modality, rows that are `missing` [N] emptied.

    - vector [N, size], image [N, 1, size, size], sequence [N, size, 3]: the numbers, float32, NaN where missing.
    - table: the numbers, and as categories quartiles of some of them, named a to d.
    - text: per output one word for every half standard deviation it is above -2.5, in between words without meaning.
    """
    if modality.kind == "text":
        return _texts(numbers, modality.size, missing, draws)
    if modality.kind == "tabular":
        return _table(numbers, modality.num_categorical, missing)
    shapes = {
        "vector": (modality.size,),
        "image": (1, modality.size, modality.size),
        "sequence": (modality.size, SEQUENCE_FEATURES),
    }
    values = numbers.reshape(len(numbers), *shapes[modality.kind]).astype(np.float32)
    values[missing] = np.nan
    return values


def _table(numbers: np.ndarray, num_categorical: int, missing: np.ndarray) -> "pd.DataFrame":
    import pandas as pd

    frame = pd.DataFrame({f"number_{j}": np.where(missing, np.nan, column) for j, column in enumerate(numbers.T)})
    for j in range(num_categorical):
        quartile = np.asarray(list("abcd"), object)[np.digitize(numbers[:, j], _QUARTILES)]
        quartile[missing] = None
        frame[f"category_{j}"] = pd.Series(quartile, dtype=object)
    return frame


def _texts(numbers: np.ndarray, num_idle: int, missing: np.ndarray, draws: np.random.Generator) -> list[str | None]:
    above = np.digitize(numbers, _LEVELS)  # [N, K]
    idle = draws.integers(0, _IDLE_WORDS, (len(numbers), num_idle))
    texts: list[str | None] = []
    for row, absent in enumerate(missing):
        words = [f"sign{k}at{level}" for k, levels in enumerate(above[row]) for level in range(levels)]
        words += [f"word{word}" for word in idle[row]]
        texts.append(None if absent else " ".join(words))
    return texts
