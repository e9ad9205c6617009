"""Memory that is filled over and over: large pages for buffers, batches reused, and the way from them to a GPU."""

import mmap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from training_core.schema import Batch

_LARGE = 1 << 20  # bytes from which large pages pay


def reserve(shape: tuple[int, ...], dtype: torch.dtype, pinned: bool = False) -> Tensor:
    """Zeros on the CPU, made to be overwritten again and again.

    Where the system allows it they lie on large pages: reading a file into memory of 4 kB pages costs four times as
    much. `pinned`: in memory a GPU can copy from by itself.
    """
    num_bytes = int(torch.Size(shape).numel()) * dtype.itemsize
    if pinned or num_bytes < _LARGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.zeros(shape, dtype=dtype, pin_memory=pinned)
    pages = mmap.mmap(-1, num_bytes)
    pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=dtype).view(shape).zero_()


def map_batch(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """The batch with every tensor that it has replaced by what `change` makes of it."""
    return replace(
        batch,
        inputs={name: change(values) for name, values in batch.inputs.items()},
        available=change(batch.available),
        target=None if batch.target is None else change(batch.target),
        weight=None if batch.weight is None else change(batch.weight),
        rows=None if batch.rows is None else change(batch.rows),
        present=None if batch.present is None else change(batch.present),
    )


class Scratch:
    """Memory for what is only on its way, lent to one thread at a time and kept for whoever comes next."""

    def __init__(self) -> None:
        self._free: list[np.ndarray] = []

    @contextmanager
    def borrow(self, num_bytes: int) -> Iterator[np.ndarray]:
        """So many bytes, uint8 [num_bytes]; they hold anything."""
        try:
            kept = self._free.pop()
        except IndexError:  # all are lent
            kept = np.empty(0, np.uint8)
        if len(kept) < num_bytes:
            kept = reserve((num_bytes,), torch.uint8).numpy()
        try:
            yield kept[:num_bytes]
        finally:
            self._free.append(kept)


class BatchBuffers:
    """Batches that are filled again and again instead of being made anew.

    A batch handed out is valid until the next one is asked for. Where batches are filled on the CPU for a GPU there
    are two of them in pinned memory and two on the GPU: while it works on one, the next is filled and copied.
    """

    def __init__(self, like: Batch, batch_size: int, device: torch.device | None = None) -> None:
        """Make room for `batch_size` rows.

        Args:
            like: rows of the shapes and types to come, where batches are filled.
            batch_size: rows of the largest batch.
            device: where batches are handed out; by default where they are filled.
        """
        here = like.available.device
        self._handover: _Handover | None = None
        if device is not None and device.type == "cuda" and here.type == "cpu":
            hosts = [_empty(like, batch_size, pinned=True) for _ in range(2)]
            self._handover = _Handover(hosts, device)
        else:
            self._batch = _empty(like, batch_size)

    @property
    def hands_over(self) -> bool:
        """Whether batches are filled on the CPU for a GPU: then everything in them has to be written."""
        return self._handover is not None

    def fill(self, num_rows: int, write: Callable[[Batch], None]) -> Batch:
        """The next batch: `write` is given one of `num_rows` rows, whose tensors it overwrites."""
        if self._handover is not None:
            return self._handover.fill(num_rows, write)
        batch = _first(self._batch, num_rows)
        write(batch)
        return batch


class _Handover:
    """From pinned memory to a GPU, on a stream of its own, in two slots that take turns."""

    def __init__(self, hosts: list[Batch], device: torch.device) -> None:
        self._hosts = hosts
        self._copies = [map_batch(host, lambda values: torch.empty_like(values, device=device)) for host in hosts]
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._copied = [torch.cuda.Event() for _ in hosts]
        self._used = [torch.cuda.Event() for _ in hosts]
        self._slot = 0

    def fill(self, num_rows: int, write: Callable[[Batch], None]) -> Batch:
        compute = torch.cuda.current_stream(self._device)
        self._used[self._slot].record(compute)  # all work on the batch handed out last has been queued by now
        self._slot ^= 1
        slot = self._slot
        self._copied[slot].synchronize()  # the copy from this host memory, two batches ago, is over
        host, copy = _first(self._hosts[slot], num_rows), _first(self._copies[slot], num_rows)
        write(host)
        self._stream.wait_event(self._used[slot])  # nobody reads what is overwritten now
        with torch.cuda.stream(self._stream):
            for source, target in zip(_tensors(host), _tensors(copy), strict=True):
                target.copy_(source, non_blocking=True)
            self._copied[slot].record(self._stream)
        compute.wait_event(self._copied[slot])
        return copy


def _empty(like: Batch, num_rows: int, pinned: bool = False) -> Batch:
    """A batch of `num_rows` rows of the shapes, types and place of `like`, with row numbers."""

    def room(values: Tensor) -> Tensor:
        shape = (num_rows, *values.shape[1:])
        if values.device.type == "cpu":
            return reserve(shape, values.dtype, pinned)
        return torch.empty(shape, dtype=values.dtype, device=values.device)

    batch = map_batch(replace(like, rows=None), room)
    return replace(batch, rows=torch.zeros(num_rows, dtype=torch.int64, device=like.available.device))


def _first(batch: Batch, num_rows: int) -> Batch:
    """Its first rows, in the same memory."""
    return batch if num_rows == len(batch) else map_batch(batch, lambda values: values[:num_rows])


def _tensors(batch: Batch) -> list[Tensor]:
    every = [*batch.inputs.values(), batch.available, batch.target, batch.weight, batch.rows, batch.present]
    return [tensor for tensor in every if tensor is not None]
