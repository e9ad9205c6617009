"""From one modality's encoded values to a vector per sample: the parts that nets are put together from.

Shapes: B samples, D features, T time steps or tokens, W width. Every module here runs under `torch.vmap` with
stacked parameters: no control flow that depends on data, no boolean indexing, no running statistics.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from training_core.learners.base import TOKENS_PER_TEXT
from training_core.schema import ModalitySpec

CATEGORY_WIDTH = 8
"""Numbers per embedded category: enough to tell a few hundred apart."""
TOKEN_WIDTH = 64
"""Numbers per embedded text token."""
MIN_MAP_SIDE = 4
"""An image is halved until its longer side is no larger than this: what is left is about one stroke or part."""
MAX_NORM_GROUPS = 8


def blank(values: Tensor, available: Tensor) -> Tensor:
    """`values` [B, …] with every row that is not `available` (bool [B]) replaced by zeros, NaN and Inf included."""
    mask = available.reshape(available.shape + (1,) * (values.ndim - 1))
    return torch.where(mask, values, torch.zeros_like(values))


class TableFeatures(nn.Module):
    """An encoded table [B, D] to features [B, width]: numbers as they are, each code as a learned embedding."""

    def __init__(self, modality: ModalitySpec) -> None:
        super().__init__()
        self.num_numeric = modality.num_numeric
        self.width = self.num_numeric + CATEGORY_WIDTH * len(modality.cardinalities)
        starts = [sum(modality.cardinalities[:i]) for i in range(len(modality.cardinalities))]
        self.register_buffer("starts", torch.tensor(starts, dtype=torch.int64), persistent=False)
        last = [cardinality - 1 for cardinality in modality.cardinalities]
        self.register_buffer("last", torch.tensor(last, dtype=torch.int64), persistent=False)
        self.embedding = nn.Embedding(sum(modality.cardinalities), CATEGORY_WIDTH) if starts else None

    def forward(self, values: Tensor) -> Tensor:
        """[B, D] to [B, width]."""
        if self.embedding is None:
            return values
        codes = values[:, self.num_numeric :].long()
        codes = torch.minimum(codes.clamp(min=0), self.get_buffer("last")) + self.get_buffer("starts")
        return torch.cat([values[:, : self.num_numeric], self.embedding(codes).flatten(1)], dim=1)


class VectorFeatures(nn.Module):
    """A vector [B, D] as it is."""

    def __init__(self, modality: ModalitySpec) -> None:
        super().__init__()
        self.width = modality.num_features

    def forward(self, values: Tensor) -> Tensor:
        """[B, D] unchanged."""
        return values


class TextFeatures(nn.Module):
    """Token ids [B, T], 0 for padding, to features [B, width]: the sum of token embeddings over √(their number).

    The root keeps the spread of features the same for short and long texts, which a mean would shrink.
    """

    def __init__(self, modality: ModalitySpec) -> None:
        super().__init__()
        self.width = TOKEN_WIDTH
        self.embedding = nn.Embedding(modality.vocabulary_size, TOKEN_WIDTH)
        nn.init.normal_(self.embedding.weight, std=0.3)

    def forward(self, ids: Tensor) -> Tensor:
        """[B, T] int64 to [B, width]."""
        counts = (ids > 0).to(self.embedding.weight.dtype)
        embedded = self.embedding(ids) * counts.unsqueeze(-1)
        return embedded.sum(dim=1) / counts.sum(dim=1, keepdim=True).clamp(min=1.0).sqrt()


def flat_features(modality: ModalitySpec) -> TableFeatures | VectorFeatures | TextFeatures:
    """The features of a modality that needs no network of its own: vector, tabular or text."""
    kinds = {"vector": VectorFeatures, "tabular": TableFeatures, "text": TextFeatures}
    return kinds[modality.kind](modality)


class FlatEncoder(nn.Module):
    """Vector, table or text to [B, W]: its features through one hidden layer."""

    def __init__(self, modality: ModalitySpec, width: int, dropout: float) -> None:
        super().__init__()
        self.features = flat_features(modality)
        hidden = 2 * width
        self.layers = nn.Sequential(
            nn.Linear(self.features.width, hidden),
            nn.LayerNorm(hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, width),
        )

    def forward(self, values: Tensor) -> Tensor:
        """Encoded values to [B, W]."""
        return self.layers(self.features(values))


class ResidualBlock(nn.Module):
    """Normalise, activate, convolve, twice, beside a shortcut (He et al. 2016, arXiv:1603.05027), in 1-D or 2-D.

    Group normalisation (Wu & He 2018, arXiv:1803.08494) instead of batch normalisation: it keeps no statistics, so
    an answer does not depend on the other samples of the batch.
    """

    def __init__(self, num_in: int, num_out: int, stride: int, dimensions: int) -> None:
        super().__init__()
        convolution = nn.Conv1d if dimensions == 1 else nn.Conv2d
        size = 5 if dimensions == 1 else 3
        self.norms = nn.ModuleList([group_norm(num_in), group_norm(num_out)])
        self.first = convolution(num_in, num_out, size, stride=stride, padding=size // 2, bias=False)
        self.second = convolution(num_out, num_out, size, padding=size // 2, bias=False)
        changes = stride > 1 or num_in != num_out
        self.shortcut = convolution(num_in, num_out, 1, stride=stride, bias=False) if changes else nn.Identity()

    def forward(self, values: Tensor) -> Tensor:
        """[B, in, …] to [B, out, … / stride]."""
        hidden = self.first(functional.gelu(self.norms[0](values)))
        return self.shortcut(values) + self.second(functional.gelu(self.norms[1](hidden)))


class ImageTrunk(nn.Module):
    """An image [B, C, H, W] to features [B, width]: a small residual network, averaged and maximised over the map.

    From 8 x 8 up; a longer side over 32 is halved by the first convolution already.
    """

    def __init__(self, modality: ModalitySpec, channels: int) -> None:
        super().__init__()
        num_in, height, width = modality.shape
        stride = 2 if max(height, width) > 32 else 1
        side = math.ceil(max(height, width) / stride)
        self.stem = nn.Conv2d(num_in, channels, 3, stride=stride, padding=1)
        blocks = [ResidualBlock(channels, channels, 1, dimensions=2)]
        while side > MIN_MAP_SIDE:
            blocks.append(ResidualBlock(channels, 2 * channels, 2, dimensions=2))
            channels, side = 2 * channels, math.ceil(side / 2)
        self.blocks = nn.Sequential(*blocks)
        self.norm = group_norm(channels)
        self.width = 2 * channels

    def forward(self, values: Tensor) -> Tensor:
        """[B, C, H, W] to [B, width]."""
        maps = functional.gelu(self.norm(self.blocks(self.stem(values))))
        return torch.cat([maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))], dim=1)


class ImageEncoder(nn.Module):
    """An image [B, C, H, W] to [B, W]."""

    def __init__(self, modality: ModalitySpec, width: int, dropout: float) -> None:
        super().__init__()
        self.trunk = ImageTrunk(modality, channels=16)
        self.layers = nn.Sequential(nn.Dropout(dropout), nn.Linear(self.trunk.width, width))

    def forward(self, values: Tensor) -> Tensor:
        """[B, C, H, W] to [B, W]."""
        return self.layers(self.trunk(values))


class SequenceEncoder(nn.Module):
    """A sequence [B, T, F] to [B, W]: 1-D residual convolutions over time, averaged and maximised."""

    def __init__(self, modality: ModalitySpec, width: int, dropout: float) -> None:
        super().__init__()
        num_steps, num_features = modality.shape
        self.stem = nn.Conv1d(num_features, width, 5, padding=2)
        strides = [2 if num_steps >= 16 else 1, 2 if num_steps >= 32 else 1]
        self.blocks = nn.Sequential(*(ResidualBlock(width, width, stride, dimensions=1) for stride in strides))
        self.norm = group_norm(width)
        self.layers = nn.Sequential(nn.Dropout(dropout), nn.Linear(2 * width, width))

    def forward(self, values: Tensor) -> Tensor:
        """[B, T, F] to [B, W]."""
        steps = functional.gelu(self.norm(self.blocks(self.stem(values.transpose(1, 2)))))
        return self.layers(torch.cat([steps.mean(dim=2), steps.amax(dim=2)], dim=1))


def make_encoder(modality: ModalitySpec, width: int, dropout: float) -> nn.Module:
    """The encoder of any modality: values [B, …] to [B, width]."""
    if modality.kind == "image":
        return ImageEncoder(modality, width, dropout)
    if modality.kind == "sequence":
        return SequenceEncoder(modality, width, dropout)
    return FlatEncoder(modality, width, dropout)


def encoder_work(modality: ModalitySpec, width: int) -> float:
    """Multiply-adds of `make_encoder(modality, width)` on one sample, forward; spec as given or encoded."""
    if modality.kind == "image":
        return image_work(modality, channels=16)
    if modality.kind == "sequence":
        num_steps, num_features = modality.shape
        return 5.0 * width * num_steps * (num_features + 2.5 * width)
    return 2.0 * width * (flat_width(modality) + width) + text_work(modality)


def image_work(modality: ModalitySpec, channels: int) -> float:
    """Multiply-adds of `ImageTrunk` on one image: each halving has a quarter of the pixels, four times the weights."""
    num_in, height, width = modality.shape
    pixels = height * width / (4 if max(height, width) > 32 else 1)
    num_blocks = 1 + max(0, math.ceil(math.log2(max(height, width, MIN_MAP_SIDE) / MIN_MAP_SIDE)))
    return 9.0 * pixels * channels * (num_in + 2.0 * channels * num_blocks)


def flat_width(modality: ModalitySpec) -> int:
    """Width of `flat_features(modality)`, from a spec as given or encoded."""
    if modality.kind == "text":
        return TOKEN_WIDTH
    num_codes = len(modality.cardinalities) or sum(column.categories is not None for column in modality.columns)
    return modality.num_features + (CATEGORY_WIDTH - 1) * num_codes


def text_work(modality: ModalitySpec) -> float:
    """Multiply-adds of embedding one text; 0 for other kinds."""
    tokens = (modality.num_features or TOKENS_PER_TEXT) if modality.kind == "text" else 0
    return float(tokens * TOKEN_WIDTH)


def embedding_parameters(modality: ModalitySpec) -> float:
    """Parameters of the token embeddings, of the default vocabulary while text is still raw; 0 for other kinds."""
    return float((modality.vocabulary_size or 2**15) * TOKEN_WIDTH) if modality.kind == "text" else 0.0


def group_norm(channels: int) -> nn.GroupNorm:
    """Normalisation of `channels` channels in up to 8 groups; keeps no statistics."""
    return nn.GroupNorm(math.gcd(MAX_NORM_GROUPS, channels), channels)
