"""Arithmetic in 16 bits, the scale float16 needs for its gradients, and numbers that are finite no more."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from training_core.engine.training import Precision
from training_core.errors import DivergenceError
from training_core.objectives import Loss, Objective
from training_core.schema import Batch

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_SMALLEST_SCALE = 2.0**-13
"""Below it the smallest number of float16, 6e-8, stands for a gradient of 5e-4: training goes nowhere (fairseq stops
at 1e-4 as well)."""


class Autocast:
    """An objective, judged in `precision`: torch chooses per operation, and the weights stay as they are."""

    def __init__(self, objective: Objective, precision: Precision, device_type: str) -> None:
        self._objective = objective
        self._dtype = _DTYPES[precision]
        self._device_type = device_type

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """The loss; the backward pass follows the precision of the forward pass and belongs outside."""
        with torch.autocast(self._device_type, dtype=self._dtype):
            return self._objective(model, batch)


class LossScaler:
    """What a loss is multiplied by so that its gradients are not lost below float16's smallest number.

    Micikevicius et al. 2018, arXiv:1710.03740, section 3.2: halved when a gradient overflows, and that update is left
    out; doubled after 2,000 updates in a row without one. The numbers are those of `torch.amp.GradScaler`. Powers of
    two, so that multiplying and dividing again changes no bit.
    """

    def __init__(self, scale: float = 2.0**16, growth_interval: int = 2000) -> None:
        """Begin with `scale`; grow after `growth_interval` good updates."""
        self.scale = scale
        self.num_skipped = 0
        self._growth_interval = growth_interval
        self._num_good = 0
        self._num_bad = 0

    def update(self, is_finite: bool) -> None:
        """Take note of whether all gradients of an update were finite.

        Raises:
            DivergenceError: they were not, however small the scale had become.
        """
        if is_finite:
            self._num_bad = 0
            self._num_good += 1
            if self._num_good == self._growth_interval:
                self.scale, self._num_good = 2 * self.scale, 0
            return
        self._num_good = 0
        self._num_bad += 1
        self.num_skipped += 1
        self.scale /= 2
        if self.scale < _SMALLEST_SCALE:
            raise DivergenceError(
                f"training in fp16: the gradients of {self._num_bad} updates in a row were not finite, and the scale "
                f"of the loss fell to {self.scale:.1e}; set `training.precision` to bf16 or float32, lower "
                "`training.lr`, and look for extreme values in the data"
            )

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return {
            "scale": self.scale,
            "num_skipped": self.num_skipped,
            "num_good": self._num_good,
            "num_bad": self._num_bad,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.scale, self.num_skipped = state["scale"], state["num_skipped"]
        self._num_good, self._num_bad = state["num_good"], state["num_bad"]


def first_wild_parameter(model: nn.Module) -> str | None:
    """The first parameter that is not finite, in words; None when all are. Waits for the device, once."""
    named = [
        (name, parameter.detach())
        for name, parameter in model.named_parameters()
        if parameter.is_floating_point() and parameter.numel()
    ]
    # The largest magnitude of each, in one go: nan and inf are not lost in it, and a norm could overflow.
    largest = torch._foreach_norm([parameter for _, parameter in named], float("inf"))  # pyright: ignore[reportPrivateImportUsage]
    if bool(torch.isfinite(torch.stack(largest)).all()):
        return None
    wild = [name for name, parameter in named if not bool(torch.isfinite(parameter).all())]
    return f"parameter '{wild[0]}' is not finite"
