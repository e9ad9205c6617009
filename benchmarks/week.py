"""A week of production in an hour: does a store that is up stay small, and does no run of it get stuck?

`python benchmarks/week.py` brings up a new store (`polychoir up`: Prefect's server, a worker, MLflow's pages), trains a
small model, whose first version becomes the champion, and puts short schedules on the deployments: the champion is
monitored while rows arrive, a source is read again, notices are written, the small model is trained again from learners
that are there, the store is tidied, and one schedule fails every time, which an automation has to tell. 200 runs that
Prefect's scheduler made (`--runs`) are followed to their end, one about every 15 s (`--pace`); then the schedules are
paused and everything that still runs is waited for. `--quick` has 12 runs, and takes some minutes.

Retention is as short as the hour: flow runs, events and cached things go after a sixth of the time.

It exits with 1, and says why, when
- a run is stuck: due and not begun for more than five minutes, or not over ten minutes after the schedules were paused;
- a run failed or crashed that had no reason of its own to, or one that had to fail was not told;
- a service was started anew;
- it grows: `prefect.db` or `mlflow.db` after the last maintenance is more than 1.3 times what it was after the one in
  the middle, or a service has more than 1.3 times the memory at the end that it had after a quarter of the runs. Of
  what grows linearly from nothing, the first is 2 times and the second 4. Neither is judged in a run too short for it:
  the maintenance in the middle has to come after twice the retention.
"""

import argparse
import json
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from rich.console import Console
from rich.table import Table
from running_store import Api, up
from week_runs import Ledger, Run, Scheduled, described, schedules, small_run
from week_store import DATABASES, Data, files, memory, retention, rows, sizes, spare

from training_core.quantities import format_bytes

MAX_GROWTH = 1.3
DRAIN_SECONDS = 600
TRAINING_SECONDS = 600
_LOOK_SECONDS = 4.0
_SIZE_SECONDS = 1.0
_PATIENCE = 2.5
"""So many times as long as planned may it take; then it counts as stuck."""
_RETENTION = 1 / 6
"""Share of the planned time for which things are kept."""
_MIN_KEPT_SECONDS = 60.0
_MIN_JUDGED_RUNS = 100
"""Memory of a shorter run is that of a start."""


class Options(NamedTuple):
    """What the command line says."""

    runs: int
    pace: float
    every: int
    at_a_time: int

    @property
    def keep_seconds(self) -> float:
        """How long runs, events and cached things are kept."""
        return max(_MIN_KEPT_SECONDS, self.pace * self.runs * _RETENTION)


@dataclass
class Week:
    """One run of the benchmark: what is looked at, and what was seen."""

    options: Options
    store: Path
    owner: psutil.Process
    ledger: Ledger
    data: Data
    say: Callable[[str], None]
    samples: list[dict[str, Any]] = field(default_factory=list)
    sizes: list[tuple[datetime, dict[str, int]]] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    next_rows: float = 0.0
    unanswered: int = 0

    def until(self, true: Callable[[], bool], seconds: float) -> bool:
        """Watch until something is true; False when it is not in time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                self.ledger.look()
            except OSError:  # a server that does not answer now may do so later; the deadline decides
                self.unanswered += 1
            over, every = len(self.ledger.over()), self.options.every
            if over // every > self.samples[-1]["runs"] // every:
                self.sample(over)
            if true():
                return True
            self._arrive()
            looked = time.monotonic()
            while time.monotonic() - looked < _LOOK_SECONDS:
                self.sizes.append((datetime.now(UTC), sizes(self.store)))
                time.sleep(_SIZE_SECONDS)
        return False

    def _arrive(self) -> None:
        """Every so often rows come in, so that about every second look and reading finds new ones."""
        if time.monotonic() >= self.next_rows:
            self.data.arrive()
            self.next_rows = time.monotonic() + 7 * self.options.pace

    def sample(self, over: int) -> None:
        """A row of the table."""
        number, num_bytes = files(self.store)
        services = memory(self.owner)
        self.samples.append(
            {
                "runs": over,
                "seconds": time.monotonic() - self.began,
                "resident_bytes": {name: resident for name, (_, resident) in services.items()},
                "processes": {name: pid for name, (pid, _) in services.items()},
                "database_bytes": sizes(self.store),
                "spare_bytes": spare(self.store),
                "files": number,
                "file_bytes": num_bytes,
                "rows": rows(self.store),
            }
        )
        self.say(f"{over} runs after {self.samples[-1]['seconds']:.0f} s")

    def around(self, run: Run) -> dict[str, Any]:
        """Sizes right before a maintenance and right after it."""
        before = [found for moment, found in self.sizes if run.began is None or moment <= run.began]
        after = [found for moment, found in self.sizes if run.ended is not None and moment >= run.ended]
        began, ended = run.began or run.due, run.ended or run.due
        ran = len([one for one in self.ledger.over() if one.ended is not None and one.ended <= ended])
        seconds = (ended - self.sizes[0][0]).total_seconds()
        return {
            "runs": ran,
            "seconds": seconds,
            "took": (ended - began).total_seconds(),
            "before": before[-1] if before else self.sizes[0][1],
            "after": after[0] if after else self.sizes[-1][1],
        }


def run_week(options: Options, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """The figures of a week, with its problems."""
    store = folder / "store"
    data = Data(folder, store)
    say("bringing up the store")
    settings = retention(options.keep_seconds)
    with up(store, "--runs", str(options.at_a_time), settings=settings) as (owner, api):
        say(f"{api.url} is up; training the champion")
        train_champion(api, store, data.first)
        wanted = schedules(store, data.first, data.sales, options.keep_seconds)
        scheduled = Scheduled(api, wanted, options.runs, options.pace)
        week = Week(options, store, owner, Ledger(api, scheduled), data, say)
        week.sample(0)
        planned = options.pace * options.runs
        enough = week.until(lambda: len(week.ledger.over()) >= options.runs, _PATIENCE * planned + DRAIN_SECONDS)
        stuck = {run.id: run for run in week.ledger.late()}
        seconds = time.monotonic() - week.began
        scheduled.pause()
        say(f"{len(week.ledger.over())} runs are over; waiting for {len(week.ledger.under_way())}")
        week.until(lambda: not week.ledger.under_way() and not week.ledger.untold(), DRAIN_SECONDS)
        week.sample(len(week.ledger.over()))
        stuck |= {run.id: run for run in week.ledger.under_way()}
        log = (store / "prefect" / "server.log").read_text(errors="replace")
    figures = summarised(week, list(stuck.values()), seconds)
    figures |= {"locked": log.count("OperationalError) database is locked"), "refused": api.refused}
    figures["problems"] = ([] if enough else ["the runs were not over in time"]) + problems(figures)
    return figures


def train_champion(api: Api, store: Path, dataset: str) -> None:
    """Train the small model once, by hand."""
    deployment = api("GET", "/deployments/name/train-ensemble/train")["id"]
    parameters = {"run": small_run(dataset), "store": str(store)}
    body = {"parameters": parameters, "idempotency_key": str(uuid.uuid4())}
    run = api("POST", f"/deployments/{deployment}/create_flow_run", body)["id"]
    deadline = time.monotonic() + TRAINING_SECONDS
    while time.monotonic() < deadline:
        found = api("GET", f"/flow_runs/{run}")
        if found["state_type"] == "COMPLETED":
            return
        if found["state_type"] in {"FAILED", "CRASHED", "CANCELLED"}:
            raise RuntimeError(f"the first training {found['state_name']}: {found['state']['message']}")
        time.sleep(1)
    raise RuntimeError("the first training did not end in time")


def summarised(week: Week, stuck: list[Run], seconds: float) -> dict[str, Any]:
    """Everything that was seen."""
    ledger, now = week.ledger, datetime.now(UTC)
    over = ledger.over()
    looks = [run for run in ledger.runs.values() if not run.scheduled and run.name == "monitor stream"]
    early = next((sample for sample in week.samples if sample["runs"] >= week.options.runs / 4), week.samples[0])
    first, last = early["resident_bytes"], week.samples[-1]["resident_bytes"]
    return {
        "options": {**week.options._asdict(), "keep_seconds": week.options.keep_seconds},
        "seconds": seconds,
        "states": ledger.counts(),
        "other_runs": len(ledger.runs) - len(over),
        "champion_looked_at": sum(run.state == "COMPLETED" for run in looks),
        "longest_wait": max((run.late_seconds(now) for run in over), default=0.0),
        "unanswered": week.unanswered,
        "stuck": described(stuck),
        "unexpected": described(ledger.unexpected()),
        "failures": len(ledger.expected()),
        "untold": described(ledger.untold()),
        "samples": week.samples,
        "maintenances": [week.around(run) for run in ledger.maintenances()],
        "memory_growth": {name: last[name] / first[name] for name in first if name in last},
        "memory_since": early["runs"],
        "restarted": sorted(
            name
            for name, pid in week.samples[0]["processes"].items()
            if any(sample["processes"].get(name) != pid for sample in week.samples)
        ),
    }


def growth(figures: dict[str, Any]) -> dict[str, float]:
    """Of each database, after the last maintenance over after the one in the middle; empty: too short to say."""
    half, keep = figures["options"]["runs"] / 2, figures["options"]["keep_seconds"]
    done = figures["maintenances"]
    middle = next((one for one in done if one["runs"] >= half and one["seconds"] >= 2 * keep), None)
    if middle is None or middle is done[-1] or done[-1]["seconds"] - middle["seconds"] < keep:
        return {}
    return {name: done[-1]["after"][name] / middle["after"][name] for name in DATABASES}


def problems(figures: dict[str, Any]) -> list[str]:
    """What is not as it ought to be."""
    found = [f"stuck: {one}" for one in figures["stuck"]]
    found += [f"failed without reason: {one}" for one in figures["unexpected"]]
    found += [f"{name} ended and was started anew" for name in figures["restarted"]]
    if not figures["champion_looked_at"]:
        found.append("the champion was never looked at")
    if not figures["maintenances"]:
        found.append("the store was never tidied")
    found += [f"failed as it had to, and nobody was told: {one}" for one in figures["untold"]]
    for name, times in growth(figures).items():
        if times > MAX_GROWTH:
            found.append(f"{name} grows: {times:.2f} times what it was after the maintenance in the middle")
    if figures["options"]["runs"] >= _MIN_JUDGED_RUNS:
        for name, times in figures["memory_growth"].items():
            if times > MAX_GROWTH:
                found.append(f"{name} grows: {times:.2f} times its memory after {figures['memory_since']} runs")
    return found


def show(figures: dict[str, Any], console: Console) -> None:
    """Tables and sentences."""
    services = list(figures["samples"][0]["resident_bytes"])
    table = Table("runs", "seconds", *services, *DATABASES, "files", "bytes", *figures["samples"][0]["rows"])
    for column in table.columns:
        column.justify = "right"
    for one in figures["samples"]:
        table.add_row(
            str(one["runs"]),
            f"{one['seconds']:.0f}",
            *(format_bytes(one["resident_bytes"].get(name, 0)) for name in services),
            *(format_bytes(one["database_bytes"][name]) for name in DATABASES),
            f"{one['files']:,}",
            format_bytes(one["file_bytes"]),
            *(f"{number:,}" for number in one["rows"].values()),
        )
    console.print(table)
    tidied = Table("maintenance after", "seconds", "took", *(f"{name}, {when}" for name in DATABASES for when in _WHEN))
    for one in figures["maintenances"]:
        told = (format_bytes(one[when][name]) for name in DATABASES for when in _WHEN)
        tidied.add_row(f"{one['runs']} runs", f"{one['seconds']:.0f}", f"{one['took']:.1f} s", *told)
    console.print(tidied)
    for name, states in figures["states"].items():
        console.print(f"{name}: {', '.join(f'{number} {state}' for state, number in states.items()) or 'none'}")
    console.print(
        f"{figures['other_runs']} other runs; the champion was looked at {figures['champion_looked_at']} times; "
        f"{figures['failures']} runs failed as they had to, {len(figures['untold'])} of them untold; "
        f"longest wait {figures['longest_wait']:.0f} s; {len(figures['stuck'])} stuck; "
        f"'database is locked' {figures['locked']} times, {figures['refused']} requests sent again, "
        f"{figures['unanswered']} not answered"
    )
    grown = ", ".join(f"{name} {100 * (times - 1):+.0f} %" for name, times in figures["memory_growth"].items())
    console.print(f"memory from run {figures['memory_since']} to the end: {grown}")
    after = ", ".join(f"{name} {times:.2f}" for name, times in growth(figures).items())
    console.print(f"after the last maintenance over after the one in the middle: {after or 'too short to say'}")
    for one in figures["problems"]:
        console.print(f"PROBLEM {one}", markup=False, soft_wrap=True)
    console.print("problems found" if figures["problems"] else "bounded, and no run is stuck")


_WHEN = ("before", "after")


def main() -> None:
    """Run it, show it, and say by the exit code whether all is well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, help="scheduled runs that are followed to their end (200)")
    parser.add_argument("--pace", type=float, default=15.0, help="seconds between two of them")
    parser.add_argument("--every", type=int, help="runs per row of the table (25)")
    parser.add_argument("--at-a-time", type=int, default=4, help="flow runs at a time, as `polychoir up --runs`")
    parser.add_argument("--quick", action="store_true", help="12 runs, a row of the table every 4")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    given = parser.parse_args()
    num_runs, every = (12, 4) if given.quick else (200, 25)
    options = Options(given.runs or num_runs, given.pace, given.every or every, given.at_a_time)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was brought up goes with it
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        figures = run_week(
            options,
            Path(folder).resolve(),
            lambda text: print(f"{time.monotonic() - began:6.0f} s  {text}", file=sys.stderr, flush=True),
        )
    if given.out:
        given.out.write_text(json.dumps(figures, indent=1, default=str))
    show(figures, Console(width=190))
    sys.exit(1 if figures["problems"] else 0)


if __name__ == "__main__":
    main()
