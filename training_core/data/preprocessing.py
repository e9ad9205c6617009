"""What turns raw samples into the numbers a learner is fed, learned from that learner's training rows only.

A `Preprocessor` is a value: fitted once, saved as JSON beside the learner, and applied the same way ever after.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal, Self

import numpy as np

from training_core.config import Config
from training_core.data.text import MAX_TOKENS, VOCABULARY_SIZE, count_tokens, token_ids
from training_core.data.views import HeldSamples, RowSource
from training_core.errors import DataError
from training_core.quantities import NonNegativeInt
from training_core.schema import ColumnSpec, DataSpec, ModalitySpec, Samples

_BLOCK_NUMBERS = 1 << 22  # numbers worked on at once in float64 (32 MB), so that a large array is not doubled
MAX_STANDARDISED = 1e4
"""Standardised values are held within ±10,000. No training value reaches that with fewer than 1e8 rows (a value is
at most sqrt(rows) deviations from the mean), and a wild value met later can no longer overflow a float32 network."""


class ModalityState(Config):
    """What was learned about one modality; which fields are filled depends on its kind."""

    mean: tuple[float, ...] = ()
    """Per feature (vector, sequence), channel (image) or numeric column (tabular)."""
    scale: tuple[float, ...] = ()
    """1 / standard deviation, in the order of `mean`; 0 for a constant, which therefore encodes to 0."""
    indicators: tuple[NonNegativeInt, ...] = ()
    """Tabular: the numeric columns (counted among the numeric ones) that had absent cells and get an indicator."""
    seen: tuple[tuple[NonNegativeInt, ...], ...] = ()
    """Tabular: per categorical column the dataset codes seen, ascending; position k encodes to k + 1."""
    num_tokens: NonNegativeInt = 0
    """Text as tokens: ids per sample."""


class Preprocessor(Config):
    """A fitted encoding of samples; made by `fit`, applied by `encode`."""

    input_spec: DataSpec
    """The raw samples it was fitted on and takes."""
    spec: DataSpec
    """The encoded samples it gives; what a learner is built from."""
    text: Literal["strings", "tokens"]
    states: dict[str, ModalityState]
    """By modality name."""
    target_mean: tuple[float, ...] = ()
    """Regression: mean of each target column; empty for other tasks."""
    target_std: tuple[float, ...] = ()
    """Regression: standard deviation of each target column, 1 for a constant one; empty for other tasks."""

    @classmethod
    def fit(cls, rows: Samples | RowSource, spec: DataSpec, text: Literal["strings", "tokens"] = "tokens") -> Self:
        """Learn the encoding of `rows`, raw ones described by `spec`; only rows that have a modality count for it.

        - vector, sequence: each feature standardised; image: each channel standardised (float32).
        - tabular: columns [numeric, standardised, an absent cell 0][1 where that cell was absent, for each numeric
          column that had absent cells][categories as codes in floats: 0 unknown or absent, k + 1 the k-th seen].
        - text: unchanged `strings`, or `tokens`: int64 ids [N, T] of hashed n-grams, padded with 0.
        - a row without the modality: all zeros (the empty string for strings).

        The rows are read twice, a block at a time, whose size depends on `spec` alone: memory does not grow with
        their number, and the same rows give the same encoding whether they are in memory or not.

        Raises:
            DataError: there are no rows, a modality is not in them or has another shape than the spec says, or
                its numbers are too large to standardise.
        """
        if not len(rows):
            raise DataError("cannot fit a preprocessor on 0 rows")
        source = HeldSamples(rows, spec) if isinstance(rows, Samples) else rows
        learning = [_Learning(modality, text) for modality in spec.modalities]
        num_rows = max(1, _BLOCK_NUMBERS // max(1, sum(modality.num_features for modality in spec.modalities)))
        for block in source.blocks(num_rows):
            for modality in learning:
                modality.look(block)
        again = [modality for modality in learning if modality.begin_spread()]
        if again:
            for block in source.blocks(num_rows):
                for modality in again:
                    modality.look_at_spread(block)
        states = {modality.name: learned.state() for modality, learned in zip(spec.modalities, learning, strict=True)}
        encoded = tuple(_encoded_spec(modality, states[modality.name], text) for modality in spec.modalities)
        mean, std = (), ()
        given = source.target()
        if spec.task.kind == "regression" and given is not None:
            target = given.astype(np.float64)
            deviation = target.std(axis=0)
            mean = tuple(float(v) for v in target.mean(axis=0))
            constant = target.min(axis=0) == target.max(axis=0)
            std = tuple(1.0 if same else float(v) for v, same in zip(deviation, constant, strict=True))
        return cls(
            input_spec=spec,
            spec=spec.model_copy(update={"modalities": encoded}),
            text=text,
            states=states,
            target_mean=mean,
            target_std=std,
        )

    def encode(self, samples: Samples) -> Samples:
        """Encode raw samples of `input_spec`; a target comes back encoded too (see `encode_target`).

        Other modalities than those of `input_spec` are left out. Ids, groups and availability are kept.

        Raises:
            DataError: a modality is not in `samples`, or has another shape than `input_spec` says.
        """
        inputs: dict[str, np.ndarray] = {}
        masks: dict[str, np.ndarray] = {}
        for modality in self.input_spec.modalities:
            values, available = _checked(samples, modality)
            inputs[modality.name] = _encode_modality(
                values, available, modality, self.spec[modality.name], self.states[modality.name]
            )
            masks[modality.name] = available
        target = None if samples.target is None else self.encode_target(samples.target)
        return replace(samples, inputs=inputs, available=masks, target=target)

    def encode_target(self, target: np.ndarray) -> np.ndarray:
        """Regression targets [N, K] standardised, float64; the targets of other tasks as they are."""
        if self.input_spec.task.kind != "regression":
            return target
        return (target - np.asarray(self.target_mean)) / np.asarray(self.target_std)

    def decode_target(self, values: np.ndarray) -> np.ndarray:
        """Standardised regression values [N, K] in the target's own units, float64; other values as they are."""
        if self.input_spec.task.kind != "regression":
            return values
        return values.astype(np.float64) * np.asarray(self.target_std) + np.asarray(self.target_mean)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values; floats survive a round trip bit for bit."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The preprocessor that `to_dict` described.

        Raises:
            ConfigError: `data` is not such a description.
        """
        return cls.parse(data, "preprocessor")


def _checked(samples: Samples, modality: ModalitySpec) -> tuple[np.ndarray, np.ndarray]:
    """A modality's values and mask, after comparing their shape with the spec."""
    if modality.name not in samples.inputs:
        have = ", ".join(samples.inputs) or "none"
        raise DataError(f"the samples have no modality '{modality.name}'; they have {have}")
    values = samples.inputs[modality.name]
    if values.shape[1:] != modality.shape:
        raise DataError(
            f"modality '{modality.name}': one sample has shape {values.shape[1:]}, expected {modality.shape}"
        )
    return values, samples.available[modality.name]


class _Learning:
    """What is being learned about one modality: look at every block, then at every block for the spread.

    The textbook variance in two passes of float64, without its cancellation. NaN do not count.
    """

    def __init__(self, modality: ModalitySpec, text: str) -> None:
        self._modality = modality
        self._tokens = modality.kind == "text" and text == "tokens"
        self._longest = 1
        self._axis = _feature_axis(modality)
        columns = modality.columns if modality.kind == "tabular" else ()
        self._numeric = [i for i, column in enumerate(columns) if column.categories is None]
        self._seen: dict[int, set[int]] = {i: set() for i, c in enumerate(columns) if c.categories is not None}
        width = 0 if modality.kind == "text" else modality.shape[self._axis]
        width = len(self._numeric) if columns else width
        self._count, self._num_absent = np.zeros(width, np.int64), np.zeros(width, np.int64)
        self._total, self._squares = np.zeros(width), np.zeros(width)
        self._low, self._high = np.full(width, np.inf), np.full(width, -np.inf)
        self._mean = np.zeros(width)

    def look(self, samples: Samples) -> None:
        """Take one block in."""
        values, available = _checked(samples, self._modality)
        if self._modality.kind == "text":
            if self._tokens and self._longest < MAX_TOKENS:
                self._longest = max(self._longest, count_tokens(values[available]))
            return
        for i, seen in self._seen.items():
            codes = values[available, i]
            seen.update(int(code) for code in np.unique(codes[~np.isnan(codes)]))
        part, others = self._numbers(values, available)
        absent = np.isnan(part)
        self._num_absent += absent.sum(axis=others)
        self._count += (~absent).sum(axis=others)
        with np.errstate(over="ignore", invalid="ignore"):
            self._total += np.where(absent, 0.0, part).sum(axis=others)
        self._low = np.minimum(self._low, np.where(absent, np.inf, part).min(axis=others, initial=np.inf))
        self._high = np.maximum(self._high, np.where(absent, -np.inf, part).max(axis=others, initial=-np.inf))

    def begin_spread(self) -> bool:
        """Fix the mean; whether there is a spread to look at."""
        with np.errstate(over="ignore", invalid="ignore"):
            self._mean = self._total / np.maximum(self._count, 1)
        return bool(self._count.any())

    def look_at_spread(self, samples: Samples) -> None:
        """Take one block in for the second time."""
        part, others = self._numbers(*_checked(samples, self._modality))
        with np.errstate(over="ignore", invalid="ignore"):
            part = part - self._mean.reshape(_along(self._axis, part.ndim, len(self._mean)))
            self._squares += np.where(np.isnan(part), 0.0, part**2).sum(axis=others)

    def state(self) -> ModalityState:
        """What was learned (from no row that has the modality: everything encodes to 0)."""
        if self._modality.kind == "text":
            return ModalityState(num_tokens=self._longest if self._tokens else 0)
        std = np.sqrt(self._squares / np.maximum(self._count, 1))
        if not (np.isfinite(self._mean).all() and np.isfinite(std).all()):
            raise DataError(
                f"modality '{self._modality.name}' holds numbers too large to standardise (beyond about 1e150); "
                "rescale them"
            )
        varies = (self._high > self._low) & (std > np.finfo(np.float64).tiny)
        scale = np.where(varies, 1.0 / np.where(varies, std, 1.0), 0.0)
        absent = np.flatnonzero(self._num_absent) if self._modality.kind == "tabular" else ()
        return ModalityState(
            mean=tuple(float(v) for v in self._mean),
            scale=tuple(float(v) for v in scale),
            indicators=tuple(int(i) for i in absent),
            seen=tuple(tuple(sorted(codes)) for codes in self._seen.values()),
        )

    def _numbers(self, values: np.ndarray, available: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
        """The numbers of the rows that have the modality, float64, and the axes that are summed over."""
        if self._modality.kind == "tabular":
            values = values[:, self._numeric]
        part = values[available].astype(np.float64)
        position = self._axis + 1 if self._axis >= 0 else part.ndim - 1
        return part, tuple(i for i in range(part.ndim) if i != position)


def _feature_axis(modality: ModalitySpec) -> int:
    """The axis of one sample along which its features are counted."""
    return 0 if modality.kind == "image" else -1


def _encoded_spec(modality: ModalitySpec, state: ModalityState, text: str) -> ModalitySpec:
    """What a modality looks like once encoded."""
    if modality.kind == "text" and text == "tokens":
        return modality.model_copy(update={"shape": (state.num_tokens,), "vocabulary_size": VOCABULARY_SIZE})
    if modality.kind != "tabular":
        return modality
    numeric = [column for column in modality.columns if column.categories is None]
    absent = [ColumnSpec(name=f"{numeric[i].name} is missing") for i in state.indicators]
    categorical = [column for column in modality.columns if column.categories is not None]
    codes = [
        ColumnSpec(name=column.name, categories=tuple((column.categories or ())[code] for code in seen))
        for column, seen in zip(categorical, state.seen, strict=True)
    ]
    columns = (*numeric, *absent, *codes)
    return modality.model_copy(
        update={
            "shape": (len(columns),),
            "columns": columns,
            "cardinalities": tuple(len(seen) + 1 for seen in state.seen),
        }
    )


def _encode_modality(
    values: np.ndarray, available: np.ndarray, raw: ModalitySpec, encoded: ModalitySpec, state: ModalityState
) -> np.ndarray:
    """One modality of raw samples, encoded; rows without it are zeros."""
    rows = np.flatnonzero(available)
    if raw.kind == "text":
        if not encoded.vocabulary_size:
            return np.where(available, values, "").astype(object)
        out = np.zeros((len(values), state.num_tokens), np.int64)
        out[rows] = token_ids(values[rows], state.num_tokens)
        return out
    out = np.zeros((len(values), *encoded.shape), np.float32)
    if raw.kind != "tabular":
        axis = _feature_axis(raw)
        for block in _blocks(rows, raw.num_features):
            out[block] = _standardise(values[block], state, axis)
        return out
    numeric = [i for i, column in enumerate(raw.columns) if column.categories is None]
    categorical = [i for i, column in enumerate(raw.columns) if column.categories is not None]
    numbers = values[rows][:, numeric]
    standardised = np.nan_to_num(_standardise(numbers, state, -1), nan=0.0)
    indicators = np.isnan(numbers[:, list(state.indicators)])
    codes = [_recode(values[rows, i], seen) for i, seen in zip(categorical, state.seen, strict=True)]
    out[rows] = np.column_stack([standardised, indicators, *codes])
    return out


def _recode(codes: np.ndarray, seen: tuple[int, ...]) -> np.ndarray:
    """Dataset codes (NaN: none) as positions in `seen` plus 1, and 0 for any other."""
    if not seen:
        return np.zeros(len(codes))
    known = np.asarray(seen, np.float64)
    position = np.minimum(np.searchsorted(known, codes), len(known) - 1)
    return np.where(known[position] == codes, position + 1.0, 0.0)


def _standardise(values: np.ndarray, state: ModalityState, axis: int) -> np.ndarray:
    """(value - mean) · scale along the axis of one sample that features are counted on; NaN stays NaN."""
    shape = _along(axis, values.ndim, len(state.mean))
    centred = values.astype(np.float64) - np.asarray(state.mean).reshape(shape)
    return np.clip(centred * np.asarray(state.scale).reshape(shape), -MAX_STANDARDISED, MAX_STANDARDISED)


def _along(axis: int, ndim: int, width: int) -> tuple[int, ...]:
    """The shape that lines `width` numbers up with `axis` of one sample in an array of `ndim` dimensions."""
    position = axis + 1 if axis >= 0 else ndim - 1
    return tuple(width if i == position else 1 for i in range(ndim))


def _blocks(rows: np.ndarray, numbers_per_row: int) -> Iterator[np.ndarray]:
    """`rows` in pieces of about `_BLOCK_NUMBERS` numbers."""
    size = max(1, _BLOCK_NUMBERS // max(numbers_per_row, 1))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
