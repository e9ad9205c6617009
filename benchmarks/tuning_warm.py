"""What a finished study is worth to the next one: trials until it is as good, begun warm and begun cold.

`python benchmarks/tuning_warm.py` (three seeds of every pair). On every split a study is run cold, in a store of its
own; its best trial is what there is to be reached. Then the same study again in a store that has a finished study of
the same net: on the very same rows (itself), on another split of the data, or on the other data sets named. Their
winners are tried after the default.

A trial has reached the best one when its loss on the rows that judge both is no more than one standard error higher
(of the differences row by row). Both are held to that, the cold study too, which is often there before its best trial.
A study that does not get there counts with all its trials, and is marked.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from quality_cases import Case
from rich.console import Console
from rich.table import Table
from tuning_cases import Options, Scale, command_line, options_of, prepared, today

import training_core as pc
from training_core.artifacts import open_published
from training_core.campaigns.bagging import open_dataset
from training_core.campaigns.tuning import StudySummary
from training_core.evaluation.metrics import loss
from training_core.jobs import DatasetRef, read_out_of_bag
from training_core.schema import pattern_key

FULL, QUICK = Scale(seeds=3, trials=40, epochs=20), Scale(seeds=1, trials=4, epochs=3)
SAME_ROWS = "the same rows"
OTHER_SPLIT = 100
"""Added to the seed of a study for that of the one it learns from."""


class Searched(NamedTuple):
    """A study, and what each of its trials lost on every row that judged it."""

    summary: StudySummary
    losses: Mapping[int, np.ndarray]
    """By trial that was trained to its end, [n]."""

    @property
    def best(self) -> int:
        """Its best trial."""
        if self.summary.best is None:
            raise SystemExit(f"study {self.summary.name} has no best trial")
        return self.summary.best

    def trials_until(self, wanted: np.ndarray) -> tuple[int, bool]:
        """Trials until one is as good as one that lost `wanted` [n] on the same rows, up to noise; whether one was."""
        for number in sorted(self.losses):
            gaps = self.losses[number] - wanted
            if gaps.mean() <= gaps.std(ddof=1) / np.sqrt(len(gaps)):
                return number + 1, True
        return len(self.summary.trials), False


class Pair(NamedTuple):
    """One study that was begun cold and warm."""

    seed: int
    cold_loss: float
    warm_loss: float
    cold: int
    """Trials until it was as good as the best of the cold one."""
    warm: int
    reached: bool
    """Whether the warm one ever was."""
    winners: int
    """Of the study before it, that the warm one began with."""


def search(options: Options, case: Case, seed: int, store: Path, warm: bool) -> Searched:
    """A study of a split in a store; with `warm` it may learn from those that are there."""
    ref = prepared(case, store, seed)
    run = options.run(ref, seed, {"warm_start": warm}, training={"checkpoint_seconds": 0.0})
    summary = pc.tune(run, store, processes=not options.quick)
    return Searched(summary, losses_by_trial(summary, ref, store))


def losses_by_trial(summary: StudySummary, ref: DatasetRef, store: Path) -> dict[int, np.ndarray]:
    """Loss per judged row of every complete trial of the only study whose jobs are in a store.

    Trials with equal settings share a job, which has the name of the first: so they are told by their mean losses.
    """
    dataset = open_dataset(ref)
    task, known = dataset.spec.task, dataset.target(dataset.rows("train"))
    scale = np.maximum(known.std(axis=0), 1e-12) if task.kind == "regression" else 1
    found: dict[float, np.ndarray] = {}
    for report in sorted(store.glob("jobs/*/report.json")):
        rows, said = read_out_of_bag(open_published(report.parent))
        own = json.loads(report.read_text())["modalities"]
        values, target = said[pattern_key(own, dataset.spec.names)], dataset.target(rows)
        if task.kind == "regression":
            target, values = target / scale, values / scale
        losses = loss(task, target, values)
        found[round(float(losses.mean()), 9)] = losses
    complete = [trial for trial in summary.trials if trial.state == "complete" and trial.values]
    return {trial.number: found[round(trial.values[0], 9)] for trial in complete if trial.values}


def lessons(options: Options, seed: int) -> dict[tuple[str, str], Pair]:
    """By case and the case that was searched before it: its study begun cold, and warm after a finished one of that."""
    found: dict[tuple[str, str], Pair] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for teacher in options.cases:
            search(options, teacher, seed + OTHER_SPLIT, place / f"before-{teacher.name}", warm=False)
        for case in options.cases:
            cold = search(options, case, seed, place / f"cold-{case.name}", warm=False)
            wanted = cold.losses[cold.best]
            teachers = {teacher.name: place / f"before-{teacher.name}" for teacher in options.cases}
            for teacher, studies in {SAME_ROWS: place / f"cold-{case.name}", **teachers}.items():
                store = place / f"{case.name}-after-{teacher}"
                for study in (studies / "studies").iterdir():
                    shutil.copytree(study, store / "studies" / f"{study.name}-before")
                warm = search(options, case, seed, store, warm=True)
                (cold_trials, _), (warm_trials, reached) = cold.trials_until(wanted), warm.trials_until(wanted)
                warm_loss = float(warm.losses[warm.best].mean())
                winners = sum(trial.enqueued == "warm start" for trial in warm.summary.trials)
                found[case.name, teacher] = Pair(
                    seed, float(wanted.mean()), warm_loss, cold_trials, warm_trials, reached, winners
                )
    return found


def tabulate(title: str, pairs: Sequence[Pair]) -> Table:
    """A row per seed, and one for all."""
    table = Table(title=f"{title}, {today()}")
    for column in ("seed", "best, cold", "best, warm", "trials until there, cold", "warm", "ratio", "winners tried"):
        table.add_column(column, justify="right")
    for pair in pairs:
        mark = "" if pair.reached else " (not there)"
        losses = f"{pair.cold_loss:.4f}", f"{pair.warm_loss:.4f}"
        table.add_row(
            str(pair.seed),
            *losses,
            str(pair.cold),
            f"{pair.warm}{mark}",
            f"{pair.warm / pair.cold:.2f}",
            str(pair.winners),
        )
    cold, warm = sum(pair.cold for pair in pairs), sum(pair.warm for pair in pairs)
    table.add_row("all", "", "", str(cold), str(warm), f"{warm / cold:.2f}", end_section=True)
    return table


def main() -> None:
    options = options_of(command_line(__doc__), FULL, QUICK)
    pairs: dict[tuple[str, str], list[Pair]] = {}
    for seed in range(options.seeds):
        for names, pair in lessons(options, seed).items():
            pairs.setdefault(names, []).append(pair)
        figures = {f"{case} after {teacher}": [pair._asdict() for pair in of] for (case, teacher), of in pairs.items()}
        options.write({"learner": options.learner, "trials": options.trials, "pairs": figures})
    for (case, teacher), of in pairs.items():
        what = "another split" if teacher == case else teacher
        Console(width=150).print(tabulate(f"{case}, after a study of {what}: {options.trials} trials", of), "")


if __name__ == "__main__":
    main()
