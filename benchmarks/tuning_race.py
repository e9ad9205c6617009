"""Polychoir's `tune` against plain Optuna around a bare torch loop, with the same seconds on the clock.

`python benchmarks/tuning_race.py` (two bundled cases, five seeds, 25 seconds for each search: ten minutes);
`--source` adds a SOURCE.yaml, `--cases` without a name leaves the bundled ones out.

Both tune the same net with the same space of numbers (learning rate, weight decay, batch size, clipping, label
smoothing and the net's own section; optimiser, schedule and averages stay as they are, so that a bare loop need not
have them), on the same training rows, stopped by the same ones, and begin with the default settings. Everything counts:
processes that start, rows that are encoded. Polychoir tells of each trial as it ends (`mode: throughput`), as the bare
loop does. A trial counts when the search knew of it before its seconds were over.
The loss is that of the best trial on rows it was neither trained on nor stopped by, which choose it: it says who
searched better, not how good the net is. A seed is another split, and other draws. The two take turns at going first.
CPU seconds say what the machine gave each: where they differ, others were on it.

`--workers 1` (default) gives both one core; with more, Polychoir trains in that many processes, and torch's own threads
are as many for the bare loop.
"""

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from quality_cases import Case, cpu_seconds
from rich.console import Console
from rich.table import Table
from tuning_bare_loop import ENDLESS, Ended, tune_bare
from tuning_cases import Options, Scale, command_line, mean_and_error, options_of, prepared, today

import training_core as pc
from training_core.campaigns.run_config import RunConfig
from training_core.evaluation.statistics import corrected_resampled_t
from training_core.jobs import DatasetRef

FULL, QUICK = Scale(seeds=5, trials=ENDLESS, epochs=40), Scale(seeds=1, trials=ENDLESS, epochs=4)
SECONDS, QUICK_SECONDS = 25.0, 3.0
FIELDS = (
    "training.lr",
    "training.weight_decay",
    "training.batch_size",
    "training.clip_norm",
    "training.label_smoothing",
)
SHARES = (0.25, 0.5, 0.75, 1.0)
"""Of the seconds, at which the best so far is looked at."""
OURS, BARE = "Polychoir", "Optuna, bare loop"
JUDGED = 0.2
"""Share of the training rows that trials are judged on."""


class Raced(NamedTuple):
    """One search."""

    trials: list[Ended]
    cpu_seconds: float
    """It was given by the machine, together with its processes."""

    def within(self, seconds: float) -> list[Ended]:
        """The trials it knew of after so many seconds."""
        return [trial for trial in self.trials if trial.after <= seconds]

    def best(self, seconds: float) -> float:
        """The least loss it knew of after so many seconds; endless when there was none."""
        return min((trial.loss for trial in self.within(seconds) if trial.loss is not None), default=float("inf"))


def tune_ours(run: RunConfig, dataset: DatasetRef, store: Path, seconds: float) -> list[Ended]:
    """A study of Polychoir's."""
    began = time.time()
    summary = pc.tune(run, store)
    return [
        Ended(trial.ended - began, trial.values[0] if trial.values else None, trial.epochs)
        for trial in summary.trials
        if trial.ended is not None
    ]


def search_bare(run: RunConfig, dataset: DatasetRef, store: Path, seconds: float) -> list[Ended]:
    """A study without Polychoir; torch has as many threads as Polychoir would have processes."""
    torch.set_num_threads(run.budget.workers or len(os.sched_getaffinity(0)))
    found = tune_bare(run, dataset, seconds)
    torch.set_num_threads(1)
    return found


SEARCHES: Mapping[str, Callable[[RunConfig, DatasetRef, Path, float], list[Ended]]] = {
    OURS: tune_ours,
    BARE: search_bare,
}


def race(options: Options, case: Case, seconds: float) -> dict[str, list[Raced]]:
    """Both searches on every seed's split of a case, in turns."""
    found: dict[str, list[Raced]] = {OURS: [], BARE: []}
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            store = Path(folder)
            dataset = prepared(case, store, seed)
            run = options.run(
                dataset,
                seed,
                {"seconds": seconds, "mode": "throughput", "fields": (*FIELDS, options.learner)},
                training={"modality_dropout": 0.0, "checkpoint_seconds": 0.0},
            )
            for name in (OURS, BARE) if seed % 2 == 0 else (BARE, OURS):
                before = cpu_seconds()
                trials = SEARCHES[name](run, dataset, store, seconds)
                found[name].append(Raced(trials, cpu_seconds() - before))
    return found


def tabulate(name: str, found: Mapping[str, Sequence[Raced]], seconds: float) -> Table:
    """One row per search: means over the seeds."""
    table = Table(title=f"{name}: best loss after a share of {seconds:g} s, {len(found[OURS])} seeds, {today()}")
    for column in ("search", *(f"{share:.0%}" for share in SHARES), "wins", "trials", "pruned", "epochs", "CPU s"):
        table.add_column(column, justify="left" if column == "search" else "right")
    for search, raced in found.items():
        cells: list[str] = []
        for share in SHARES:
            known = np.array([one.best(share * seconds) for one in raced])
            cells.append(mean_and_error(known) if np.isfinite(known).all() else "none yet")
        rivals = found[BARE if search == OURS else OURS]
        cells.append(
            str(sum(one.best(seconds) < other.best(seconds) for one, other in zip(raced, rivals, strict=True)))
        )
        ended = [one.within(seconds) for one in raced]
        counts = ((len(of), sum(t.loss is None for t in of), sum(t.epochs for t in of)) for of in ended)
        cells += [f"{np.mean(count):.0f}" for count in zip(*counts, strict=True)]
        table.add_row(search, *cells, f"{np.mean([one.cpu_seconds for one in raced]):.0f}")
    return table


def verdict(found: Mapping[str, Sequence[Raced]], seconds: float) -> str:
    """Who found the better settings, as far as can be shown."""
    ours, bare = (np.array([one.best(seconds) for one in found[name]]) for name in (OURS, BARE))
    finished = np.isfinite(ours) & np.isfinite(bare)
    gaps = bare[finished] - ours[finished]
    if len(gaps) < 2:
        return "Too few seeds with a result of both to say who searched better."
    p_value = corrected_resampled_t(gaps, JUDGED / (1 - JUDGED))[1]
    figures = f"{mean_and_error(gaps)} (bare loop - Polychoir, {len(gaps)} seeds, corrected t-test p = {p_value:.3g})"
    if p_value >= 0.05:
        return f"No difference between the best losses that can be shown: {figures}."
    return f"{'Polychoir' if gaps.mean() > 0 else 'The bare loop'} found the lower loss: {figures}."


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--seconds", type=float, default=None, help="of each search, on the clock")
    parser.set_defaults(workers=1)
    options = options_of(parser, FULL, QUICK)
    seconds = options.given.seconds or (QUICK_SECONDS if options.quick else SECONDS)
    console, figures = Console(width=150), dict[str, object]()
    for case in options.cases:
        found = race(options, case, seconds)
        console.print(tabulate(case.name, found, seconds), verdict(found, seconds), "")
        figures[case.name] = {name: [one._asdict() for one in raced] for name, raced in found.items()}
        options.write({"seconds": seconds, "learner": options.learner, "cases": figures})


if __name__ == "__main__":
    main()
