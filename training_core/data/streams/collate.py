"""Collators: lists of items, as an iterable gives them, become batches of tensors.

Each is a value that is called with a list of items. Token sequences may be given bare or under `input_ids`, as Hugging
Face datasets have them. The batches of token and image collators have one modality, always available.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training_core.data.streams.encoded import input_type, target_type
from training_core.errors import DataError
from training_core.schema import IGNORED, Batch, DataSpec


@dataclass(frozen=True)
class LanguageModelling:
    """Token sequences, padded on the right, as their own labels.

    Inputs: `input_ids` int64 [B, T], `attention_mask` int64 [B, T], 0 at padding. Target: labels int64 [B, T], the
    input ids with -100 at padding. As Hugging Face models expect, labels are not shifted: the model predicts each
    label from the ids before it.
    """

    pad_id: int = 0
    max_length: int | None = None
    """Longer sequences are cut off at their end."""
    multiple_of: int = 1
    """T is rounded up to a multiple of this."""

    def __call__(self, items: Sequence[Any]) -> Batch:
        """Pad `items`: lists of token ids.

        Raises:
            DataError: an item lacks something or has another shape than it should.
        """
        ids, mask = _padded([_ids(item) for item in items], self.pad_id, self.max_length, self.multiple_of)
        return _single({"input_ids": ids, "attention_mask": mask}, ids.masked_fill(mask == 0, IGNORED))


@dataclass(frozen=True)
class SequenceClassification:
    """Token sequences with one label each: items are mappings with `input_ids` and `label`.

    Inputs: `input_ids` and `attention_mask` int64 [B, T]. Target: int64 [B], or float32 [B, L] where a label is a list.
    """

    pad_id: int = 0
    max_length: int | None = None
    multiple_of: int = 1

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> Batch:
        """Pad `items`.

        Raises:
            DataError: an item lacks something or has another shape than it should.
        """
        ids, mask = _padded([_ids(item) for item in items], self.pad_id, self.max_length, self.multiple_of)
        return _single({"input_ids": ids, "attention_mask": mask}, _labels(items))


@dataclass(frozen=True)
class Seq2Seq:
    """Source sequences and the sequences to make of them: items are mappings with `input_ids` and `labels`.

    Inputs: `input_ids`, `attention_mask` int64 [B, S]; `decoder_input_ids` int64 [B, T]: the labels shifted right, the
    start id first. Target: labels int64 [B, T] with -100 at padding.
    """

    pad_id: int = 0
    start_id: int | None = None
    """What a decoder starts from; the padding id by default."""
    max_length: int | None = None
    """Longer sequences, on both sides, are cut off at their end."""
    multiple_of: int = 1

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> Batch:
        """Pad `items`.

        Raises:
            DataError: an item lacks something or has another shape than it should.
        """
        ids, mask = _padded([_ids(item) for item in items], self.pad_id, self.max_length, self.multiple_of)
        answers = [_ids(item, "labels") for item in items]
        wanted, real = _padded(answers, self.pad_id, self.max_length, self.multiple_of)
        decoder = wanted.roll(1, dims=1)
        decoder[:, 0] = self.pad_id if self.start_id is None else self.start_id
        inputs = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": decoder}
        return _single(inputs, wanted.masked_fill(real == 0, IGNORED))


@dataclass(frozen=True)
class Vision:
    """Images of one size with labels: items are mappings with `image` [C, H, W] and, where known, `label`.

    Inputs: `image` float32 [B, C, H, W]: whole numbers divided by the largest of their type, floats as they are; all in
    [0, 1] before `mean` is taken off and the rest divided by `std`. Target: int64 [B], or float32 [B, L].
    """

    mean: tuple[float, ...] = ()
    """Per channel; none is taken off by default."""
    std: tuple[float, ...] = ()
    """Per channel; 1 by default."""

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> Batch:
        """Stack `items`.

        Raises:
            DataError: an item lacks something or has another shape than it should.
        """
        images = [np.asarray(_of(item, "image")) for item in items]
        if len({image.shape for image in images}) > 1 or images[0].ndim != 3:
            shapes = ", ".join(sorted({str(image.shape) for image in images}))
            raise DataError(f"images of a batch have the shapes {shapes}; all must have one shape [C, H, W]")
        values = np.stack(images)
        if np.issubdtype(values.dtype, np.integer):
            values = values.astype(np.float32) / np.iinfo(values.dtype).max
        values = np.ascontiguousarray(values, dtype=np.float32)
        if not ((values >= 0) & (values <= 1)).all():
            raise DataError(
                f"images hold values from {values.min():g} to {values.max():g}; give floats in [0, 1] or unsigned bytes"
            )
        out = torch.from_numpy(values)
        if self.mean:
            out.sub_(torch.tensor(self.mean).view(-1, 1, 1))
        if self.std:
            out.div_(torch.tensor(self.std).view(-1, 1, 1))
        return _single({"image": out}, _labels(items) if "label" in items[0] else None)


@dataclass(frozen=True)
class Multimodal:
    """Encoded samples some of whose modalities may be absent: items map a modality's name to an array or None.

    A modality that is None or not mentioned is absent: zeros in the inputs, False in `available`. `target` and `weight`
    are read from the items under these names where the first has them.
    """

    spec: DataSpec
    """Of the encoded samples."""

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> Batch:
        """Stack `items`, zeros for what is absent.

        Raises:
            DataError: an item lacks something or has another shape than it should.
        """
        spec = self.spec
        available = torch.tensor([[item.get(name) is not None for name in spec.names] for item in items])
        inputs = {}
        for modality in spec.modalities:
            values = torch.zeros((len(items), *modality.shape), dtype=input_type(spec, modality.name))
            for row, item in enumerate(items):
                given = item.get(modality.name)
                if given is None:
                    continue
                array = np.asarray(given)
                if array.shape != modality.shape:
                    raise DataError(f"modality '{modality.name}' has shape {array.shape}, expected {modality.shape}")
                values[row] = torch.from_numpy(np.array(array))  # a copy: what is given may be read-only
            inputs[modality.name] = values
        target = weight = None
        if "target" in items[0]:
            target = torch.tensor(
                np.stack([np.asarray(_of(item, "target")) for item in items]), dtype=target_type(spec)
            )
        if "weight" in items[0]:
            weight = torch.tensor([float(_of(item, "weight")) for item in items])
        return Batch(inputs=inputs, available=available, target=target, weight=weight)


def _single(inputs: dict[str, Tensor], target: Tensor | None) -> Batch:
    num_rows = len(next(iter(inputs.values())))
    return Batch(inputs=inputs, available=torch.ones((num_rows, 1), dtype=torch.bool), target=target)


def _ids(item: Any, key: str = "input_ids") -> np.ndarray:
    """A token sequence, given bare or in a mapping."""
    ids = np.asarray(_of(item, key) if isinstance(item, Mapping) else item)
    if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
        raise DataError(f"a token sequence is a list of whole numbers; got {ids.dtype} of shape {ids.shape}")
    return ids


def _padded(
    sequences: Sequence[np.ndarray], pad_id: int, max_length: int | None, multiple_of: int
) -> tuple[Tensor, Tensor]:
    """Sequences as ids [B, T] padded on the right, and where they are real: 1, else 0; both int64."""
    lengths = np.minimum([len(sequence) for sequence in sequences], max_length or np.iinfo(np.int64).max)
    width = max(1, -(-int(lengths.max()) // multiple_of)) * multiple_of
    ids = np.full((len(sequences), width), pad_id, np.int64)
    for row, (sequence, length) in enumerate(zip(sequences, lengths, strict=True)):
        ids[row, :length] = sequence[:length]
    mask = np.arange(width) < lengths[:, None]
    return torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))


def _labels(items: Sequence[Mapping[str, Any]]) -> Tensor:
    labels = np.stack([np.asarray(_of(item, "label")) for item in items])
    return torch.tensor(labels, dtype=torch.int64 if labels.ndim == 1 else torch.float32)


def _of(item: Mapping[str, Any], key: str) -> Any:
    if key not in item:
        raise DataError(f"an item has no '{key}'; it has {', '.join(map(str, item)) or 'nothing'}")
    return item[key]
