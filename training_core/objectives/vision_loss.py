"""The loss of images: one class for each, or one for each of their pixels."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from training_core.errors import ConfigError
from training_core.objectives.class_losses import ClassificationLoss
from training_core.objectives.position_losses import SegmentationLoss
from training_core.objectives.strategy import ClassWeights, LossInputs, PerSampleLoss
from training_core.schema import TaskKind, TaskUnit

VisionTask = Literal["classification", "segmentation"]


@dataclass(frozen=True, eq=False)
class VisionLoss(PerSampleLoss):
    """`ClassificationLoss` or `SegmentationLoss`, by the name of the task.

    Raises:
        ConfigError: another task, such as detection, which has no loss here.
    """

    name: ClassVar[str] = "vision"
    tasks: ClassVar[frozenset[TaskKind]] = frozenset({"classification"})
    units: ClassVar[frozenset[TaskUnit]] = frozenset({"sample", "pixel"})

    task: VisionTask = "classification"
    class_weights: ClassWeights | None = None
    """What a sample, or a pixel, of each class counts."""
    label_smoothing: float = 0.0
    """Share of the target, in [0, 1), that is spread evenly over all classes."""

    def __post_init__(self) -> None:
        kinds = {"classification": ClassificationLoss, "segmentation": SegmentationLoss}
        if self.task not in kinds:
            raise ConfigError(
                f"no vision loss for '{self.task}'; there is {' and '.join(kinds)}. Detection needs boxes matched to "
                "objects, which is the model's own affair: register a loss strategy of yours"
            )
        inner = kinds[self.task](class_weights=self.class_weights, label_smoothing=self.label_smoothing)
        object.__setattr__(self, "_inner", inner)

    @property
    def inner(self) -> PerSampleLoss:
        """The loss that does it."""
        return self._inner  # pyright: ignore[reportAttributeAccessIssue]

    def losses(self, logits: Tensor, labels: Tensor, inputs: LossInputs | None = None) -> Tensor:
        """The loss of each image, [B]."""
        return self.inner.losses(logits, labels, inputs)

    def weights(self, labels: Tensor, inputs: LossInputs | None = None) -> Tensor | None:
        """What each image counts, [B]."""
        return self.inner.weights(labels, inputs)

    def plain_mean(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean over images."""
        return self.inner.plain_mean(logits, labels)

    def predict(self, logits: Tensor) -> Tensor:
        """Class probabilities."""
        return self.inner.predict(logits)

    def validate_inputs(self, logits: Tensor, labels: Tensor) -> None:
        """As the loss that does it."""
        self.inner.validate_inputs(logits, labels)
