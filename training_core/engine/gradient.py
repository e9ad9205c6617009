"""The usual update: one backward pass and one optimiser step per batch."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from training_core.engine.loop import Update
from training_core.engine.optimizers import OptimizerConfig
from training_core.objectives import Objective
from training_core.schema import Batch


class GradientUpdate(Update[nn.Module, Batch]):
    """Backward, clip to a global norm, step. Metrics: `loss`, the loss's terms when it has several, `gradient_norm`."""

    def __init__(self, objective: Objective, optimizer: OptimizerConfig, *, clip_norm: float = 1.0) -> None:
        """Prepare nothing yet: `start` sees the model.

        Args:
            objective: what is minimised.
            optimizer: builds the optimiser of the model's parameters.
            clip_norm: largest norm of all gradients together; 0 leaves them alone.
        """
        self._objective = objective
        self._optimizer_config = optimizer
        self._clip_norm = clip_norm

    def start(self, model: nn.Module) -> None:
        """Build the optimiser and put the model into training mode."""
        self._optimizer = self._optimizer_config.build(model)
        self._parameters: list[Tensor] = [parameter for parameter in model.parameters() if parameter.requires_grad]
        model.train()

    def step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """One step; returns detached scalars on the batch's device, none of them read."""
        loss = self._objective(model, batch)
        loss.total.backward()
        norm = self._clip()
        self._optimizer.step()
        for parameter in self._parameters:
            parameter.grad = None
        metrics = {"loss": loss.total.detach()}
        if len(loss.terms) > 1:
            metrics |= {name: term.detach() for name, term in loss.terms.items()}
        metrics["gradient_norm"] = norm
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's."""
        return {"optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the optimiser's state."""
        self._optimizer.load_state_dict(state["optimizer"])

    def check(self, model: nn.Module) -> str | None:
        """The first parameter that is not finite, in words; None when all are."""
        # The largest magnitude of each, in one go: nan and inf are not lost in it, and a norm could overflow.
        largest = torch._foreach_norm(self._parameters, float("inf"))  # pyright: ignore[reportPrivateImportUsage]
        if bool(torch.isfinite(torch.stack(largest)).all()):
            return None
        wild = [name for name, parameter in model.named_parameters() if not bool(torch.isfinite(parameter).all())]
        return f"parameter '{wild[0]}' is not finite"

    def _clip(self) -> Tensor:
        """Scale all gradients so that their joint norm is at most `clip_norm`; returns the norm before that.

        A gradient that is not finite is not hidden: the norm says so, and so does the model after the step.
        """
        gradients = [gradient for parameter in self._parameters if (gradient := parameter.grad) is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))  # pyright: ignore[reportPrivateImportUsage]
        if self._clip_norm > 0:
            # Dividing by max(norm / clip_norm, 1) leaves a short gradient exactly as it is and a zero one zero.
            torch._foreach_div_(gradients, norm.clamp(min=self._clip_norm) / self._clip_norm)  # pyright: ignore[reportPrivateImportUsage]
        return norm
