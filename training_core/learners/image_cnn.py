"""Small residual convolutional network for one image."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from torch import Tensor, nn

from training_core.learners.base import LearnerBase
from training_core.learners.encoders import MIN_MAP_SIDE, ImageTrunk, blank, image_work
from training_core.learners.net_cost import training_cost
from training_core.quantities import PositiveInt, Rate, SearchChoices, SearchRange
from training_core.schema import DataSpec, ModalityKind
from training_core.seeding import torch_seeded


class ImageCNNConfig(LearnerBase):
    """Residual blocks, halving the image until about 4 x 4 is left."""

    family: ClassVar[Literal["net", "estimator"]] = "net"
    modality_kinds: ClassVar[frozenset[ModalityKind]] = frozenset({"image"})
    max_modalities: ClassVar[int | None] = 1
    quality_prior: ClassVar[float] = 0.75

    kind: Literal["image_cnn"] = "image_cnn"
    channels: Annotated[PositiveInt, SearchChoices(8, 16, 32)] = 16
    """Channels at full size; they double with each halving."""
    dropout: Annotated[Rate, SearchRange(0.0, 0.5)] = 0.2
    """Share of features left out before the last layer."""

    def supports(self, spec: DataSpec) -> str | None:
        """As `LearnerBase.supports`; an image smaller than 4 x 4 is for a vector learner."""
        reason = super().supports(spec)
        if reason is None and min(spec.modalities[0].shape[1:]) < MIN_MAP_SIDE:
            height, width = spec.modalities[0].shape[1:]
            reason = f"an image of {height} x {width} is too small for it; at least {MIN_MAP_SIDE} x {MIN_MAP_SIDE}"
        return reason

    def build(self, spec: DataSpec, seed: int) -> nn.Module:
        """A fresh net for the encoded `spec`."""
        self.require(spec)
        with torch_seeded(seed, "weights"):
            return ImageCNN(self, spec)

    def estimate_cost(self, spec: DataSpec, num_rows: int, epochs: int) -> tuple[float, float]:
        """The convolutions, per row and epoch."""
        image = spec.modalities[0]
        forward = image_work(image, self.channels)
        pixels = image.shape[1] * image.shape[2]
        return training_cost(forward, 4 * forward / pixels, 0, image.num_features, num_rows, epochs)


class ImageCNN(nn.Module):
    """A trunk and a linear head."""

    def __init__(self, config: ImageCNNConfig, spec: DataSpec) -> None:
        super().__init__()
        (self.name,) = spec.names
        self.trunk = ImageTrunk(spec.modalities[0], config.channels)
        self.head = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(self.trunk.width, spec.task.num_outputs))

    def forward(self, inputs: Mapping[str, Tensor], available: Tensor) -> Tensor:
        """Raw outputs [B, num_outputs]; an absent image is answered as a blank one."""
        return self.head(self.trunk(blank(inputs[self.name], available[:, 0])))
