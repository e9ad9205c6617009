"""Rows to compare an export with what it was made from: like the training rows in every number, and none of them.

They are drawn from what the learners' preprocessing remembers of each column, so that an export can be tested where the
data are out of reach, and its golden rows give nobody's data away.
"""

from collections.abc import Iterable

import numpy as np

from training_core.data.preprocessing import ModalityState
from training_core.engine.trained import TrainedLearner
from training_core.export.graph.columns import Vocabularies
from training_core.schema import DataSpec, ModalitySpec, Samples
from training_core.seeding import generator

_WORDS = (
    "the",
    "a",
    "very",
    "good",
    "not",
    "I",
    "5",
    "naïve",
    "Köln",
    "don't",
    "!!!",
    "🙂",
    "x",
    "ﬁne",
    "supercalifragilistic",
)
_MAX_WORDS = 24
_ABSENT_CELLS = 0.08
_WILD = 0.02
"""Share of the numbers that lie far outside of what was seen."""


def probe_samples(
    spec: DataSpec, learners: Iterable[TrainedLearner], vocabularies: Vocabularies, num_rows: int, seed: int = 0
) -> Samples:
    """Raw samples of `spec` without a target, in which every modality is there.

    Args:
        spec: of the data set.
        learners: trained on it.
        vocabularies: pieces of texts that they know.
        num_rows: how many.
        seed: of every draw.
    """
    learners = list(learners)
    inputs: dict[str, np.ndarray] = {}
    for modality in spec.modalities:
        rng = generator(seed, "probe", modality.name)
        known = [
            (learner.features.get(modality.name), learner.preprocessor.states[modality.name])
            for learner in learners
            if modality.name in learner.modalities
        ]
        if modality.kind == "text":
            pieces = sorted({piece for key, own in vocabularies.items() if key[0] == modality.name for piece in own})
            inputs[modality.name] = _texts(pieces, num_rows, rng)
        elif modality.kind == "tabular":
            inputs[modality.name] = _table(modality, known, num_rows, rng)
        else:
            inputs[modality.name] = _array(modality, known, num_rows, rng)
    everywhere = {name: np.ones(num_rows, dtype=bool) for name in spec.names}
    return Samples(inputs=inputs, available=everywhere, ids=np.array([str(i) for i in range(num_rows)], dtype=object))


def some_missing(samples: Samples, seed: int = 0) -> Samples:
    """The same samples, each without a random set of its modalities; the first has all, the second none."""
    rng = generator(seed, "probe", "missing")
    masks = {name: rng.random(len(samples)) < 0.6 for name in samples.available}
    for mask in masks.values():
        mask[:2] = (True, False)[: len(mask)]
    return Samples(inputs=samples.inputs, available=masks, ids=samples.ids)


def _array(
    modality: ModalitySpec,
    known: list[tuple[tuple[int, ...] | None, ModalityState]],
    num_rows: int,
    rng: np.random.Generator,
) -> np.ndarray:
    axis = 0 if modality.kind == "image" else len(modality.shape) - 1
    mean, std = np.zeros(modality.shape[axis]), np.ones(modality.shape[axis])
    for columns, state in known:
        _learn(mean, std, slice(None) if columns is None else list(columns), state)
    shape = [-1 if i == axis else 1 for i in range(len(modality.shape))]
    drawn = _spread(rng, (num_rows, *modality.shape)) * std.reshape(shape) + mean.reshape(shape)
    if modality.kind == "sequence" and num_rows:  # some end early, which shows as steps that do not change any more
        ends = rng.integers(1, modality.shape[0] + 1, num_rows)
        for row in np.flatnonzero(rng.random(num_rows) < 0.3):
            drawn[row, ends[row] :] = drawn[row, ends[row] - 1]
    return drawn.astype(np.float32)


def _table(
    modality: ModalitySpec,
    known: list[tuple[tuple[int, ...] | None, ModalityState]],
    num_rows: int,
    rng: np.random.Generator,
) -> np.ndarray:
    numeric = np.array([column.categories is None for column in modality.columns])
    mean, std = np.zeros(len(numeric)), np.ones(len(numeric))
    for columns, state in known:
        own = np.arange(len(numeric)) if columns is None else np.array(columns)
        _learn(mean, std, own[numeric[own]], state)
    table = _spread(rng, (num_rows, len(numeric))) * std + mean
    for place, column in enumerate(modality.columns):
        if column.categories is not None:
            table[:, place] = rng.integers(0, max(len(column.categories), 1), num_rows)
    absent = rng.random(table.shape) < _ABSENT_CELLS
    absent[absent.all(axis=1)] = False
    return np.where(absent, np.nan, table)


def _texts(pieces: list[str], num_rows: int, rng: np.random.Generator) -> np.ndarray:
    texts = np.empty(num_rows, dtype=object)
    for row in range(num_rows):
        words = [str(rng.choice(_WORDS)) for _ in range(rng.integers(1, _MAX_WORDS))]
        if pieces:
            words += [pieces[place] for place in rng.integers(0, len(pieces), rng.integers(0, _MAX_WORDS))]
        rng.shuffle(words)
        texts[row] = " ".join(words)
    return texts


def _learn(mean: np.ndarray, std: np.ndarray, columns: object, state: ModalityState) -> None:
    scale = np.asarray(state.scale)
    mean[columns] = state.mean  # pyright: ignore[reportCallIssue, reportArgumentType]
    std[columns] = np.where(scale > 0, 1.0 / np.where(scale > 0, scale, 1.0), 0.0)  # pyright: ignore[reportCallIssue, reportArgumentType]


def _spread(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    drawn = rng.standard_normal(shape)
    return np.where(rng.random(shape) < _WILD, 20.0 * drawn, drawn)
