"""What turns raw samples into the numbers a learner is fed, learned from that learner's training rows only.

A `Preprocessor` is a value: fitted once, saved as JSON beside the learner, and applied the same way ever after.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal, Self

import numpy as np

from training_core.config import Config
from training_core.data.text import VOCABULARY_SIZE, count_tokens, token_ids
from training_core.errors import DataError
from training_core.quantities import NonNegativeInt
from training_core.schema import ColumnSpec, DataSpec, ModalitySpec, Samples

_BLOCK_NUMBERS = 1 << 22  # numbers worked on at once in float64 (32 MB), so that a large array is not doubled
_MAX_STANDARDISED = 1e4
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
    def fit(cls, samples: Samples, spec: DataSpec, text: Literal["strings", "tokens"] = "tokens") -> Self:
        """Learn the encoding of `samples`, raw ones described by `spec`; only rows that have a modality count for it.

        - vector, sequence: each feature standardised; image: each channel standardised (float32).
        - tabular: columns [numeric, standardised, an absent cell 0][1 where that cell was absent, for each numeric
          column that had absent cells][categories as codes in floats: 0 unknown or absent, k + 1 the k-th seen].
        - text: unchanged `strings`, or `tokens`: int64 ids [N, T] of hashed n-grams, padded with 0.
        - a row without the modality: all zeros (the empty string for strings).

        Raises:
            DataError: there are no samples, a modality is not in them or has another shape than the spec says, or
                its numbers are too large to standardise.
        """
        if not len(samples):
            raise DataError("cannot fit a preprocessor on 0 rows")
        states: dict[str, ModalityState] = {}
        encoded: list[ModalitySpec] = []
        for modality in spec.modalities:
            values, available = _checked(samples, modality)
            state = _fit_modality(values, np.flatnonzero(available), modality, text)
            states[modality.name] = state
            encoded.append(_encoded_spec(modality, state, text))
        mean, std = (), ()
        if spec.task.kind == "regression" and samples.target is not None:
            target = samples.target.astype(np.float64)
            deviation = target.std(axis=0)
            mean = tuple(float(v) for v in target.mean(axis=0))
            constant = target.min(axis=0) == target.max(axis=0)
            std = tuple(1.0 if same else float(v) for v, same in zip(deviation, constant, strict=True))
        return cls(
            input_spec=spec,
            spec=spec.model_copy(update={"modalities": tuple(encoded)}),
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


def _fit_modality(values: np.ndarray, rows: np.ndarray, modality: ModalitySpec, text: str) -> ModalityState:
    """The state of one modality from the rows that have it (none: everything encodes to 0)."""
    if modality.kind == "text":
        return ModalityState(num_tokens=count_tokens(values[rows]) if text == "tokens" else 0)
    if modality.kind != "tabular":
        axis = 0 if modality.kind == "image" else -1
        mean, scale, _ = _moments(values, rows, axis, modality)
        return ModalityState(mean=mean, scale=scale)
    numeric = [i for i, column in enumerate(modality.columns) if column.categories is None]
    mean, scale, num_absent = _moments(values[:, numeric], rows, -1, modality)
    seen = []
    for i, column in enumerate(modality.columns):
        if column.categories is not None:
            codes = values[rows, i]
            seen.append(tuple(int(code) for code in np.unique(codes[~np.isnan(codes)])))
    indicators = tuple(int(i) for i in np.flatnonzero(num_absent))
    return ModalityState(mean=mean, scale=scale, indicators=indicators, seen=tuple(seen))


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
        axis = 0 if raw.kind == "image" else -1
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
    return np.clip(centred * np.asarray(state.scale).reshape(shape), -_MAX_STANDARDISED, _MAX_STANDARDISED)


def _moments(
    values: np.ndarray, rows: np.ndarray, axis: int, modality: ModalitySpec
) -> tuple[tuple[float, ...], tuple[float, ...], np.ndarray]:
    """Mean, 1 / standard deviation (0 for a constant) and number of NaN along `axis` of one sample, over `rows`.

    Two passes in float64, block by block: the textbook variance, without its cancellation or a copy of everything.
    """
    position = axis + 1 if axis >= 0 else values.ndim - 1
    width = values.shape[position]
    count, total, squares = np.zeros(width, np.int64), np.zeros(width), np.zeros(width)
    low, high, num_absent = np.full(width, np.inf), np.full(width, -np.inf), np.zeros(width, np.int64)
    others = tuple(i for i in range(values.ndim) if i != position)
    with np.errstate(over="ignore", invalid="ignore"):
        for block in _blocks(rows, modality.num_features):
            part = values[block].astype(np.float64)
            absent = np.isnan(part)
            num_absent += absent.sum(axis=others)
            count += (~absent).sum(axis=others)
            total += np.where(absent, 0.0, part).sum(axis=others)
            low = np.minimum(low, np.where(absent, np.inf, part).min(axis=others))
            high = np.maximum(high, np.where(absent, -np.inf, part).max(axis=others))
        mean = total / np.maximum(count, 1)
        for block in _blocks(rows, modality.num_features):
            part = values[block].astype(np.float64) - mean.reshape(_along(axis, values.ndim, width))
            squares += np.where(np.isnan(part), 0.0, part**2).sum(axis=others)
        std = np.sqrt(squares / np.maximum(count, 1))
    if not (np.isfinite(mean).all() and np.isfinite(std).all()):
        raise DataError(
            f"modality '{modality.name}' holds numbers too large to standardise (beyond about 1e150); rescale them"
        )
    varies = (high > low) & (std > np.finfo(np.float64).tiny)
    scale = np.where(varies, 1.0 / np.where(varies, std, 1.0), 0.0)
    return tuple(float(v) for v in mean), tuple(float(v) for v in scale), num_absent


def _along(axis: int, ndim: int, width: int) -> tuple[int, ...]:
    """The shape that lines `width` numbers up with `axis` of one sample in an array of `ndim` dimensions."""
    position = axis + 1 if axis >= 0 else ndim - 1
    return tuple(width if i == position else 1 for i in range(ndim))


def _blocks(rows: np.ndarray, numbers_per_row: int) -> Iterator[np.ndarray]:
    """`rows` in pieces of about `_BLOCK_NUMBERS` numbers."""
    size = max(1, _BLOCK_NUMBERS // max(numbers_per_row, 1))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
