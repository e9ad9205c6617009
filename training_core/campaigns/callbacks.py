"""What happens while an ensemble is trained, told to whoever wants to watch: progress, time left, the leader so far."""

import threading
import time
from collections.abc import Iterable, Mapping

from training_core.campaigns.bagging import Plan
from training_core.config import Config
from training_core.jobs import Event
from training_core.quantities import format_seconds


class Planned(Config):
    """Learners have been chosen; training begins."""

    num_learners: int
    num_groups: int
    predicted_seconds: float
    """Of all learners, one after the other, on one core."""


class Started(Config):
    """A learner begins to train."""

    learner: str
    epochs: int
    """At most."""


class Epoch(Config):
    """A net has seen all its rows once more."""

    learner: str
    epoch: int
    values: Mapping[str, float]
    """Such as `training/loss` and `validation/loss`."""


class Finished(Config):
    """A learner has trained, was found trained, failed, or was skipped for want of time."""

    learner: str
    status: str
    score: float | None
    """The task's metric on rows outside its bag; None when it has none."""
    seconds: float
    why: str
    """Why it failed or was skipped."""
    num_done: int
    num_learners: int
    eta_seconds: float | None
    """About how long until all are done; None while nothing is known."""
    leader: str | None
    """The learner with the best score so far; of those trained in this call."""
    leader_score: float | None


class Usable(Config):
    """An ensemble that can answer under every pattern is there, while others still train; only under a budget."""

    ensemble: str
    """Its folder."""
    num_learners: int
    seconds: float
    """Since the beginning."""


class Concluded(Config):
    """The ensemble is there."""

    ensemble: str
    """Its folder."""
    num_kept: int
    """Learners with a weight."""
    seconds: float
    """Since the beginning."""


class Callback:
    """Watches a training. Overload what is of interest; calls come one at a time, from any thread."""

    def on_planned(self, planned: Planned) -> None:
        """Training is about to begin."""

    def on_started(self, started: Started) -> None:
        """A learner begins."""

    def on_epoch(self, epoch: Epoch) -> None:
        """A net has trained one more epoch."""

    def on_finished(self, finished: Finished) -> None:
        """Nothing more will come of a learner."""

    def on_usable(self, usable: Usable) -> None:
        """There is a first ensemble."""

    def on_concluded(self, concluded: Concluded) -> None:
        """All is done."""


class PrintProgress(Callback):
    """Prints a line per learner: how many are done, the leader, and about how long it will still take."""

    def on_planned(self, planned: Planned) -> None:
        """Say what is going to be trained."""
        print(f"training {planned.num_learners} learners in {planned.num_groups} groups", flush=True)

    def on_finished(self, finished: Finished) -> None:
        """Say what became of a learner."""
        how = finished.status if finished.score is None else f"score {finished.score:.4f}"
        eta = "" if finished.eta_seconds is None else f", about {format_seconds(finished.eta_seconds)} left"
        leader = "" if finished.leader is None else f" (best {finished.leader_score:.4f}: {finished.leader})"
        print(f"{finished.num_done}/{finished.num_learners} {finished.learner}: {how}{leader}{eta}", flush=True)

    def on_usable(self, usable: Usable) -> None:
        """Say that a first ensemble is there."""
        print(f"a first ensemble of {usable.num_learners} learners after {format_seconds(usable.seconds)}", flush=True)

    def on_concluded(self, concluded: Concluded) -> None:
        """Say that it is over."""
        print(f"{concluded.num_kept} learners kept, after {format_seconds(concluded.seconds)}", flush=True)


class Narrator:
    """Turns the events of learners into calls of callbacks."""

    def __init__(self, callbacks: Iterable[Callback], deadline: float | None = None) -> None:
        self._callbacks = tuple(callbacks)
        self._deadline = deadline
        self._lock = threading.Lock()
        self._predicted: dict[str, float] = {}
        self._done: set[str] = set()
        self._leader: tuple[float, str] | None = None
        self._began = time.monotonic()

    def planned(self, plan: Plan) -> None:
        """A plan is about to be trained."""
        with self._lock:
            self._predicted = {job.name: job.predicted_seconds or 1.0 for job in plan.jobs}
            self._done, self._began = set(), time.monotonic()
            said = Planned(
                num_learners=len(self._predicted),
                num_groups=len(plan.cohorts),
                predicted_seconds=sum(self._predicted.values()),
            )
            for callback in self._callbacks:
                callback.on_planned(said)

    def concluded(self, concluded: Concluded) -> None:
        """The ensemble is there."""
        with self._lock:
            for callback in self._callbacks:
                callback.on_concluded(concluded)

    def __call__(self, event: Event) -> None:
        """Take in one event, from any thread."""
        with self._lock:
            kind = event["event"]
            if kind == "started":
                started = Started(learner=event["job"], epochs=event["epochs"])
                for callback in self._callbacks:
                    callback.on_started(started)
            elif kind == "epoch":
                values = {key: value for key, value in event.items() if isinstance(value, float)}
                epoch = Epoch(learner=event["job"], epoch=event["epoch"], values=values)
                for callback in self._callbacks:
                    callback.on_epoch(epoch)
            elif kind == "usable":
                usable = Usable(ensemble=event["ensemble"], num_learners=event["learners"], seconds=event["seconds"])
                for callback in self._callbacks:
                    callback.on_usable(usable)
            elif kind in {"finished", "reused", "failed", "skipped", "pruned"} and event["job"] not in self._done:
                finished = self._finished(event)
                for callback in self._callbacks:
                    callback.on_finished(finished)

    def _finished(self, event: Event) -> Finished:
        """What is known once a learner is done."""
        name, score = event["job"], event.get("score")
        self._done.add(name)
        if score is not None and (self._leader is None or score > self._leader[0]):
            self._leader = (score, name)
        return Finished(
            learner=name,
            status="trained" if event["event"] == "finished" else event["event"],
            score=score,
            seconds=event.get("seconds", 0.0),
            why=event.get("error", event.get("why", "")),
            num_done=len(self._done),
            num_learners=len(self._predicted),
            eta_seconds=self._eta(),
            leader=None if self._leader is None else self._leader[1],
            leader_score=None if self._leader is None else self._leader[0],
        )

    def _eta(self) -> float | None:
        """Seconds left at the pace so far, measured in predicted work; never beyond the deadline."""
        done = sum(self._predicted.get(name, 0.0) for name in self._done)
        if not done:
            return None
        left = (time.monotonic() - self._began) * max(0.0, sum(self._predicted.values()) / done - 1)
        return left if self._deadline is None else max(0.0, min(left, self._deadline - time.time()))
