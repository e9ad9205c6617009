"""What tuning costs, measured on this machine; each part is a table of ratios.

`python benchmarks/tuning.py` runs all parts; `--parts cohort` one of them, in about five minutes of a CPU core.

cohort: the trials of a study that differ in numbers only (learning rate, weight decay, dropout, label smoothing) as
jobs, from reading their rows to publishing their directories, together and one by one. A round trains all of them
both ways, into stores of its own, one after the other; what counts is the CPU time of this process and the median over
rounds, so that neighbours who take the processor away do not count. Beside it stands by how much the scores of the
trials differ on rows they never saw: what dropout draws is not the same, the rest is.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from training_core.campaigns.bagging import dataset_ref
from training_core.data.ingestion.in_memory import create_dataset_from_arrays
from training_core.data.splitting.bags import Bag
from training_core.engine.training import Stacking, TrainingConfig
from training_core.jobs import DatasetRef, Job, run_jobs
from training_core.learners import FusionNetConfig, LearnerConfig, TabularMLPConfig
from training_core.recipes import MultimodalConfig

NUM_TRIALS = 32
LEARNERS: Mapping[str, LearnerConfig] = {
    "fusion_net": FusionNetConfig(),
    "fusion_net, width 32": FusionNetConfig(width=32),
    "tabular_mlp": TabularMLPConfig(),
    "tabular_mlp, width 64": TabularMLPConfig(width=64),
}


class Round(NamedTuple):
    """All trials, trained once."""

    cpu_seconds: float
    scores: np.ndarray
    """On rows outside the bag, by trial."""
    stacked: bool
    """Whether all of them trained together."""


def digits(store: Path) -> DatasetRef:
    """1797 handwritten digits, their upper and lower halves as two modalities."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    images, labels = found["data"], found["target"]
    halves = {"top": images[:, :32].astype(np.float32), "bottom": images[:, 32:].astype(np.float32)}
    return dataset_ref(create_dataset_from_arrays("digits", halves, labels, task="classification", store=store), store)


def trials(learner: LearnerConfig, dataset: DatasetRef, stacking: Stacking, epochs: int) -> list[Job]:
    """Jobs of one architecture on one bag, with settings drawn as a study would draw them."""
    draws = np.random.default_rng(0)
    bag = Bag(
        name="hold-out", modalities=("top", "bottom"), sampling="subsample", row_fraction=0.8, feature_fraction=1.0,
        seed=1, row_seed=1,
    )  # fmt: skip
    jobs: list[Job] = []
    for number in range(NUM_TRIALS):
        training = TrainingConfig(
            epochs=epochs,
            patience=epochs,  # as long whatever is drawn
            lr=float(10 ** draws.uniform(-3.5, -2)),
            weight_decay=float(10 ** draws.uniform(-6, -1)),
            label_smoothing=float(draws.uniform(0, 0.2)),
            stacking=stacking,
            checkpoint_seconds=0.0,
        )
        config = learner.model_copy(update={"dropout": float(draws.uniform(0, 0.5))})
        recipe = MultimodalConfig(learner=config, training=training)
        jobs.append(Job(name=f"trial {number}", recipe=recipe, dataset=dataset, subset=bag, seed=number))
    return jobs


def train(jobs: Sequence[Job]) -> Round:
    """Train the trials into a store of their own."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        reports = list(run_jobs(jobs, Path(folder), "cpu", lambda event: None))
        taken = time.process_time() - began
    found = {report.name: report for report in reports}
    scores = [found[job.name].score for job in jobs]
    together = f"stacked with {len(jobs) - 1} others"
    return Round(taken, np.array(scores, dtype=float), all(r.trained_as.startswith(together) for r in reports))


def cohort(console: Console, rounds: int, wanted: Sequence[str], epochs: int) -> None:
    """Trials that differ in numbers only, together and one by one."""
    table = Table(title=f"{NUM_TRIALS} trials of {epochs} epochs on 1797 digits, CPU seconds of all, {rounds} rounds")
    for name in ("learner", "one by one", "together", "ratio", "of rounds", "scores differ by (median)", "best score"):
        table.add_column(name, justify="left" if name == "learner" else "right")
    with tempfile.TemporaryDirectory() as folder:
        dataset = digits(Path(folder))
        for name in wanted:
            ways: tuple[Stacking, Stacking] = ("never", "always")
            taken = [[train(trials(LEARNERS[name], dataset, way, epochs)) for way in ways] for _ in range(rounds)]
            if not all(together.stacked for _, together in taken):
                raise SystemExit(f"{name}: not all trials trained as one stack")
            ratios = [together.cpu_seconds / alone.cpu_seconds for alone, together in taken]
            alone, together = taken[-1]
            table.add_row(
                name,
                f"{statistics.median(one.cpu_seconds for one, _ in taken):.1f}",
                f"{statistics.median(other.cpu_seconds for _, other in taken):.1f}",
                f"{statistics.median(ratios):.2f}",
                f"{min(ratios):.2f}-{max(ratios):.2f}",
                f"{np.median(np.abs(alone.scores - together.scores)):.4f}",
                f"{alone.scores.max():.4f}, {together.scores.max():.4f}",
            )
    console.print(table)


PARTS: Mapping[str, Callable[[Console, int, Sequence[str], int], None]] = {"cohort": cohort}


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--learners", nargs="+", choices=list(LEARNERS), default=list(LEARNERS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for part in options.parts:
        PARTS[part](Console(width=140), options.rounds, options.learners, options.epochs)


if __name__ == "__main__":
    main()
