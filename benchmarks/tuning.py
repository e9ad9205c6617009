"""What tuning costs, measured on this machine; each part is a table of ratios.

`python benchmarks/tuning.py` runs all parts; `--parts cohort` one of them, in about five minutes of a CPU core.

cohort: the trials of a study that differ in numbers only (learning rate, weight decay, dropout, label smoothing) as
jobs, from reading their rows to publishing their directories, together and one by one. A round trains all of them
both ways, into stores of its own, one after the other; what counts is the CPU time of this process and the median over
rounds, so that neighbours who take the processor away do not count. Beside it stands by how much the scores of the
trials differ on rows they never saw: what dropout draws is not the same, the rest is.

pruning: a study of 60 random trials with Hyperband and without, the same values in both, of one learner on digits or on
`--source`. The best losses stand beside the standard error over rows of the best one.
"""

import argparse
import json
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

import training_core as pc
from training_core.artifacts import open_published
from training_core.campaigns.bagging import dataset_ref, open_dataset, resolve_dataset
from training_core.campaigns.tuning import StudySummary
from training_core.data.ingestion.in_memory import create_dataset_from_arrays
from training_core.data.splitting.bags import Bag
from training_core.engine.training import Stacking, TrainingConfig
from training_core.evaluation.metrics import loss
from training_core.jobs import DatasetRef, Job, read_out_of_bag, run_jobs
from training_core.learners import FusionNetConfig, LearnerConfig, TabularMLPConfig
from training_core.recipes import MultimodalConfig
from training_core.schema import pattern_key

NUM_TRIALS = 32
NUM_STUDY_TRIALS, STUDY_EPOCHS, STUDY_LEARNER = 60, 30, "tabular_mlp"
LEARNERS: Mapping[str, LearnerConfig] = {
    "fusion_net": FusionNetConfig(),
    "fusion_net, width 32": FusionNetConfig(width=32),
    "tabular_mlp": TabularMLPConfig(),
    "tabular_mlp, width 64": TabularMLPConfig(width=64),
}


class Options(NamedTuple):
    """What the command line says."""

    rounds: int
    epochs: int
    learners: Sequence[str]
    source: Path | None


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


def cohort(console: Console, options: Options) -> None:
    """Trials that differ in numbers only, together and one by one."""
    rounds, epochs = options.rounds, options.epochs
    table = Table(title=f"{NUM_TRIALS} trials of {epochs} epochs on 1797 digits, CPU seconds of all, {rounds} rounds")
    for name in ("learner", "one by one", "together", "ratio", "of rounds", "scores differ by (median)", "best score"):
        table.add_column(name, justify="left" if name == "learner" else "right")
    with tempfile.TemporaryDirectory() as folder:
        dataset = digits(Path(folder))
        for name in options.learners:
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


def pruning(console: Console, options: Options) -> None:
    """The same random trials, not pruned, and pruned by Hyperband with its first look after so many epochs."""
    table = Table(title=f"{NUM_STUDY_TRIALS} random trials of {STUDY_LEARNER}, {STUDY_EPOCHS} epochs at most")
    for name in (
        "pruner",
        "first look",
        "epochs",
        "share",
        "CPU seconds",
        "pruned",
        "best loss",
        "standard error",
        "best trial",
    ):
        table.add_column(name, justify="left" if name == "pruner" else "right")
    unpruned = 0
    for pruner, min_epochs in (("none", STUDY_EPOCHS), ("hyperband", 3), ("hyperband", 1)):
        with tempfile.TemporaryDirectory() as folder:
            store = Path(folder)
            dataset = digits(store) if options.source is None else resolve_dataset(str(options.source), store)
            summary = pc.tune(
                dataset.label,
                store,
                training={"epochs": STUDY_EPOCHS},
                tuning={
                    "learner": STUDY_LEARNER,
                    "trials": NUM_STUDY_TRIALS,
                    "sampler": "random",
                    "pruner": pruner,
                    "min_epochs": min_epochs,
                },
            )
            unpruned = unpruned or summary.epochs
            best = summary.best_trial
            assert best is not None and best.values is not None, "a study of sixty trials has a best one"
            table.add_row(
                pruner,
                "" if pruner == "none" else str(min_epochs),
                str(summary.epochs),
                f"{summary.epochs / unpruned:.2f}",
                f"{summary.cpu_seconds:.0f}",
                str(summary.counts["pruned"]),
                f"{best.values[0]:.4f}",
                f"{standard_error(summary, dataset, store):.4f}",
                str(best.number),
            )
    console.print(table)


def standard_error(summary: StudySummary, dataset: DatasetRef, store: Path) -> float:
    """Of the mean loss of a study's best trial, over the rows it was judged on."""
    for report in store.glob("jobs/*/report.json"):
        if json.loads(report.read_text())["name"] != f"trial-{summary.best:04d}":
            continue
        rows, said = read_out_of_bag(open_published(report.parent))
        opened = open_dataset(dataset)
        full = said[pattern_key(opened.spec.names, opened.spec.names)]
        losses = loss(opened.spec.task, opened.target(rows), full)
        return float(losses.std(ddof=1) / np.sqrt(len(losses)))
    raise SystemExit(f"trial {summary.best} left no report in {store}")


PARTS: Mapping[str, Callable[[Console, Options], None]] = {"cohort": cohort, "pruning": pruning}


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=5, help="of cohort")
    parser.add_argument("--epochs", type=int, default=15, help="of cohort")
    parser.add_argument("--learners", nargs="+", choices=list(LEARNERS), default=list(LEARNERS), help="of cohort")
    parser.add_argument("--source", type=Path, default=None, help="of pruning: a SOURCE.yaml in place of digits")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for part in given.parts:
        PARTS[part](Console(width=140), Options(given.rounds, given.epochs, given.learners, given.source))


if __name__ == "__main__":
    main()
