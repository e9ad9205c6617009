"""Searching for two things at once, and within a limit: how good the front is that a sampler finds.

`python benchmarks/tuning_front.py` searches one net for little loss and few seconds of training (`--second size_mb`:
few megabytes), over its own section, learning rate, batch size and number of epochs, with the same number of trials by
tpe, nsga2 and random. A front is measured by the area it dominates (its hypervolume) in units of the default settings,
which are trial 0 of every study: (1, 1) is the default, the reference point is (2, 2), so that a front of the default
alone has 1 and nothing can have more than 4. Trials beyond the reference point add nothing. A seed is another split.
`seconds` is processor time, which neighbours on the machine lengthen: the unit is the median over the studies of a
split, nets train one by one, and samplers take turns at going first.

The second table asks for the least loss of a net of at most half the default's megabytes, with `max_size_mb` and
without, and without pruning, so that every trial has a size: the best must be within the limit, as its files on the
disk say. Ends with 1 where it is not.
"""

import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from quality_cases import Case
from rich.console import Console
from rich.table import Table
from tuning_cases import Options, Scale, command_line, mean_and_error, options_of, prepared, today

import training_core as pc
from training_core.campaigns.tuning import StudySummary

FULL, QUICK = Scale(seeds=3, trials=60, epochs=30), Scale(seeds=1, trials=6, epochs=4)
SAMPLERS = ("random", "tpe", "nsga2")
REFERENCE = 2.0
"""Of both objectives, in units of the default settings'."""
NO_LIMIT_MB = 1e6


class Limited(NamedTuple):
    """A study under a limit of megabytes, or under none that matters."""

    limit_mb: float
    loss: float
    """Of the best trial."""
    size_mb: float
    """Of the best trial, as the study has it."""
    disk_mb: float
    """Of the best trial's files."""
    within: int
    """Trials within the limit."""
    trials: int


def study(options: Options, case: Case, seed: int, folder: Path, tuning: Mapping[str, Any]) -> StudySummary:
    """One study of a split, in a store of its own."""
    ref = prepared(case, folder, seed)
    fields = ("training.lr", "training.batch_size", options.learner)
    space = {"training.epochs": [min(3, options.epochs), options.epochs]}
    training = {"stacking": "never", "checkpoint_seconds": 0.0}
    run = options.run(ref, seed, {"fields": fields, "space": space, **tuning}, training=training)
    return pc.tune(run, folder, processes=not options.quick)


def points(summary: StudySummary) -> np.ndarray:
    """Both objectives of its complete trials, the default first, [trials, 2]."""
    default = summary.default_trial
    if default is None or default.values is None:
        raise SystemExit(f"study {summary.name}: the default settings gave no trial")
    others = [t.values for t in summary.trials if t.state == "complete" and t.values and t.number != default.number]
    return np.array([default.values, *others])


def hypervolume(values: np.ndarray) -> float:
    """The area that points [n, 2] dominate below the reference point; less is better in both."""
    area, ceiling = 0.0, REFERENCE
    for first, second in values[np.lexsort((values[:, 1], values[:, 0]))]:
        if first < REFERENCE and second < ceiling:
            area += (REFERENCE - first) * (ceiling - second)
            ceiling = second
    return area


def fronts(options: Options, case: Case) -> dict[str, list[float]]:
    """The hypervolume of every sampler on every split."""
    found: dict[str, list[float]] = {name: [] for name in SAMPLERS}
    for seed in range(options.seeds):
        seen: dict[str, np.ndarray] = {}
        for name in np.roll(SAMPLERS, seed).tolist():
            with tempfile.TemporaryDirectory() as folder:
                objectives = ("loss", options.given.second)
                tuning = {"objectives": objectives, "sampler": name}
                seen[name] = points(study(options, case, seed, Path(folder), tuning))
        unit = [statistics.median(values[0, axis] for values in seen.values()) for axis in (0, 1)]
        for name, values in seen.items():
            found[name].append(hypervolume(values / unit))
    return found


def limited(options: Options, case: Case) -> tuple[Limited, Limited]:
    """The best of a study without a limit, and of one that may have half of what its default has."""
    with tempfile.TemporaryDirectory() as folder:
        free = study(options, case, 0, Path(folder), {"max_size_mb": NO_LIMIT_MB, "pruner": "none"})
        default = free.default_trial
        if default is None or not default.constraints:
            raise SystemExit(f"{case.name}: the default settings gave no trial")
        half = round(_size(default.constraints, NO_LIMIT_MB) / 2, 3)
        without = best_of(free, NO_LIMIT_MB, Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        small = study(options, case, 0, Path(folder), {"max_size_mb": half, "pruner": "none"})
        return without, best_of(small, half, Path(folder))


def best_of(summary: StudySummary, limit_mb: float, store: Path) -> Limited:
    """The best trial of a study with a limit, and the size of its files."""
    best = summary.best_trial
    if best is None or best.values is None:
        raise SystemExit(f"none of {len(summary.trials)} trials is within {limit_mb} MB; give it more with --trials")
    size = _size(best.constraints, limit_mb)
    sizes = [
        sum(file.stat().st_size for file in (report.parent / "learner").rglob("*") if file.is_file()) / 1e6
        for report in store.glob("jobs/*/report.json")
        if json.loads(report.read_text())["name"] == f"trial-{best.number:04d}"
    ]
    within = sum(trial.state == "complete" and trial.feasible for trial in summary.trials)
    return Limited(limit_mb, best.values[0], size, sizes[0] if sizes else size, within, len(summary.trials))


def _size(constraints: Mapping[str, float], limit_mb: float) -> float:
    """Megabytes, from by how much they are beyond a limit."""
    return limit_mb * (1 + constraints["max_size_mb"])


def show_fronts(console: Console, options: Options, name: str, found: Mapping[str, Sequence[float]]) -> None:
    """A row per sampler."""
    title = f"{name}: area of loss x {options.given.second} dominated, {options.trials} trials, {options.seeds} seeds"
    table = Table(title=f"{title}, {today()}")
    for column in ("sampler", "hypervolume", "over random", "seeds above random"):
        table.add_column(column, justify="left" if column == "sampler" else "right")
    random = np.array(found["random"])
    for sampler, values in found.items():
        gaps = np.array(values) - random
        others = ["", ""] if sampler == "random" else [mean_and_error(gaps), f"{np.sum(gaps > 0)} of {len(gaps)}"]
        table.add_row(sampler, mean_and_error(values), *others)
    console.print(table)


def show_limited(console: Console, name: str, found: Sequence[Limited]) -> None:
    """A row per study."""
    table = Table(title=f"{name}: least loss within a limit, {today()}")
    for column in ("limit, MB", "best loss", "its MB", "its files, MB", "trials within"):
        table.add_column(column, justify="right")
    for one in found:
        limit = "none" if one.limit_mb == NO_LIMIT_MB else f"{one.limit_mb:.3f}"
        sizes = f"{one.size_mb:.3f}", f"{one.disk_mb:.3f}"
        table.add_row(limit, f"{one.loss:.4f}", *sizes, f"{one.within} of {one.trials}")
    console.print(table, "")


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--second", choices=("seconds", "size_mb"), default="seconds", help="objective beside the loss")
    options = options_of(parser, FULL, QUICK)
    console, figures, beyond = Console(width=150), dict[str, object](), list[str]()
    for case in options.cases:
        areas = fronts(options, case)
        show_fronts(console, options, case.name, areas)
        bounds = limited(options, case)
        show_limited(console, case.name, bounds)
        small = bounds[1]
        if max(small.size_mb, small.disk_mb) > small.limit_mb:
            beyond.append(case.name)
        figures[case.name] = {"hypervolume": areas, "limited": [one._asdict() for one in bounds]}
        options.write({"second": options.given.second, "reference": REFERENCE, "cases": figures})
    if beyond:
        raise SystemExit(f"the best trial is beyond its limit on {', '.join(beyond)}")


if __name__ == "__main__":
    main()
