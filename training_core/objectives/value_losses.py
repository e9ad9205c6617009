"""Losses of real numbers. B samples, K target columns."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from training_core.errors import ConfigError
from training_core.objectives.losses import gaussian_nll, huber, pinball, squared_error
from training_core.objectives.strategy import LossInputs, PerSampleLoss, expect
from training_core.schema import TaskKind


@dataclass(frozen=True, eq=False)
class RegressionLoss(PerSampleLoss):
    """Squared error of values [B, K] with their targets [B, K], averaged over the columns."""

    name: ClassVar[str] = "squared_error"
    tasks: ClassVar[frozenset[TaskKind]] = frozenset({"regression"})

    def losses(self, logits: Tensor, labels: Tensor, inputs: LossInputs | None = None) -> Tensor:
        """Squared error [B]."""
        return squared_error(logits, labels)

    def plain_mean(self, logits: Tensor, labels: Tensor) -> Tensor:
        """In torch's one operation."""
        return functional.mse_loss(logits, labels)

    def predict(self, logits: Tensor) -> Tensor:
        """The values themselves."""
        return logits

    def validate_inputs(self, logits: Tensor, labels: Tensor) -> None:
        """Outputs [B, K · outputs per target] and targets [B, K], both floats."""
        fits = logits.ndim == labels.ndim == 2 and logits.is_floating_point() and labels.is_floating_point()
        width = self.outputs_per_target
        fits = fits and logits.shape == (labels.shape[0], labels.shape[1] * width)
        columns = "K" if width == 1 else f"{width} · K"
        expect(fits, self, logits, labels, f"outputs float [B, {columns}] and values float [B, K]")


@dataclass(frozen=True, eq=False)
class HuberLoss(RegressionLoss):
    """Squared error near the target, linear far from it: outliers pull less.

    Raises:
        ConfigError: `delta` is not positive.
    """

    name: ClassVar[str] = "huber"

    delta: float = 1.0
    """Where it turns linear; learners are given targets whose standard deviation is 1."""

    def __post_init__(self) -> None:
        if not 0 < self.delta < float("inf"):
            raise ConfigError(f"delta is {self.delta}; it must be a positive number")

    def losses(self, logits: Tensor, labels: Tensor, inputs: LossInputs | None = None) -> Tensor:
        """Huber loss [B]."""
        return huber(logits, labels, self.delta)

    def plain_mean(self, logits: Tensor, labels: Tensor) -> Tensor:
        """In torch's one operation."""
        return functional.huber_loss(logits, labels, delta=self.delta)


@dataclass(frozen=True, eq=False)
class QuantileLoss(RegressionLoss):
    """Pinball loss, whose minimum is at quantiles of the target; by default the median.

    Several quantiles need a model with as many outputs for each target column: [B, K · Q], column after column.

    Raises:
        ConfigError: a quantile is not in (0, 1).
    """

    name: ClassVar[str] = "quantile"

    quantiles: tuple[float, ...] = (0.5,)
    """In (0, 1)."""

    def __post_init__(self) -> None:
        if not self.quantiles or not all(0 < quantile < 1 for quantile in self.quantiles):
            raise ConfigError(f"quantiles are {self.quantiles}; give one or more numbers in (0, 1)")

    @property
    def outputs_per_target(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """One per quantile."""
        return len(self.quantiles)

    def losses(self, logits: Tensor, labels: Tensor, inputs: LossInputs | None = None) -> Tensor:
        """Pinball loss [B]."""
        raw = logits.unflatten(-1, (-1, len(self.quantiles)))
        quantiles = [torch.full((), quantile, dtype=raw.dtype, device=raw.device) for quantile in self.quantiles]
        return pinball(raw, labels, torch.stack(quantiles))

    def plain_mean(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean of `losses`."""
        return self.losses(logits, labels).mean()


@dataclass(frozen=True, eq=False)
class GaussianNLLLoss(RegressionLoss):
    """Negative log-likelihood of the target under a normal distribution whose width the model says too.

    The model has two outputs for each target column: the means [B, K], then the logarithms of the variances [B, K].
    """

    name: ClassVar[str] = "gaussian_nll"
    outputs_per_target: ClassVar[int] = 2

    def losses(self, logits: Tensor, labels: Tensor, inputs: LossInputs | None = None) -> Tensor:
        """Negative log-likelihood [B] without its constant."""
        mean, log_variance = logits.chunk(2, dim=-1)
        return gaussian_nll(mean, log_variance, labels)

    def plain_mean(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean of `losses`."""
        return self.losses(logits, labels).mean()

    def predict(self, logits: Tensor) -> Tensor:
        """The means [B, K]."""
        return logits.chunk(2, dim=-1)[0]
