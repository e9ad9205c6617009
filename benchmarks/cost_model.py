"""Measure what a unit of work takes for each kind of learner, and print the table of `selection/cost_model.py`.

Run with one thread: `OMP_NUM_THREADS=1 python benchmarks/cost_model.py [kind …]`. Takes a minute or two.
"""

import platform
import sys
import time
from datetime import date

import numpy as np
import torch

from training_core.data.views import HeldSamples
from training_core.engine.train import train_learner
from training_core.engine.training import TrainingConfig
from training_core.learners import LearnerConfig
from training_core.schema import DataSpec, ModalitySpec, Samples, TaskSpec
from training_core.variants import kind_of, members, parse_variant

WORDS = [f"word{i}" for i in range(2000)]


def world(kind: str, num_rows: int, width: int, num_classes: int) -> tuple[DataSpec, Samples]:
    """A classification problem of one modality in which classes overlap a little."""
    draws = np.random.default_rng(0)
    target = draws.integers(0, num_classes, num_rows)
    shape = {"image": (1, width, width), "text": (), "sequence": (width, 4)}.get(kind, (width,))
    if kind == "text":
        picks = draws.integers(0, len(WORDS), (num_rows, width)) // (1 + target[:, None])
        values = np.array([" ".join(WORDS[i] for i in row) for row in picks], dtype=object)
    else:
        centres = draws.normal(size=(num_classes, *shape))
        values = (centres[target] * 0.5 + draws.normal(size=(num_rows, *shape))).astype(np.float32)
    modality = ModalitySpec.model_validate({"name": "x", "kind": kind, "shape": shape})
    task = TaskSpec.classification(map(str, range(num_classes)))
    ids = np.array([str(i) for i in range(num_rows)], dtype=object)
    samples = Samples({"x": values}, {"x": np.ones(num_rows, bool)}, ids, target.astype(np.int64))
    return DataSpec(modalities=(modality,), task=task), samples


def measure(learner: LearnerConfig, kind: str, epochs: int) -> list[tuple[float, float]]:
    """(work, CPU-seconds) on problems of growing size; CPU time, so that other processes do not matter."""
    sizes = {"image": (8, 16), "text": (20, 80)}.get(kind, (16, 64))
    points = []
    for num_rows, width, num_classes in [
        (200, sizes[0], 3),
        (1000, sizes[0], 5),
        (1000, sizes[1], 10),
        (3000, sizes[1], 5),
    ]:
        spec, samples = world(kind, num_rows, width, num_classes)
        start = time.process_time()
        train_learner(learner, HeldSamples(samples, spec), None, spec, {}, TrainingConfig(epochs=epochs), seed=0)
        points.append((learner.estimate_cost(spec, num_rows, epochs)[0], time.process_time() - start))
    return points


def rate(points: list[tuple[float, float]]) -> tuple[float, float, float]:
    """(start, per unit, largest factor off) of the line through `points` with the least relative error."""
    work, seconds = np.array(points).T
    design = np.stack([np.ones(len(work)), work], axis=1) / seconds[:, None]
    start, per_unit = np.linalg.lstsq(design, np.ones(len(work)), rcond=None)[0]
    if start < 0 or per_unit < 0:
        start, per_unit = min(seconds) / 2, float(np.exp(np.mean(np.log(seconds / work))))
    off = (start + per_unit * work) / seconds
    return float(start), float(per_unit), float(np.max(np.maximum(off, 1 / off)))


def main(wanted: list[str]) -> None:
    torch.set_num_threads(1)
    print(f"# {date.today()}, {platform.machine()}, one thread")
    for member in members(LearnerConfig):
        if wanted and kind_of(member) not in wanted:
            continue
        learner = parse_variant(LearnerConfig, {"kind": kind_of(member)}, "benchmark")
        kind = next(k for k in ("vector", "image", "sequence") if k in learner.modality_kinds)
        kind = "text" if kind_of(member) in ("tfidf_linear", "text_net") else kind
        spec, samples = world(kind, 100, 8, 3)
        train_learner(learner, HeldSamples(samples, spec), None, spec, {}, TrainingConfig(epochs=1), 0)
        start, per_unit, off = rate(measure(learner, kind, epochs=4))
        print(
            f'    "{kind_of(member)}": Rate({start:.2g}, {per_unit:.2g}),  # within a factor of {off:.1f}', flush=True
        )


if __name__ == "__main__":
    main(sys.argv[1:])
