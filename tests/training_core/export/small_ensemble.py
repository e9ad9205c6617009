"""A small trained ensemble, published: two estimators and a net over a vector, a table and a text."""

from pathlib import Path

import numpy as np
import torch

from training_core.artifacts import ArtifactRef, open_published, publish_directory
from training_core.data.preprocessing import Preprocessor
from training_core.engine.trained import TrainedLearner
from training_core.learners import ExtraTreesConfig, LinearConfig, TabularMLPConfig
from training_core.schema import ColumnSpec, DataSpec, ModalitySpec, Samples, TaskSpec, pattern_key, patterns_to_judge
from training_core.selection.conclude import Candidate, conclude

COLUMNS = (ColumnSpec(name="age"), ColumnSpec(name="size"), ColumnSpec(name="city", categories=("Bonn", "Köln", "7")))
MODALITIES = (
    ModalitySpec(name="vec", kind="vector", shape=(4,)),
    ModalitySpec(name="meta", kind="tabular", shape=(3,), columns=COLUMNS),
    ModalitySpec(name="review", kind="text", columns=(ColumnSpec(name="body"),)),
)
CLASSES = TaskSpec.classification(["no", "yes", "perhaps"])


def small_spec(task: TaskSpec = CLASSES) -> DataSpec:
    return DataSpec(modalities=MODALITIES, task=task)


def small_samples(spec: DataSpec, num_rows: int = 60, seed: int = 0) -> Samples:
    random = np.random.default_rng(seed)
    code = random.integers(0, 3, num_rows)
    table = np.column_stack([random.integers(18, 90, num_rows), code + random.normal(0, 0.5, num_rows), code])
    words = np.array([["bad", "poor"], ["good", "fine"], ["so", "hm"]])
    available = {name: np.ones(num_rows, bool) for name in spec.names}
    available["vec"][:6] = False
    available["review"][3:9] = False
    table = table.astype(np.float64)
    table[4, 0] = np.nan
    vector = np.eye(3)[code] @ random.normal(0, 1, (3, 4)) + random.normal(0, 0.3, (num_rows, 4))
    vector[:6] = 0
    target = {
        "classification": code,
        "multilabel": np.eye(3, dtype=np.float32)[code],
        "regression": np.column_stack([code, -code]).astype(np.float64)[:, : len(spec.task.targets)],
    }[spec.task.kind]
    return Samples(
        inputs={
            "vec": vector.astype(np.float32),
            "meta": table,
            "review": np.array([" ".join(random.choice(words[c], 3)) for c in code], object),
        },
        available=available,
        ids=np.array([str(row) for row in range(num_rows)], object),
        target=target,
    )


def make_ensemble(folder: Path, spec: DataSpec) -> ArtifactRef:
    samples = small_samples(spec)
    plan = (
        ("linear", LinearConfig(), ("vec", "meta")),
        ("trees", ExtraTreesConfig(), ("meta",)),
        ("net", TabularMLPConfig(), ("vec", "meta", "review")),
    )
    candidates = []
    rows = np.arange(len(samples))
    for name, config, modalities in plan:
        own = samples.select(modalities)
        usable = np.flatnonzero(own.availability().all(axis=1))
        preprocessor = Preprocessor.fit(own.take(usable), spec.select(modalities), text=config.text_input)
        model = config.build(preprocessor.spec, 0)
        if not isinstance(model, torch.nn.Module):
            model.fit(preprocessor.encode(own.take(usable)))
        tolerates = frozenset(modalities) if config.meets_missing else frozenset()
        learner = TrainedLearner(config, preprocessor, model, {}, tolerates)
        place = folder / "learners" / name
        place.mkdir(parents=True)
        learner.save(place)
        keys = {pattern_key(p & set(modalities), modalities): p for p in patterns_to_judge(spec.names)}
        heard = {
            key: learner.predict(samples.without(set(modalities) - pattern)) for key, pattern in keys.items() if key
        }
        candidates.append(Candidate(name, config.kind, modalities, place, rows, heard))
    published = folder / "ensembles" / "0f3a"
    with publish_directory(published) as unfinished:
        conclude(
            unfinished,
            name="small",
            spec=spec,
            candidates=candidates,
            rows=rows,
            target=samples.target,
            available=samples.available,
        )
    return open_published(published)
