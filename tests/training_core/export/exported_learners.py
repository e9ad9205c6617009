"""Fitted learners of every kind on five modalities, without training time: nets keep the weights they start with."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from training_core.artifacts import ArtifactRef, open_published, publish_directory
from training_core.data.preprocessing import Preprocessor
from training_core.engine.trained import TrainedLearner
from training_core.learners import (
    FusionNetConfig,
    LearnerBase,
    LearnerConfig,
    LightGBMConfig,
    SequenceNetConfig,
    TextNetConfig,
    TfidfLinearConfig,
)
from training_core.learners.text_features import TextFeaturesConfig
from training_core.schema import ColumnSpec, DataSpec, ModalitySpec, Samples, TaskSpec, patterns_to_judge
from training_core.selection.combination import PatternWeights
from training_core.selection.manifest import EnsembleManifest, Member

CITIES = ("Bonn", "Köln", "7", "Ulm")
COLUMNS = (
    ColumnSpec(name="age"),
    ColumnSpec(name="city", categories=CITIES),
    ColumnSpec(name="size"),
    ColumnSpec(name="shop", categories=tuple(f"shop {i}" for i in range(40))),
)
MODALITIES = (
    ModalitySpec(name="vec", kind="vector", shape=(6,)),
    ModalitySpec(name="meta", kind="tabular", shape=(4,), columns=COLUMNS),
    ModalitySpec(name="review", kind="text", columns=(ColumnSpec(name="title"), ColumnSpec(name="body"))),
    ModalitySpec(name="note", kind="text", columns=(ColumnSpec(name="note"),)),
    ModalitySpec(name="photo", kind="image", shape=(2, 8, 8)),
    ModalitySpec(name="walk", kind="sequence", shape=(16, 3)),
)
TASKS = {
    "classification": TaskSpec.classification(["no", "yes", "perhaps"]),
    "two classes": TaskSpec.classification(["no", "yes"]),
    "multilabel": TaskSpec.multilabel(["red", "old"]),
    "regression": TaskSpec.regression(["price", "age"]),
    "rating": TaskSpec.regression(["stars"]),
}
LEARNERS: dict[str, type[LearnerBase]] = {
    config.model_fields["kind"].default: config for config in get_args(get_args(LearnerConfig)[0])
}
SEVERAL = {
    "fusion_net filling": FusionNetConfig(fill_missing=True),
    "sequence_net gru": SequenceNetConfig(cell="gru", width=8),
    "sequence_net lstm": SequenceNetConfig(cell="lstm", width=8),
    "text_net convolution": TextNetConfig(pooling="convolution"),
    "tfidf_linear characters": TfidfLinearConfig(text=TextFeaturesConfig(analyzer="characters", max_vocabulary=400)),
    "lightgbm characters": LightGBMConfig(
        max_rounds=20, text=TextFeaturesConfig(analyzer="characters", max_vocabulary=400)
    ),
}
QUICK = {"hist_boosting": {"max_rounds": 20}, "lightgbm": {"max_rounds": 20}, "extra_trees": {"num_trees": 25}}
CONFIGS = {kind: config(**QUICK.get(kind, {})) for kind, config in LEARNERS.items()} | SEVERAL
_WORDS = np.array(
    ["good", "bad", "fine", "Köln", "I", "5", "don't", "so", "🙂", "supercalifragilistic", "naïve", "a b"]
)


def samples_of(task: TaskSpec, num_rows: int, seed: int) -> Samples:
    """Random rows in which some cells and some modalities are missing."""
    random = np.random.default_rng(seed)
    table = random.normal(size=(num_rows, 4)) * 30
    table[:, 1] = random.integers(0, len(CITIES), num_rows)
    table[:, 3] = random.integers(0, 40, num_rows)
    table[random.random(table.shape) < 0.15] = np.nan
    walk = random.normal(size=(num_rows, 16, 3))
    walk[::3, 9:] = walk[::3, 8:9]
    texts = [
        np.array([" ".join(random.choice(_WORDS, random.integers(0, 12))) for _ in range(num_rows)], dtype=object)
        for _ in range(2)
    ]
    target = {
        "classification": random.integers(0, task.num_outputs, num_rows),
        "multilabel": (random.random((num_rows, task.num_outputs)) < 0.4).astype(np.float32),
        "regression": random.normal(size=(num_rows, task.num_outputs)) * 9 + 40,
    }[task.kind]
    if task.targets == ("stars",):
        target = random.integers(1, 6, (num_rows, 1)).astype(np.float64)
    available = {m.name: random.random(num_rows) < 0.8 for m in MODALITIES}
    return Samples(
        inputs={
            "vec": (random.normal(size=(num_rows, 6)) * 3 + 1).astype(np.float32),
            "meta": table,
            "review": texts[0],
            "note": texts[1],
            "photo": random.random((num_rows, 2, 8, 8)).astype(np.float32),
            "walk": walk.astype(np.float32),
        },
        available=available,
        ids=np.array([str(row) for row in range(num_rows)], dtype=object),
        target=target,
    )


def fitted(config: LearnerConfig, task: TaskSpec, num_rows: int = 240, **only: tuple[int, ...]) -> TrainedLearner:
    """A learner of every modality it takes, of the columns in `only` where given."""
    spec = DataSpec(modalities=MODALITIES, task=task)
    names = [m.name for m in MODALITIES if m.kind in config.modality_kinds][: config.max_modalities]
    samples = samples_of(task, num_rows, seed=1)
    own = samples.select(names, only)
    preprocessor = Preprocessor.fit(own, spec.select(names, only), text=config.text_input)
    model = config.build(preprocessor.spec, 3)
    if isinstance(model, torch.nn.Module):
        with torch.no_grad():  # away from where they start, where many are 0 or 1
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))
    else:
        model.fit(preprocessor.encode(own))
    tolerates = frozenset(names) if config.meets_missing else frozenset()
    return TrainedLearner(config, preprocessor, model, only, tolerates)


def ensemble_of(folder: Path, learners: Mapping[str, TrainedLearner], task: TaskSpec) -> ArtifactRef:
    """A published ensemble in which all `learners` count the same, whatever is missing."""
    members = []
    for name, learner in learners.items():
        place = folder / "unpublished" / name
        place.mkdir(parents=True)
        learner.save(place)
        members.append(
            Member(name=name, folder=f"members/{name}", kind=learner.config.kind, modalities=learner.modalities)
        )
    names = [m.name for m in MODALITIES]
    width = task.num_outputs
    patterns = tuple(
        PatternWeights(available=tuple(n for n in names if n in pattern), weights=dict.fromkeys(learners, 1.0))
        for pattern in patterns_to_judge(names)
    )
    manifest = EnsembleManifest(
        name="every kind",
        spec=DataSpec(modalities=MODALITIES, task=task),
        members=tuple(members),
        patterns=patterns,
        prior=(1 / width,) * width,
        prior_std=(9.0,) * width if task.kind == "regression" else None,
    )
    with publish_directory(folder / "ensemble") as unfinished:
        shutil.copytree(folder / "unpublished", unfinished / "members")
        (unfinished / "ensemble.json").write_text(manifest.model_dump_json())
    return open_published(folder / "ensemble")
