"""All rows of a source, encoded once: as one batch in memory or on a device, or in memory-mapped files."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training_core.data.preprocessing import Preprocessor
from training_core.data.views import RowSource
from training_core.errors import DataError, StorageError
from training_core.schema import Batch, DataSpec, Samples

_BLOCK_BYTES = 32 << 20  # encoded at a time
_DTYPES = {torch.float32: np.float32, torch.int64: np.int64}


@dataclass(frozen=True)
class OneBatch:
    """The stream of a learner that is fitted in one go: all samples, still in NumPy, as the only batch."""

    samples: Samples

    def __iter__(self) -> Iterator[Samples]:
        yield self.samples


def to_batch(
    samples: Samples, spec: DataSpec, device: str | torch.device = "cpu", weight: np.ndarray | None = None
) -> Batch:
    """All `samples`, encoded as `spec` says, as one batch on `device`. The tensors share no memory with the arrays."""
    inputs = {
        modality.name: _tensor(samples.inputs[modality.name], input_type(spec, modality.name), device)
        for modality in spec.modalities
    }
    return Batch(
        inputs=inputs,
        available=_tensor(samples.availability(spec.names), torch.bool, device),
        target=None if samples.target is None else _tensor(samples.target, target_type(spec), device),
        weight=None if weight is None else _tensor(weight, torch.float32, device),
        rows=torch.arange(len(samples), device=device),
    )


def encode_to_memory(
    source: RowSource,
    preprocessor: Preprocessor,
    device: str | torch.device = "cpu",
    weight: np.ndarray | None = None,
) -> Batch:
    """All rows of `source`, encoded, as one batch on `device`, without a second copy of them on the way.

    Args:
        source: raw rows.
        preprocessor: fitted; its modalities are those of the batch.
        device: where the batch is.
        weight: of each row, float [N].
    """
    inputs = _encode_inputs(source, preprocessor, lambda name, shape, dtype: _Held(shape, dtype, device))
    return _with_the_rest(source, preprocessor, inputs, device, weight)


def encode_to_disk(
    source: RowSource, preprocessor: Preprocessor, folder: Path, weight: np.ndarray | None = None
) -> Batch:
    """All rows of `source`, encoded, as one batch whose inputs are memory-mapped files in `folder`.

    The files hold the bare numbers and are written block by block. Their pages can be dropped and read again at any
    time, so they take no memory that anybody else needs. Availability, target and weight stay in memory.

    Raises:
        StorageError: a file cannot be written.
    """
    try:
        inputs = _encode_inputs(source, preprocessor, lambda name, shape, dtype: _File(folder / name, shape, dtype))
    except OSError as error:
        raise StorageError(f"encoded rows cannot be written to {folder} ({error}); make room there") from error
    return _with_the_rest(source, preprocessor, inputs, "cpu", weight)


def encoded_bytes(preprocessor: Preprocessor, num_rows: int) -> int:
    """Bytes that `num_rows` encoded rows take, with their availability, target, weight and number."""
    spec = preprocessor.spec
    numbers = sum(modality.num_features * input_type(spec, modality.name).itemsize for modality in spec.modalities)
    return num_rows * (numbers + len(spec.modalities) + 8 * spec.task.num_outputs + 12)


def part_of(preprocessor: Preprocessor, names: list[str]) -> Preprocessor:
    """The same encoding, of some modalities only."""
    return preprocessor.model_copy(
        update={
            "input_spec": preprocessor.input_spec.select(names),
            "spec": preprocessor.spec.select(names),
            "states": {name: preprocessor.states[name] for name in names},
        }
    )


def input_type(spec: DataSpec, name: str) -> torch.dtype:
    """Type of an encoded modality in a batch."""
    return torch.int64 if spec[name].kind == "text" else torch.float32


def target_type(spec: DataSpec) -> torch.dtype:
    """Type of the target in a batch."""
    return torch.int64 if spec.task.kind == "classification" else torch.float32


class _Held:
    """A tensor that is filled block after block."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: str | torch.device) -> None:
        self.dtype = dtype
        self._values = torch.empty(shape, dtype=dtype, device=device)
        self._done = 0

    def write(self, block: np.ndarray) -> None:
        self._values[self._done : self._done + len(block)].copy_(torch.from_numpy(block))
        self._done += len(block)

    def finish(self) -> Tensor:
        return self._values


class _File:
    """A file of bare numbers that is written block after block and then memory-mapped."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._path = path
        self._shape = shape
        self._file = path.open("wb")

    def write(self, block: np.ndarray) -> None:
        self._file.write(block.reshape(-1).view(np.uint8).data)

    def finish(self) -> Tensor:
        self._file.close()
        size = int(torch.Size(self._shape).numel())
        if not size:
            return torch.empty(self._shape, dtype=self.dtype)
        # Not shared: nobody who writes to a batch's source by mistake changes the file.
        return torch.from_file(str(self._path), shared=False, size=size, dtype=self.dtype).view(self._shape)


Room = Callable[[str, tuple[int, ...], torch.dtype], _Held | _File]
"""Makes the place for a modality, by name, shape and type."""


def _encode_inputs(source: RowSource, preprocessor: Preprocessor, room: Room) -> dict[str, Tensor]:
    spec = preprocessor.spec
    if unknown := [name for name in spec.names if name not in source.spec.names]:
        raise DataError(f"the rows have no modality '{unknown[0]}'; they have {', '.join(source.spec.names)}")
    if not spec.modalities:
        return {}
    places = {m.name: room(m.name, (len(source), *m.shape), input_type(spec, m.name)) for m in spec.modalities}
    block_rows = max(1, _BLOCK_BYTES // encoded_bytes(preprocessor, 1))
    wanted = source if source.spec.names == spec.names else source.subset(modalities=spec.names)
    for block in wanted.blocks(block_rows):
        encoded = preprocessor.encode(block)
        for name, place in places.items():
            place.write(np.ascontiguousarray(encoded.inputs[name], dtype=_DTYPES[place.dtype]))
    return {name: place.finish() for name, place in places.items()}


def _with_the_rest(
    source: RowSource,
    preprocessor: Preprocessor,
    inputs: dict[str, Tensor],
    device: str | torch.device,
    weight: np.ndarray | None,
) -> Batch:
    """`inputs` with the small things of every row."""
    available, target = source.available(), source.target()
    masks = [available[name] for name in preprocessor.spec.names]
    shown = np.stack(masks, axis=1) if masks else np.zeros((len(source), 0), bool)
    encoded = None if target is None else preprocessor.encode_target(target)
    return Batch(
        inputs=inputs,
        available=_tensor(shown, torch.bool, device),
        target=None if encoded is None else _tensor(encoded, target_type(preprocessor.spec), device),
        weight=None if weight is None else _tensor(weight, torch.float32, device),
        rows=torch.arange(len(source), device=device),
    )


def _tensor(values: np.ndarray, dtype: torch.dtype, device: str | torch.device) -> Tensor:
    """A copy on `device`: what it is copied from may be read-only or about to change."""
    return torch.tensor(np.ascontiguousarray(values), dtype=dtype, device=device)
