"""What runs by itself in `week.py`: the schedules, the flow runs that come of them, and which of those are stuck."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from running_store import Api

LATE_MINUTES = 5.0
"""A run that is due for longer, and has not begun, is stuck."""
_DAY = 86_400.0
_FORETOLD_SECONDS = 330.0
"""A run that was scheduled so long before has its events acted upon at once. Prefect holds those of others back for a
quarter of an hour: they name as their forerunner, for five minutes, an event that scheduling does not send."""
_TERMINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
_NOBODY = "nobody"


class Schedule(NamedTuple):
    """A deployment that runs again and again."""

    deployment: str
    share: float
    """Of all scheduled runs."""
    parameters: Mapping[str, Any]
    at_least: int = 1
    phase: float = 0.0
    """When in its own interval it runs, 0..1."""
    fails: bool = False
    """It fails for a reason of its own, and that has to be told."""


def schedules(store: Path, dataset: str, sales: Path, keep_seconds: float) -> tuple[Schedule, ...]:
    """The mixture: mostly looks at the champion, notices and sources read again.

    Args:
        store: where they work.
        dataset: the version that is trained on, always the same: its learners are used again.
        sales: the source that is read again.
        keep_seconds: what maintenance keeps.
    """
    place, days = {"store": str(store)}, keep_seconds / _DAY
    retention = {"cache_days": days, "history_days": days, "flow_run_days": days}
    return (
        Schedule("monitor-champions/monitoring", 0.28, place, phase=0.1),
        Schedule("notify/notify", 0.30, {"subject": "all is well", "body": "scheduled"}, phase=0.3),
        Schedule("prepare-data/prepare", 0.28, {**place, "source": str(sales)}, phase=0.6),
        Schedule("maintain-store/maintain", 0.07, {**place, "request": retention}, at_least=2, phase=0.5),
        Schedule("train-ensemble/train", 0.03, {**place, "run": small_run(dataset)}, phase=0.4),
        Schedule("monitor-model/monitor", 0.04, {**place, "request": {"model": _NOBODY}}, phase=0.2, fails=True),
    )


def small_run(dataset: str) -> dict[str, Any]:
    """A training of a second."""
    return {
        "dataset": dataset,
        "preset": "tiny",
        "bags": {"num_bags": 3, "num_row_draws": 1},
        "learners": {"learners_per_bag": 1, "include": ["linear"]},
    }


class Scheduled:
    """Schedules on a server.

    Args:
        api: of the server.
        wanted: what is scheduled.
        num_runs: of all of them together.
        pace: seconds between two of those.
    """

    def __init__(self, api: Api, wanted: Sequence[Schedule], num_runs: int, pace: float) -> None:
        self._api = api
        self.made: list[tuple[str, str]] = []
        self.failing: set[str] = set()
        self.names: dict[str, str] = {}
        begin = datetime.now(UTC) + timedelta(seconds=5)
        for one in wanted:
            deployment = api("GET", f"/deployments/name/{one.deployment}")["id"]
            self.names[deployment] = one.deployment
            if one.fails:
                self.failing.add(deployment)
            interval = max(1.0, pace * num_runs / max(one.at_least, round(one.share * num_runs)))
            schedule = {
                "active": True,
                "slug": "week",
                "parameters": one.parameters,
                "schedule": {
                    "interval": interval,
                    "anchor_date": (begin + timedelta(seconds=one.phase * interval)).isoformat(),
                    "timezone": "UTC",
                },
            }
            (made,) = api("POST", f"/deployments/{deployment}/schedules", [schedule])
            self.made.append((deployment, made["id"]))

    def pause(self) -> None:
        """No more runs; those that were to come are forgotten by the server."""
        for deployment, schedule in self.made:
            self._api("PATCH", f"/deployments/{deployment}/schedules/{schedule}", {"active": False})


@dataclass
class Run:
    """A flow run as it was last seen."""

    id: str
    deployment: str
    """Empty for a run within a run, and one that was started by hand."""
    name: str
    scheduled: bool
    """By the scheduler, for one of our schedules or of the deployments' own."""
    state: str
    due: datetime
    made: datetime
    began: datetime | None
    ended: datetime | None
    message: str
    body: str
    """Of a notice."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more becomes of it."""
        return self.state in _TERMINAL

    def late_seconds(self, moment: datetime) -> float:
        """How long it waited for its beginning, or waits by now."""
        return max(0.0, ((self.began or self.ended or moment) - self.due).total_seconds())


@dataclass
class Ledger:
    """Every flow run there was; the server forgets them in time."""

    api: Api
    scheduled: Scheduled
    runs: dict[str, Run] = field(default_factory=dict)

    def look(self) -> None:
        """Bring it up to date: of runs that were not over all is asked, of others what is due by now."""
        found = self.api.all_runs({"expected_start_time": {"before_": datetime.now(UTC).isoformat()}})
        for one in found:
            self.runs[one["id"]] = Run(
                id=one["id"],
                deployment=self.scheduled.names.get(one["deployment_id"] or "", ""),
                name=one["name"],
                scheduled=bool(one["auto_scheduled"]),
                state=one["state_type"],
                due=_time(one["expected_start_time"]) or datetime.now(UTC),
                made=_time(one["created"]) or datetime.now(UTC),
                began=_time(one["start_time"]),
                ended=_time(one["end_time"]),
                message=((one["state"] or {}).get("message") or "")[:300],
                body=str((one["parameters"] or {}).get("body") or ""),
            )
        there = {one["id"] for one in found}
        for gone in [run for run in self.runs.values() if run.id not in there and not run.is_over]:
            del self.runs[gone.id]  # it was due when its schedule was paused

    def over(self) -> list[Run]:
        """Scheduled runs that are over."""
        return [run for run in self.runs.values() if run.scheduled and run.is_over]

    def under_way(self) -> list[Run]:
        """All that are due and not over."""
        return [run for run in self.runs.values() if not run.is_over]

    def late(self) -> list[Run]:
        """Those that ought to have begun long ago."""
        now = datetime.now(UTC)
        waiting = [run for run in self.under_way() if run.state == "SCHEDULED"]
        return [run for run in waiting if run.late_seconds(now) > 60 * LATE_MINUTES]

    def unexpected(self) -> list[Run]:
        """Those that failed or crashed, and had no reason of their own to."""
        return [
            run
            for run in self.runs.values()
            if run.state in {"FAILED", "CRASHED"}
            and not (run.state == "FAILED" and run.deployment in self.failing and _NOBODY in run.name)
        ]

    def expected(self) -> list[Run]:
        """Those that failed as they had to, and have to be told soon."""
        failed = [run for run in self.over() if run.state == "FAILED" and run.deployment in self.failing]
        return [run for run in failed if (run.due - run.made).total_seconds() > _FORETOLD_SECONDS]

    def untold(self) -> list[Run]:
        """Those of them for which no automation has started a notice."""
        notices = [run.body for run in self.runs.values() if not run.scheduled and run.body]
        return [run for run in self.expected() if not any(run.id in body for body in notices)]

    @property
    def failing(self) -> set[str]:
        """Names of the deployments whose schedule makes them fail."""
        return {self.scheduled.names[one] for one in self.scheduled.failing}

    def maintenances(self) -> list[Run]:
        """Those that are over, in order."""
        found = [run for run in self.over() if run.deployment.endswith("/maintain") and run.state == "COMPLETED"]
        return sorted(found, key=lambda run: run.ended or run.due)

    def counts(self) -> dict[str, dict[str, int]]:
        """Scheduled runs that are over, by deployment and state."""
        by_kind: dict[str, dict[str, int]] = {}
        for name in self.scheduled.names.values():
            by_kind[name] = dict(Counter(run.state for run in self.over() if run.deployment == name))
        return by_kind


def described(runs: Iterable[Run]) -> list[str]:
    """A line for each."""
    return [
        f"{run.deployment or 'run'} '{run.name}' {run.state}, due {run.due:%H:%M:%S}: {run.message}" for run in runs
    ]


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
