"""Trains the groups of a plan, as many at a time as there are workers, and ends in time.

Who starts a group (a pool of threads, an orchestrator) is the caller's business. Under a budget a group is given a
deadline when it is begun, that leaves time for what comes after training, and an ensemble of the covering set is
published as soon as it has trained: a run that is killed from then on leaves something usable.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from training_core.artifacts import ArtifactRef
from training_core.campaigns.bagging import Plan, conclude_run, num_workers, open_dataset
from training_core.campaigns.budget import max_bytes
from training_core.campaigns.clock import Rehearsal, RunClock
from training_core.campaigns.grouping import predicted_seconds
from training_core.campaigns.run_config import RunConfig
from training_core.config import Config
from training_core.errors import GateError, UserError
from training_core.isolation import collect_reports, device_kind
from training_core.jobs import (
    Cohort,
    DatasetRef,
    Event,
    Job,
    JobReport,
    Limits,
    OnEvent,
    TimeLeft,
    event_of,
    finished_report,
)
from training_core.jobs import skipped_report as skipped
from training_core.schema import patterns_to_judge
from training_core.selection.ensemble import Ensemble

Outcome = list[JobReport] | BaseException
Launch = Callable[[Cohort, Limits, Callable[[Outcome], None]], object]
"""Begins to train a group and returns at once; calls the third argument with what came of it, from any thread."""

Here = Callable[[Sequence[Job], Limits], Sequence[JobReport]]
"""Trains jobs at once, in this process."""

_REHEARSED_ROWS = 200


class TrainingOutcome(Config):
    """What came of the training of a run."""

    reports: tuple[JobReport, ...]
    """Of every job, by name."""
    usable_seconds: float | None = None
    """From the start of the run until an ensemble of the covering set was there; None without a budget."""
    ended: float
    """When training ended, in seconds since the epoch."""
    closing_seconds: float = 0.0
    """What is expected to take place after training."""


def reports_of(cohort: Cohort, outcome: Outcome, store: Path, device: str) -> Sequence[JobReport]:
    """What a group gave; when its process died, what it had published before it did.

    Args:
        cohort: the group.
        outcome: how it ended.
        store: where learners are published.
        device: the kind of device that it trained on, which need not be this machine's.

    Raises:
        UserError: a learner met a setting or data that the user has to mend.
        BaseException: whoever ran the group was told to end.
    """
    if isinstance(outcome, UserError) or (isinstance(outcome, BaseException) and not isinstance(outcome, Exception)):
        raise outcome
    return collect_reports(cohort, store, str(outcome), device) if isinstance(outcome, Exception) else outcome


class Dispatcher:
    """Trains one plan. Give it the events of the learners (`on_event`), from any thread, then call `train` once."""

    def __init__(self, plan: Plan, run: RunConfig, dataset: DatasetRef, store: Path, clock: RunClock) -> None:
        self._plan, self._run, self._dataset, self._store, self._clock = plan, run, dataset, store, clock
        self._messages: SimpleQueue[tuple[Cohort | None, Event | Outcome]] = SimpleQueue()
        self._unsettled = set(plan.cover) if clock.seconds else set[str]()
        self._trained: set[str] = set()
        self._time_left = TimeLeft(Limits())
        self._rehearsal: Rehearsal | None = None
        self._usable_seconds: float | None = None
        self._device = "cpu"
        judged = clock.wrapping == "flow"  # in the library only when somebody asks
        self._num_test_rows = len(open_dataset(dataset).rows("test")) if judged else 0

    def on_event(self, event: Event) -> None:
        """Take in what happens to a learner."""
        if event["event"] in {"finished", "failed", "reused", "skipped", "pruned"}:
            self._messages.put((None, event))

    def train(
        self, launch: Launch, here: Here, tell: OnEvent = lambda event: None, device: str | None = None
    ) -> TrainingOutcome:
        """Train all groups; a group whose process died costs its unfinished learners, not the run.

        Args:
            launch: begins to train a group.
            here: trains the jobs that are to be trained before all groups, in this process.
            tell: told when an ensemble of the covering set is there.
            device: kind of device that groups train on, which learners are filed under; by default this machine's.

        Raises:
            UserError: a learner met a setting or data that the user has to mend.
        """
        self._device = device or device_kind()
        waiting = deque(self._plan.cohorts)
        at_a_time = num_workers(self._run) if self._clock.seconds else max(1, len(waiting))
        reports: dict[str, JobReport] = {}
        running = 0
        if self._plan.here:
            reports |= {report.name: report for report in here(self._plan.here, self._limits(len(self._plan.here)))}
            self._take_in_all(tell)
        while waiting or running:
            while waiting and running < at_a_time:
                cohort, limits = waiting.popleft(), self._limits()
                if limits.seconds_left <= 0:
                    reports |= {report.name: report for report in self._without_training(cohort)}
                    continue
                launch(cohort, limits, lambda outcome, cohort=cohort: self._messages.put((cohort, outcome)))
                running += 1
            if not running:
                break
            cohort, message = self._messages.get()
            if isinstance(message, dict):
                self._take_in(message, tell)
            elif cohort is not None:
                running -= 1
                reports |= {report.name: report for report in reports_of(cohort, message, self._store, self._device)}
        self._take_in_all(tell)  # events that came with the last group
        if not any(report.artifact for report in reports.values()) and self._clock.seconds:
            reports |= self._at_least_one(launch, here, reports)
        # A group that was tried twice finds its own learners of the first try: they are this run's work all the same.
        found = [
            r.model_copy(update={"status": "trained"}) if r.artifact and r.name in self._trained else r
            for r in reports.values()
        ]
        num_trained = sum(report.artifact is not None for report in found)
        return TrainingOutcome(
            reports=tuple(sorted(found, key=lambda report: report.name)),
            usable_seconds=self._usable_seconds,
            ended=time.time(),
            closing_seconds=self._clock.closing_seconds(num_trained, self._num_test_rows, self._rehearsal),
        )

    def _take_in_all(self, tell: OnEvent) -> None:
        """Note all events that have come; to be called when no group is running."""
        while not self._messages.empty():
            _, message = self._messages.get()
            if isinstance(message, dict):
                self._take_in(message, tell)

    def _limits(self, num_learners: int | None = None) -> Limits:
        """Limits of a group that is begun now; with `num_learners` those that are left time to be combined."""
        expected = self._num_expected() if num_learners is None else num_learners
        return Limits(
            learner_seconds=self._run.budget.learner_seconds,
            deadline=self._clock.training_deadline(expected, self._num_test_rows, self._rehearsal),
            pace=self._time_left.pace,
            memory_bytes=max_bytes(self._run),
        )

    def _num_expected(self) -> int:
        """How many learners will be there in the end, about: as many as are predicted to fit into the time left."""
        workers, seconds = num_workers(self._run), 0.0
        left = self._clock.left * workers
        in_order = [*self._plan.here, *(job for cohort in self._plan.cohorts for job in cohort.jobs)]
        for position, job in enumerate(in_order):
            seconds += predicted_seconds([job]) * self._time_left.pace
            if seconds > left:
                return max(position, len(self._plan.cover), 1)
        return len(in_order)

    def _take_in(self, event: Event, tell: OnEvent) -> None:
        """Note what became of a learner; the last one of the covering set makes the first ensemble."""
        name = event["job"]
        if event["event"] == "finished":
            self._trained.add(name)
            predicted = {job.name: job.predicted_seconds for job in self._plan.jobs}.get(name)
            self._time_left.took(predicted, event["seconds"])
        if name in self._unsettled:
            self._unsettled.discard(name)
            if not self._unsettled:
                self._rehearse(tell)

    def _rehearse(self, tell: OnEvent) -> None:
        """Publish an ensemble of what is there, and measure what that takes."""
        found = [finished_report(job, self._store, self._device) for job in self._plan.jobs]
        reports = [report for report in found if report is not None]
        if not reports or self._clock.left <= 0:
            return
        begun, own = time.perf_counter(), time.thread_time()
        try:
            ensemble = conclude_run(self._run, self._dataset, reports, self._store)
        except GateError:
            return  # the last word on what is enough is the conclusion's
        concluded = time.perf_counter() - begun
        self._usable_seconds = self._clock.elapsed
        tell(
            {
                "event": "usable",
                "ensemble": ensemble.uri,
                "learners": len(reports),
                "seconds": self._usable_seconds,
            }
        )
        load, per_row = self._predict(ensemble)
        slowdown = (time.perf_counter() - begun) / max(time.thread_time() - own, 1e-3)
        self._rehearsal = Rehearsal(
            num_learners=len(reports),
            conclude_seconds=concluded,
            load_seconds=load,
            predict_seconds_per_row=per_row,
            slowdown=max(1.0, slowdown),
        )

    def _predict(self, ref: ArtifactRef) -> tuple[float, float]:
        """Seconds to load an ensemble, and to predict a row under every pattern; some training rows are tried."""
        begun = time.perf_counter()
        ensemble = Ensemble.load(ref.path)
        for member in ensemble.members:
            ensemble.learner(member.name)
        loaded = time.perf_counter()
        dataset = open_dataset(self._dataset)
        rows = dataset.rows("train")[:_REHEARSED_ROWS]
        under = ensemble.under_patterns(dataset.samples(np.sort(rows)))
        for pattern in patterns_to_judge(ensemble.spec.names):
            under.predict(pattern)
        return loaded - begun, (time.perf_counter() - loaded) / max(1, len(rows))

    def _without_training(self, cohort: Cohort) -> Iterable[JobReport]:
        """Reports of a group that there is no time to begin with: what was trained before counts."""
        why = "there was no time left to begin with it"
        return [finished_report(job, self._store, self._device) or skipped(job, why) for job in cohort.jobs]

    def _at_least_one(self, launch: Launch, here: Here, reports: dict[str, JobReport]) -> dict[str, JobReport]:
        """Train the quickest learner for all modalities after all, over the time: a run has to end with something."""
        if any(report.status == "failed" for report in reports.values()):
            return {}  # time is not what is lacking
        first = next((job for job in self._plan.jobs if job.name in self._plan.cover[:1]), None)
        if first is None:
            return {}
        if self._plan.here:
            found = here([first], Limits())
            self._take_in_all(lambda event: None)
            return {report.name: report for report in found}
        cohort = Cohort(name="the last resort", jobs=(first,))
        launch(cohort, Limits(), lambda outcome: self._messages.put((cohort, outcome)))
        while True:
            whose, message = self._messages.get()
            if isinstance(message, dict):
                if message["event"] == "finished":
                    self._trained.add(message["job"])
            elif whose is cohort:
                return {report.name: report for report in reports_of(cohort, message, self._store, self._device)}


def news_of(cohort: Cohort, store: Path) -> Callable[[Outcome], list[Event]]:
    """What is to be told of a group that cannot be heard while it trains, when it is over.

    To be called before the group is begun: a learner that is there by then is reused. Any other one has been trained
    for this run, though it was found by a second try after the first one's process had died.
    """
    devices = ("cpu", "cuda")  # that of a worker need not be this machine's
    there = {job.name for job in cohort.jobs if any(finished_report(job, store, device) for device in devices)}

    def news(outcome: Outcome) -> list[Event]:
        if isinstance(outcome, BaseException):
            return []
        return [
            event_of(
                report.model_copy(update={"status": "trained"})
                if report.status == "reused" and report.name not in there
                else report
            )
            for report in outcome
        ]

    return news
