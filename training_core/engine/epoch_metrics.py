"""The means of an epoch's step metrics: no step waits for a device, and memory does not grow with the steps."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_BLOCK = 512
"""Steps kept as they are before they are folded into sums: few enough to be small, many enough to cost nothing."""


class EpochMetrics:
    """Row-weighted means, by name, of what the steps of one epoch returned.

    A metric is a scalar, or one number per learner of a cohort, [K]. A step may leave a metric out, for instance the
    gradient's norm while gradients are accumulated. Sums are float64.
    """

    def __init__(self) -> None:
        self._pending: dict[str, list[Tensor]] = {}
        self._sizes: dict[str, list[int | Tensor]] = {}
        self._sums: dict[str, Tensor] = {}
        self._weights: dict[str, Tensor] = {}
        self._first_wild: dict[str, Tensor] = {}
        self._num_folded: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor], num_rows: int | Tensor) -> None:
        """Take the metrics of one step, each the mean of `num_rows` rows ([K] for a cohort: 0 leaves a learner out)."""
        pending, sizes = self._pending, self._sizes
        for name, value in values.items():
            if name not in pending:
                pending[name], sizes[name] = [], []
            pending[name].append(value)
            sizes[name].append(num_rows)
            if len(pending[name]) >= _BLOCK:
                self._fold(name)

    def means(self) -> dict[str, Tensor]:
        """The means so far, float64 on the CPU; NaN where no row counted."""
        for name in self._pending:
            self._fold(name)
        return {name: (self._sums[name] / self._weights[name]).cpu() for name in self._sums}

    def first_wild(self, name: str) -> int | None:
        """The first step, from 1, at which scalar `name` was not finite, among the steps that had it."""
        found = int(self._first_wild[name])
        return found if found else None

    def state_dict(self) -> dict[str, Any]:
        """All of it, as tensors and plain values. The blocks that are still open stay open."""
        return {
            name: {
                "pending": torch.stack(self._pending[name]).cpu() if self._pending[name] else None,
                "sizes": [size if isinstance(size, int) else size.cpu() for size in self._sizes[name]],
                "sums": self._sums.get(name),
                "weights": self._weights.get(name),
                "first_wild": self._first_wild.get(name),
                "num_folded": self._num_folded.get(name, 0),
            }
            for name in self._pending
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.__init__()
        for name, kept in state.items():
            self._pending[name] = [] if kept["pending"] is None else list(kept["pending"].unbind())
            self._sizes[name] = list(kept["sizes"])
            if kept["sums"] is not None:
                self._sums[name], self._weights[name] = kept["sums"], kept["weights"]
                self._first_wild[name], self._num_folded[name] = kept["first_wild"], kept["num_folded"]

    def _fold(self, name: str) -> None:
        """Add the block of a metric to its sums."""
        if not self._pending[name]:
            return
        device = self._pending[name][-1].device
        values = torch.stack([value.to(device) for value in self._pending[name]]).double()  # [step] or [step, K]
        sizes = self._sizes[name]
        if isinstance(sizes[0], Tensor):
            weights = torch.stack([torch.as_tensor(size, device=device) for size in sizes]).double()
        else:
            weights = torch.tensor(sizes, dtype=torch.float64, device=device)
        counted = torch.where(weights > 0, values * weights, 0.0)
        wild = ~torch.isfinite(counted)
        steps = torch.arange(1, len(values) + 1, device=device).view(-1, *(1,) * (values.ndim - 1))
        first = (steps + self._num_folded.get(name, 0)).expand(wild.shape)
        found = torch.where(wild, first, torch.iinfo(first.dtype).max).amin(dim=0) * wild.any(dim=0)
        nothing = torch.zeros((), dtype=torch.float64)
        before = self._first_wild.get(name, nothing.long()).to(device)
        self._first_wild[name] = torch.where(before > 0, before, found)
        self._sums[name] = self._sums.get(name, nothing).to(device) + counted.sum(dim=0)
        self._weights[name] = self._weights.get(name, nothing).to(device) + weights.sum(dim=0)
        self._num_folded[name] = self._num_folded.get(name, 0) + len(values)
        self._pending[name], self._sizes[name] = [], []
