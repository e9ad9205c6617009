"""Every learner in a small size, and data for it: what the contract tests of learners are run on."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from training_core.config import Config
from training_core.learners import LearnerConfig
from training_core.schema import Batch, ColumnSpec, DataSpec, ModalitySpec, Samples, TaskSpec
from training_core.variants import kind_of, members

VECTOR = ModalitySpec(name="shape", kind="vector", shape=(5,))
TABLE = ModalitySpec(
    name="record",
    kind="tabular",
    shape=(5,),
    columns=tuple(ColumnSpec(name=n) for n in ("age", "size", "size is missing", "colour", "town")),
    cardinalities=(3, 4),
)
IMAGE = ModalitySpec(name="photo", kind="image", shape=(1, 8, 8))
SEQUENCE = ModalitySpec(name="trace", kind="sequence", shape=(12, 2))
STRINGS = ModalitySpec(name="note", kind="text", columns=(ColumnSpec(name="note"),))
TOKENS = STRINGS.model_copy(update={"shape": (6,), "vocabulary_size": 40})

CLASSES = TaskSpec.classification(("ash", "elm", "oak"))
LABELS = TaskSpec.multilabel(("tall", "green"))
VALUES = TaskSpec.regression(("height", "girth"))
TASKS = pytest.mark.parametrize("task", [CLASSES, LABELS, VALUES], ids=lambda task: task.kind)

QUICK: dict[str, dict[str, Any]] = {
    "extra_trees": {"num_trees": 12},
    "hist_boosting": {"max_rounds": 12},
    "lightgbm": {"max_rounds": 12, "learning_rate": 0.3},
    "tabular_mlp": {"width": 32},
    "image_cnn": {"channels": 8},
    "fusion_net": {"width": 16},
    "tabular_transformer": {"width": 16},
    "tabular_resnet": {"width": 32},
    "sequence_net": {"width": 16},
    "text_net": {"embedding_width": 16, "width": 16},
}
CONFIGS: list[Any] = [member.parse(QUICK.get(kind_of(member), {}), "test") for member in members(LearnerConfig)]
NETS = [config for config in CONFIGS if config.family == "net"]
ESTIMATORS = [config for config in CONFIGS if config.family == "estimator"]


def kind(config: Config) -> str:
    return kind_of(type(config))


every_learner = pytest.mark.parametrize("config", CONFIGS, ids=kind)
every_net = pytest.mark.parametrize("config", NETS, ids=kind)
every_estimator = pytest.mark.parametrize("config", ESTIMATORS, ids=kind)


def spec_for(config: Any, task: TaskSpec) -> DataSpec:
    """One modality of every kind the learner takes, encoded, up to as many as it takes."""
    text = TOKENS if config.text_input == "tokens" else STRINGS
    every = [m for m in (VECTOR, TABLE, IMAGE, SEQUENCE, text) if m.kind in config.modality_kinds]
    return DataSpec(modalities=tuple(every[: config.max_modalities]), task=task)


def samples_for(spec: DataSpec, num_rows: int = 90, seed: int = 0) -> Samples:
    """Rows whose every modality tells the target; about one in eight modalities is absent, and its values noise."""
    rng = np.random.default_rng(seed)
    hidden = rng.integers(0, 3, num_rows)
    words = np.array(["bark grey rough", "leaf green smooth", "acorn brown small"], dtype=object)
    inputs: dict[str, np.ndarray] = {}
    for modality in spec.modalities:
        if modality.kind == "text":
            tokens = 1 + 10 * hidden[:, None] + rng.integers(0, 10, (num_rows, 6))
            inputs[modality.name] = tokens if modality.vocabulary_size else words[hidden]
        else:
            pattern = np.random.default_rng(99).normal(size=(3, *modality.shape))
            inputs[modality.name] = pattern[hidden] + 0.5 * rng.normal(size=(num_rows, *modality.shape))
        if modality.kind == "tabular":
            inputs[modality.name][:, 2:] = np.stack([hidden == 0, hidden % 3, rng.integers(0, 4, num_rows)], axis=1)
    available = {name: rng.random(num_rows) > 0.12 for name in spec.names}
    if len(spec.modalities) == 1:
        available = {name: np.ones(num_rows, dtype=bool) for name in spec.names}
    target: np.ndarray = hidden.astype(np.int64)
    if spec.task.kind == "multilabel":
        target = np.stack([hidden > 0, hidden == 1], axis=1).astype(np.float32)
    if spec.task.kind == "regression":
        target = np.stack([hidden - 1.0, 1.0 - hidden**2], axis=1) + 0.01 * rng.normal(size=(num_rows, 2))
    ids = np.array([f"row {i}" for i in range(num_rows)], dtype=object)
    return Samples(inputs, available, ids, target)


def to_batch(samples: Samples, spec: DataSpec) -> Batch:
    inputs = {n: torch.as_tensor(v, dtype=torch.int64 if v.dtype.kind == "i" else torch.float32)
              for n, v in samples.inputs.items()}  # fmt: skip
    target = torch.as_tensor(samples.target, dtype=torch.int64 if spec.task.kind == "classification" else torch.float32)
    return Batch(inputs, torch.as_tensor(samples.availability(spec.names)), target)


def spoil_absent(samples: Samples) -> Samples:
    """The same samples with other values where a modality is absent, wild ones at that."""
    inputs = {}
    for name, values in samples.inputs.items():
        spoilt = values.copy()
        there = samples.available[name]
        spoilt[~there] = "acorn acorn leaf" if values.dtype == object else 7 if values.dtype.kind == "i" else np.nan
        inputs[name] = spoilt
    return replace(samples, inputs=inputs)


def score(task: TaskSpec, predicted: np.ndarray, target: np.ndarray) -> float:
    """Accuracy, or R²."""
    if task.kind == "classification":
        return float((predicted.argmax(axis=1) == target).mean())
    if task.kind == "multilabel":
        return float(((predicted > 0.5) == (target > 0.5)).mean())
    return 1 - float(((predicted - target) ** 2).mean() / target.var(axis=0).mean())
