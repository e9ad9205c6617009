"""What a process per group of learners costs: forked from one that has loaded the libraries, against one of its own.

`python benchmarks/start.py` trains one linear learner on a tiny world in a child process, again and again with another
seed, by turns forked and started anew. Seconds on the clock from the call to the event that the learner begins, and to
the report; the first fork, which waits for the libraries, is told by itself. Ratios are medians over pairs.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from unittest import mock

from quality_cases import with_split
from rich.console import Console
from rich.table import Table

from training_core import isolation
from training_core.campaigns import bagging
from training_core.campaigns.run_config import RunConfig
from training_core.data.ingestion.digits import write_digits_source
from training_core.jobs import Cohort, Event, Job


def linear_job(store: Path) -> Job:
    """A learner that trains in a fraction of a second."""
    source = with_split(write_digits_source(store / "all"), store, 0)
    run = RunConfig.load(dataset=str(source), learners={"include": ["linear"]}, bags={"num_bags": 1})
    ref = bagging.resolve_dataset(run.dataset, store)
    return bagging.plan_training(run, ref, bagging.bags_of(run, ref)).jobs[0]


def timed(job: Job, seed: int, store: Path, forks: bool) -> tuple[float, float]:
    """Seconds until a learner begins in a process of its own, and until its report is there."""
    begun: list[float] = []

    def on_event(event: Event) -> None:
        if event["event"] == "started":
            begun.append(time.perf_counter() - start)

    cohort = Cohort(name=f"group {seed}", jobs=(job.model_copy(update={"seed": seed}),))
    with mock.patch.object(isolation, "_forks", lambda device: forks):
        start = time.perf_counter()
        (report,) = isolation.run_isolated(cohort, store, on_event)
    if report.status != "trained":
        raise SystemExit(f"the learner {report.status}: {report.error}")
    return begun[0], time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder)
        job = linear_job(store)
        first = timed(job, 0, store, forks=True)
        forked, started = [], []
        for pair in range(1, given.pairs + 1):
            for way, found in ((True, forked), (False, started)) if pair % 2 else ((False, started), (True, forked)):
                found.append(timed(job, 2 * pair + way, store, forks=way))
    table = Table(title=f"Seconds of a process per group, {given.pairs} pairs, {time.strftime('%Y-%m-%d')}")
    for column in ("until", "first fork", "forked", "started anew", "ratio"):
        table.add_column(column, justify="right")
    for place, name in enumerate(("it begins", "its report")):
        ratio = statistics.median(new[place] / old[place] for old, new in zip(forked, started, strict=True))
        cells = first[place], *(statistics.median(one[place] for one in found) for found in (forked, started))
        table.add_row(name, *(f"{cell:.2f}" for cell in cells), f"{ratio:.1f}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
