"""Warnings about a training that goes wrong: a loss that jumps, an accuracy that falls, gradients that grow."""

import math
from collections.abc import Mapping
from typing import Any, Literal, TypedDict

from training_core.config import Config
from training_core.quantities import PositiveFloat, PositiveInt

AlertType = Literal["validation_loss_spike", "accuracy_drop", "gradient_norm", "drift"]


class Alert(TypedDict):
    """One warning, as plain values."""

    type: AlertType
    epoch: int
    """From 1."""
    value: float
    """What was seen."""
    limit: float
    """What it should not have crossed."""
    message: str


class AlertConfig(Config):
    """When to warn."""

    val_loss_spike_threshold: PositiveFloat = 0.2
    """Share of the lowest validation loss so far by which the loss may lie above it."""
    accuracy_drop_threshold: PositiveFloat = 0.05
    """How far the validation accuracy may lie below the highest so far."""
    gradient_norm_threshold: PositiveFloat = 10.0
    """Largest mean norm of all gradients together, before clipping."""
    patience_epochs: PositiveInt = 1
    """Epochs in a row that something must be wrong before there is a warning; there is one for as long as it lasts."""


class AlertWatch:
    """Compares every epoch with the best before it.

    Against the best and not the epoch before: a loss that creeps up by 10 % per epoch is as wrong as one that jumps.
    A loss that is not finite is a spike, an accuracy that is not finite is left out.
    """

    def __init__(self, config: AlertConfig) -> None:
        self._config = config
        self._lowest_loss = math.inf
        self._highest_accuracy = -math.inf
        self._num_wrong: dict[str, int] = {}

    def observe(
        self,
        epoch: int,
        validation_loss: float | None = None,
        accuracy: float | None = None,
        gradient_norm: float | None = None,
    ) -> list[Alert]:
        """The new warnings of an epoch; what is None is not watched."""
        alerts: list[Alert] = []
        if validation_loss is not None:
            limit = self._lowest_loss + self._config.val_loss_spike_threshold * abs(self._lowest_loss)
            wrong = not validation_loss <= limit
            message = f"validation loss {validation_loss:.4g} after {self._lowest_loss:.4g}, the lowest so far"
            alerts += self._alert("validation_loss_spike", wrong, epoch, validation_loss, limit, message)
            self._lowest_loss = min(self._lowest_loss, validation_loss if math.isfinite(validation_loss) else math.inf)
        if accuracy is not None and math.isfinite(accuracy):
            limit = self._highest_accuracy - self._config.accuracy_drop_threshold
            message = f"accuracy {accuracy:.4g} after {self._highest_accuracy:.4g}, the highest so far"
            alerts += self._alert("accuracy_drop", accuracy < limit, epoch, accuracy, limit, message)
            self._highest_accuracy = max(self._highest_accuracy, accuracy)
        if gradient_norm is not None:
            limit = self._config.gradient_norm_threshold
            message = f"gradient norm {gradient_norm:.4g}; lower the learning rate or clip"
            alerts += self._alert("gradient_norm", not gradient_norm <= limit, epoch, gradient_norm, limit, message)
        return alerts

    def state_dict(self) -> dict[str, Any]:
        """The best values so far, and how long something has been wrong."""
        return {
            "lowest_loss": self._lowest_loss,
            "highest_accuracy": self._highest_accuracy,
            "num_wrong": dict(self._num_wrong),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._lowest_loss, self._highest_accuracy = state["lowest_loss"], state["highest_accuracy"]
        self._num_wrong = dict(state["num_wrong"])

    def _alert(self, kind: AlertType, wrong: bool, epoch: int, value: float, limit: float, message: str) -> list[Alert]:
        """A warning when this has been wrong for just as many epochs as patience allows."""
        self._num_wrong[kind] = self._num_wrong.get(kind, 0) + 1 if wrong else 0
        if self._num_wrong[kind] != self._config.patience_epochs:
            return []
        return [Alert(type=kind, epoch=epoch, value=value, limit=limit, message=f"epoch {epoch}: {message}")]
