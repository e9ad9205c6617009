"""A whole step as one CUDA graph: the GPU is told once what to do, and from then on only that it is to do it again."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from training_core.schema import Batch

_WARM_UP = 3
"""Runs before the capture, in which libraries choose kernels and allocate what they keep (torch's own examples)."""


class CapturedStep:
    """Replays `body` on batches of one shape. Everything it reads and changes must stay where it is in memory."""

    how = "captured"

    def __init__(self, body: Callable[[Batch], dict[str, Tensor]], batch: Batch, changed: Sequence[Tensor]) -> None:
        """Capture `body`; no random number is drawn and nothing in `changed` is different afterwards.

        Args:
            body: one step; it must not wait for the device.
            batch: one of the batches it will be given.
            changed: all tensors that a step changes.
        """
        self._batch = batch.clone()
        before = [tensor.clone() for tensor in changed]
        device = batch.available.device
        side = torch.cuda.Stream(device)
        with torch.random.fork_rng(devices=[device]):
            side.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(side):
                for _ in range(_WARM_UP):
                    body(self._batch)
            torch.cuda.current_stream(device).wait_stream(side)
        for tensor, kept in zip(changed, before, strict=True):
            tensor.copy_(kept)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._results = body(self._batch)

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """One step on `batch`; the results are copies, since the next replay overwrites its own."""
        own = self._batch
        pairs = [(own.inputs[name], values) for name, values in batch.inputs.items()]
        pairs += [(own.available, batch.available), (own.target, batch.target), (own.weight, batch.weight)]
        pairs += [(own.present, batch.present)]
        for place, values in pairs:
            if place is not None and values is not None:
                place.copy_(values, non_blocking=True)
        self._graph.replay()
        return {name: value.clone() for name, value in self._results.items()}
