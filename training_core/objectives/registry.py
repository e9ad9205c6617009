"""Losses by name, for settings that come as text, and the loss each task has by default."""

import inspect
from collections.abc import Mapping

from training_core.errors import ConfigError
from training_core.objectives.adapted_losses import PEFTAwareLoss, QuantizationSafeLoss
from training_core.objectives.class_losses import ClassificationLoss, FocalLoss, MultilabelFocalLoss, MultilabelLoss
from training_core.objectives.position_losses import LanguageModelingLoss, SegmentationLoss
from training_core.objectives.strategy import LossStrategy, PerSampleLoss
from training_core.objectives.value_losses import GaussianNLLLoss, HuberLoss, QuantileLoss, RegressionLoss
from training_core.objectives.vision_loss import VisionLoss
from training_core.schema import TaskSpec

_BUILT_IN: Mapping[str, LossStrategy] = {
    "classification": ClassificationLoss(),
    "focal": FocalLoss(),
    "multilabel": MultilabelLoss(),
    "multilabel_focal": MultilabelFocalLoss(),
    "regression": RegressionLoss(),
    "huber": HuberLoss(),
    "quantile": QuantileLoss(),
    "gaussian_nll": GaussianNLLLoss(),
    "language_modeling": LanguageModelingLoss(),
    "segmentation": SegmentationLoss(),
    "vision": VisionLoss(),
    "peft_aware": PEFTAwareLoss(),
    "quantization_safe": QuantizationSafeLoss(),
}


class LossStrategyRegistry:
    """Loss strategies by name: the built-in ones, and those that were registered."""

    def __init__(self) -> None:
        self._strategies: dict[str, LossStrategy] = dict(_BUILT_IN)

    def names(self) -> tuple[str, ...]:
        """All names, in the order they came."""
        return tuple(self._strategies)

    def get(self, name: str) -> LossStrategy:
        """The strategy of that name.

        Raises:
            ConfigError: there is none; the names are listed.
        """
        if name not in self._strategies:
            raise ConfigError(f"unknown loss '{name}'; choose one of {', '.join(self._strategies)}, or register yours")
        return self._strategies[name]

    def register(self, name: str, strategy: LossStrategy) -> None:
        """Make `strategy` known as `name`.

        One that inherits `PerSampleLoss` can be used with weighted samples and in cohorts too.

        Raises:
            ConfigError: the name is taken or empty, or `strategy` is no loss strategy.
        """
        if not name.strip() or name == "default":
            raise ConfigError(f"a loss cannot be called {name!r}; give it a name of its own")
        if name in self._strategies:
            raise ConfigError(f"there is a loss '{name}' already; give yours another name")
        if isinstance(strategy, type):
            raise ConfigError(f"loss '{name}': {strategy.__name__} is a class; register an instance of it")
        _check_method(name, strategy, "compute_loss", 3)
        _check_method(name, strategy, "validate_inputs", 2)
        self._strategies[name] = strategy


LOSSES = LossStrategyRegistry()
"""The losses that settings can name in this process."""


def get_loss_strategy(name: str) -> LossStrategy:
    """The strategy that settings mean by `name`.

    Raises:
        ConfigError: there is none; the names are listed.
    """
    return LOSSES.get(name)


def default_loss(task: TaskSpec) -> PerSampleLoss:
    """The loss of a task when no other is named."""
    if task.unit == "next_token":
        return LanguageModelingLoss()
    if task.unit == "pixel":
        return SegmentationLoss()
    match task.kind:
        case "classification":
            return ClassificationLoss()
        case "multilabel":
            return MultilabelLoss()
        case "regression":
            return RegressionLoss()


def _check_method(name: str, strategy: object, method: str, num_arguments: int) -> None:
    """Raise a `ConfigError` unless `strategy` has the method and it can be called with so many arguments."""
    arguments = ("logits", "labels", "inputs")[:num_arguments]
    call = f"{method}({', '.join(arguments)})"
    found = getattr(strategy, method, None)
    if not callable(found):
        raise ConfigError(f"loss '{name}': {type(strategy).__name__} has no method {call}")
    try:
        inspect.signature(found).bind(*arguments)
    except TypeError as error:
        raise ConfigError(f"loss '{name}': {method} cannot be called as {call}: {error}") from None
