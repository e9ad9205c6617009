"""An exponential moving average of a net's weights: often better than the last weights, and smoother to validate."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from training_core.engine.loop import Hook, TrainingState
from training_core.errors import ConfigError


class WeightAverage:
    """`average ← d · average + (1 - d) · weights` after every update, with `d = min(decay, (1 + n) / (10 + n))`.

    `n` counts the updates before this one. The growing `d` lets the first weights be forgotten: without it a part
    `decay^n` of the random weights training began with would stay in the average; with it the part left is at most
    `9! n! / (n + 9)!` while `d` grows, and the average reaches over about the last ninth of the updates. (The formula
    is that of `num_updates` of TensorFlow's `tf.train.ExponentialMovingAverage`.)

    Parameters of floating point are averaged. Buffers, such as the running statistics of a normaliser, are not: the
    averaged net has those of the net as they are.
    """

    def __init__(self, decay: float) -> None:
        """Prepare nothing yet: `start` sees the model.

        Args:
            decay: in (0, 1); the average reaches over about the last `1 / (1 - decay)` updates.

        Raises:
            ConfigError: `decay` lies elsewhere.
        """
        if not 0 < decay < 1:
            raise ConfigError(f"the decay of the average of weights is {decay}; it must lie between 0 and 1, as 0.999")
        self._decay = decay
        self._num_updates = 0
        self._live: list[Tensor] = []
        self._average: list[Tensor] = []
        self._swapped = False

    def start(self, model: nn.Module) -> None:
        """Begin with the weights `model` has now; their tensors are followed from then on."""
        self._num_updates = 0
        self._live = [parameter.detach() for parameter in _averaged(model)]
        self._average = [tensor.clone() for tensor in self._live]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights; call it after every step of the optimiser that was made."""
        decay = min(self._decay, (1 + self._num_updates) / (10 + self._num_updates))
        torch._foreach_lerp_(self._average, self._live, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        self._num_updates += 1

    @contextmanager
    def swapped(self, model: nn.Module) -> Iterator[None]:
        """Within the block `model`, the one given to `start`, has the averaged weights; then its own, bit for bit.

        The tensors stay where they are, so whoever holds them sees the change. Do not update within the block.
        """
        assert not self._swapped, "the weights are swapped already"
        places = [parameter.data_ptr() for parameter in _averaged(model)]
        assert places == [tensor.data_ptr() for tensor in self._live], "another model than at the start"
        self._exchange()
        self._swapped = True
        try:
            yield
        finally:
            self._exchange()
            self._swapped = False

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Give `model`, which may be another of the same build, the averaged weights for good."""
        torch._foreach_copy_([parameter.detach() for parameter in _averaged(model)], self._average)  # pyright: ignore[reportPrivateImportUsage]

    def state_dict(self) -> dict[str, Any]:
        """The average, as live tensors, and the count of updates."""
        return {"num_updates": self._num_updates, "average": self._average}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave; called after `start`."""
        self._num_updates = state["num_updates"]
        for mine, kept in zip(self._average, state["average"], strict=True):
            mine.copy_(kept)

    @torch.no_grad()
    def _exchange(self) -> None:
        """Swap weights and average, with room for the largest tensor only."""
        for live, average in zip(self._live, self._average, strict=True):
            kept = live.clone()
            live.copy_(average)
            average.copy_(kept)


class KeepAverage(Hook):
    """Leaves the averaged weights in the model when training ends; for trainings that validate nothing.

    `Validation` with an average keeps the best averaged weights itself and must not be followed by this.
    """

    def __init__(self, average: WeightAverage) -> None:
        self._average = average

    def on_training_end(self, state: TrainingState, model: nn.Module) -> None:
        """Put the averaged weights into the model."""
        self._average.copy_to(model)


def _averaged(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.is_floating_point()]
