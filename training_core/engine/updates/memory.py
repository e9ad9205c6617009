"""When a batch does not fit into memory: what that looks like, what must be put back, and how a batch is cut."""

import gc
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from training_core.errors import ConfigError
from training_core.schema import Batch

_CPU_MESSAGES = ("out of memory", "can't allocate memory", "not enough memory")
"""How CUDA's libraries and torch's CPU allocators say it, in a plain RuntimeError."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _CPU_MESSAGES)


def release_memory() -> None:
    """Give back what nobody holds. Call it outside the `except` block: the traceback holds the tensors."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def does_not_fit(num_rows: int) -> ConfigError:
    """The error when nothing is left to halve."""
    return ConfigError(
        f"a micro-batch of {num_rows} row does not fit into memory: use a smaller net or `training.precision` bf16, "
        "set `training.gradient_checkpointing`, or free the device of other programs"
    )


class RestorePoint:
    """What a failed forward pass may have changed: torch's random generators and the buffers of the model."""

    def __init__(self, model: nn.Module) -> None:
        """Make room for the buffers."""
        self._buffers = list(model.buffers())
        self._kept = [buffer.clone() for buffer in self._buffers]
        self._devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
        self._random = torch.get_rng_state()
        self._device_random: list[Tensor] = []

    def take(self) -> None:
        """Remember how things stand. A copy of 5 kB, and of the buffers if there are any; nothing is waited for."""
        self._random = torch.get_rng_state()
        self._device_random = [torch.cuda.get_rng_state(device) for device in self._devices]
        if self._buffers:
            with torch.no_grad():
                torch._foreach_copy_(self._kept, self._buffers)  # pyright: ignore[reportPrivateImportUsage]

    @torch.no_grad()
    def restore(self) -> None:
        """Put them back."""
        torch.set_rng_state(self._random)
        for device, state in zip(self._devices, self._device_random, strict=True):
            torch.cuda.set_rng_state(state, device)
        if self._buffers:
            torch._foreach_copy_(self._buffers, self._kept)  # pyright: ignore[reportPrivateImportUsage]


def split(batch: Batch, num_rows: int) -> Iterator[Batch]:
    """`batch` in pieces of at most `num_rows` rows, in order; views of its memory."""
    for start in range(0, len(batch), num_rows):
        yield _rows_of(batch, slice(start, start + num_rows))


def repeated(batch: Batch, num_rows: int) -> Batch:
    """`num_rows` rows: those of `batch` over and over."""
    return _rows_of(batch, torch.arange(num_rows, device=batch.available.device) % len(batch))


def _rows_of(batch: Batch, rows: slice | Tensor) -> Batch:
    return replace(
        batch,
        inputs={name: values[rows] for name, values in batch.inputs.items()},
        available=batch.available[rows],
        target=None if batch.target is None else batch.target[rows],
        weight=None if batch.weight is None else batch.weight[rows],
        rows=None if batch.rows is None else batch.rows[rows],
        present=None if batch.present is None else batch.present[rows],
    )


def largest_that_fits(fits: Callable[[int], bool], limit: int) -> int:
    """The largest number in [1, limit] that fits, 0 when 1 does not; what fits is taken to fit when smaller, too.

    By doubling until it does not fit, then bisecting: about 2 · log₂ of the answer trials.
    """
    good, bad = 0, limit + 1
    trial = 1
    while good < trial < bad:
        if fits(trial):
            good = trial
        else:
            bad = trial
        trial = min(2 * good, limit) if bad > limit else (good + bad) // 2
    return good
