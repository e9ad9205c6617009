"""A small net with latents, and rows of every kind of modality, for tests of denoising."""

from typing import Any

import torch
from torch import Tensor

from training_core.learners import FusionNetConfig
from training_core.objectives.denoising import DenoisedNet, DenoisingConfig
from training_core.schema import Batch, ColumnSpec, DataSpec, ModalitySpec, TaskSpec

VECTOR = ModalitySpec(name="shape", kind="vector", shape=(5,))
TABLE = ModalitySpec(
    name="record",
    kind="tabular",
    shape=(4,),
    columns=tuple(ColumnSpec(name=name) for name in ("age", "size", "colour", "town")),
    cardinalities=(3, 4),
)
IMAGE = ModalitySpec(name="photo", kind="image", shape=(2, 9, 7))
SEQUENCE = ModalitySpec(name="trace", kind="sequence", shape=(12, 2))
TOKENS = ModalitySpec(name="note", kind="text", shape=(6,), vocabulary_size=40)
EVERY_KIND = (VECTOR, TABLE, IMAGE, SEQUENCE, TOKENS)

CLASSES = TaskSpec.classification("abc")
LABELS = TaskSpec.multilabel("ab")
VALUES = TaskSpec.regression(("height", "girth"))


def spec_of(*modalities: ModalitySpec, task: TaskSpec = CLASSES) -> DataSpec:
    return DataSpec(modalities=modalities or EVERY_KIND, task=task)


def values_of(modality: ModalitySpec, num_rows: int, source: torch.Generator) -> Tensor:
    if modality.kind == "text":
        return torch.randint(0, modality.vocabulary_size, (num_rows, *modality.shape), generator=source)
    values = torch.randn(num_rows, *modality.shape, generator=source, dtype=torch.float64)
    for i, cardinality in enumerate(modality.cardinalities):
        values[:, modality.num_numeric + i] = torch.randint(0, cardinality, (num_rows,), generator=source).double()
    return values


def batch_of(spec: DataSpec, num_rows: int = 6, seed: int = 0, absent: float = 0.2, hidden: float = 0.3) -> Batch:
    """Rows of which some modalities are absent and some more are hidden; at least one is always shown."""
    source = torch.Generator().manual_seed(seed)
    inputs = {modality.name: values_of(modality, num_rows, source) for modality in spec.modalities}
    draw = torch.rand(num_rows, len(spec.modalities), generator=source)
    present = (draw > absent) | (draw == draw.amax(dim=1, keepdim=True))
    shown = present & ((draw > absent + hidden) | (draw == draw.amax(dim=1, keepdim=True)))
    target = torch.randint(0, 2, (num_rows,), generator=source)
    if spec.task.kind != "classification":
        target = torch.randint(0, 2, (num_rows, 2), generator=source).double()
    return Batch(inputs, shown, target, present=present)


def denoised(spec: DataSpec, *objectives: Any, seed: int = 0, width: int = 8, **settings: Any) -> DenoisedNet:
    """A fusion net of float64 without dropout, with the parts that these objectives need."""
    net = FusionNetConfig(width=width, num_heads=2, dropout=0.0).build(spec, seed)
    config = DenoisingConfig(enabled=True, objectives=objectives, **settings)
    torch.manual_seed(seed)
    return DenoisedNet(net, spec, config).double()
