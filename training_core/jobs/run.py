"""`run_jobs`: from jobs to published directories, one at a time or a stack at a time."""

import hashlib
import json
import resource
import shutil
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from training_core.artifacts import (
    exclusive,
    is_published,
    publish_directory,
    storage_errors,
    write_text_atomically,
)
from training_core.artifacts.bundles import drop_unpacked, unpack
from training_core.data.splitting.bags import bag_features
from training_core.data.splitting.row_draws import draw_rows
from training_core.data.storage.store import Dataset, DatasetStore
from training_core.engine.alone import Trained
from training_core.engine.prepare import LearnerRequest
from training_core.engine.train import train_in_units
from training_core.engine.watching.profiling import Watch
from training_core.errors import DeadlineError, StorageError, TransientError
from training_core.evaluation.metrics import metrics
from training_core.jobs.job import (
    Job,
    JobReport,
    OnEvent,
    best_losses,
    event_of,
    failed_report,
    finished_report,
    job_directory,
    keep_given_up,
    pruned_report,
    skipped_report,
)
from training_core.jobs.limits import Limits, TimeLeft
from training_core.recipes import member_request
from training_core.schema import pattern_key
from training_core.selection.out_of_bag import hear

_CHECKPOINTS, _OWNERS = "checkpoints", "jobs.json"
_BUNDLES = "stacks"  # folder of the outputs of learners that trained together, until each has its own directory
_NO_LIMITS = Limits()


def run_jobs(
    jobs: Sequence[Job],
    store: Path,
    device: str,
    on_event: OnEvent,
    *,
    profile: bool = False,
    limits: Limits = _NO_LIMITS,
) -> Iterator[JobReport]:
    """Train jobs, nets of one architecture together where it pays, or fetch what an earlier run trained.

    A second process that asks for one of the jobs waits until it is there; locks are taken in the order of the
    directories' names, so two processes cannot wait for each other. Learners that trained together are published as
    one and then one by one: whoever is killed in between leaves what the others of the stack need.

    What a learner stumbles over (too little data in its bag, divergence, a bug in it) is reported, not raised: one
    learner may fail without taking the others with it.

    Args:
        jobs: what to train.
        store: where outputs, locks and checkpoints are.
        device: where to train nets.
        on_event: told what happens.
        profile: look at the operators of a few steps of every training, too.
        limits: of these, a deadline decides which jobs are begun at all; ending what overruns is the caller's task.

    Yields:
        A report of every job, as soon as it is there.

    Raises:
        StorageError: outputs cannot be written, which will not be better for the next one.
    """
    named: dict[Path, list[Job]] = {}
    for job in jobs:
        named.setdefault(job_directory(job, store, device), []).append(job)
    with ExitStack() as locks:
        held = {directory: locks.enter_context(ExitStack()) for directory in sorted(named)}
        for directory, lock in held.items():
            lock.enter_context(exclusive(store / "locks" / f"job-{directory.name}.lock"))
        wanted: list[_Work] = []
        for directory, same in named.items():
            if not is_published(directory):
                unpack(store / _BUNDLES, directory)
            if all(finished_report(job, store, device) for job in same):
                yield from _reused(same, store, device, on_event)
                held[directory].close()
                continue
            try:
                wanted.append(_Work.of(_most_patient(same), directory))
            except Exception as error:
                on_event({"event": "started", "job": same[0].name, "epochs": same[0].recipe.training.epochs})
                yield from _failed(same, error, on_event)
                held[directory].close()
        drop_unpacked(store / _BUNDLES, store / "jobs")
        _drop_useless_checkpoints(store)
        time_left = TimeLeft(limits)
        for unit in _train(wanted, store, device, on_event, Watch(profile), time_left):
            for work, outcome in unit.items():
                same = named[work.directory]
                if isinstance(outcome, Exception):
                    yield from _failed(same, outcome, on_event)
                elif outcome.status == "pruned":
                    keep_given_up(work.job, outcome, store, device)
                    yield from _reused(same, store, device, on_event)
                else:
                    time_left.took(outcome.predicted_seconds, outcome.seconds)
                    yield from _reused(same, store, device, on_event, trained=True)
                held[work.directory].close()


@lru_cache(maxsize=2)
def _open_dataset(root: str, name: str, version: str) -> Dataset:
    """The dataset, opened once per process: the jobs of a group share what it has read."""
    return DatasetStore(Path(root)).open(f"{name}@{version}")


@dataclass(frozen=True, eq=False)
class _Work:
    """A job that has to be trained."""

    job: Job
    directory: Path
    dataset: Dataset
    inside: np.ndarray
    """Rows of the bag, with repeats."""
    outside: np.ndarray
    """Rows the learner is judged on."""

    @classmethod
    def of(cls, job: Job, directory: Path) -> "_Work":
        """Draw the rows of a job.

        Raises:
            ConfigError: no row is left inside or outside of the bag.
        """
        dataset = _open_dataset(job.dataset.root, job.dataset.name, job.dataset.version)
        rows = dataset.rows("train")
        drawn = draw_rows(job.subset, rows, dataset.target(rows), dataset.groups(rows), dataset.times(rows))
        return cls(job, directory, dataset, drawn.inside, drawn.outside)

    def request(self, on_event: OnEvent) -> LearnerRequest:
        """What the engine is asked for."""
        job = self.job

        def on_epoch(epoch: int, values: dict[str, float]) -> str | None:
            on_event({"event": "epoch", "job": job.name, "epoch": epoch, **values})
            best = values.get("validation/best_loss")
            return None if best is None else job.why_give_up(epoch, best)

        features = bag_features(job.subset, self.dataset.spec)
        return member_request(
            job.recipe, self.dataset, job.subset.modalities, features, self.inside, job.seed, on_epoch, job.name
        )

    def given_up(self, trained: Trained, clock: "_Clock") -> JobReport | None:
        """The report of a learner whose training was given up; None when it was ended by anything else."""
        losses = best_losses(trained.history)
        why = self.job.why_give_up(len(losses), losses[-1]) if losses else None
        # What its training says it stopped for is asked, not a note of our own: one that was interrupted has none.
        return (
            pruned_report(self.job, why, losses, *clock.read()) if why and why == trained.history.stop_reason else None
        )

    def write(self, trained: Trained, folder: Path, clock: "_Clock") -> JobReport:
        """Judge a learner on the rows outside the bag and write everything to `folder`."""
        job, spec = self.job, self.dataset.spec
        (folder / "learner").mkdir()
        trained.learner.save(folder / "learner")
        names = job.subset.modalities
        judged = self.dataset.subset(self.outside, names)
        heard = hear(trained.learner, judged, spec.names)
        arrays = {f"pattern:{key}": values.astype(np.float32) for key, values in heard.items()}
        np.savez(folder / "out_of_bag.npz", rows=self.outside, **arrays)  # pyright: ignore[reportArgumentType]
        (folder / "curves.json").write_text(trained.history.to_json())
        clock.watch.save(job.name, folder)
        predicted = heard[pattern_key(names, names)]
        voted = ~np.isnan(predicted).any(axis=1)
        found = metrics(spec.task, judged.target()[voted], predicted[voted]) if voted.any() else {}
        seconds, cpu_seconds = clock.read()
        report = JobReport(
            name=job.name,
            status="trained",
            learner=job.recipe.learner.kind,
            bag=job.subset.name,
            modalities=names,
            reason=job.reason,
            trained_as=trained.trained_as,
            score=found.get(spec.task.metric),
            metrics=found,
            num_rows=len(np.unique(self.inside)),
            epochs=len(trained.history.epochs),
            validation_losses=best_losses(trained.history),
            seconds=seconds,
            cpu_seconds=cpu_seconds,
            predicted_seconds=job.predicted_seconds,
            predicted_bytes=job.predicted_bytes,
            peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            size_bytes=sum(file.stat().st_size for file in (folder / "learner").rglob("*") if file.is_file()),
        )
        (folder / "report.json").write_text(report.to_json())
        return report


class _Clock:
    """Time since the last look at it, each learner's share of the time its stack trained, and what `watch` saw."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.share = (0.0, 0.0)
        self._last = (time.perf_counter(), time.process_time())

    def restart(self) -> None:
        """Forget what has passed."""
        self.share, self._last = (0.0, 0.0), (time.perf_counter(), time.process_time())

    def share_out(self, num_learners: int) -> None:
        """What has passed was for all of these alike."""
        now = (time.perf_counter(), time.process_time())
        self.share = ((now[0] - self._last[0]) / num_learners, (now[1] - self._last[1]) / num_learners)
        self._last = now

    def read(self) -> tuple[float, float]:
        """Seconds, and seconds of the CPU, of one learner: its share, and what has passed since the last look."""
        now, last = (time.perf_counter(), time.process_time()), self._last
        self._last = now
        return self.share[0] + now[0] - last[0], self.share[1] + now[1] - last[1]


def _train(
    wanted: Sequence[_Work], store: Path, device: str, on_event: OnEvent, watch: Watch, time_left: TimeLeft
) -> Iterator[dict[_Work, JobReport | Exception]]:
    """Train and publish; what came of the members of each unit."""
    clock = _Clock(watch)

    def on_start(positions: Sequence[int]) -> Path | None:
        clock.restart()
        for position in positions:
            job = wanted[position].job
            on_event({"event": "started", "job": job.name, "epochs": job.recipe.training.epochs})
        return _begin_checkpoints([wanted[position] for position in positions], store)

    def admit(positions: Sequence[int]) -> bool:
        return time_left.allows([wanted[position].job for position in positions])

    requests = [work.request(on_event) for work in wanted]
    for unit in train_in_units(requests, device, on_start, watch, admit):
        clock.share_out(len(unit))
        outcomes: dict[_Work, JobReport | Exception] = {}
        trained: dict[_Work, Trained] = {}
        for position, outcome in unit.items():
            work = wanted[position]
            if isinstance(outcome, Exception):
                outcomes[work] = outcome
            elif (pruned := work.given_up(outcome, clock)) is not None:
                outcomes[work] = pruned
            else:
                trained[work] = outcome
        if len(trained) > 1:
            outcomes |= _publish_together(trained, store, clock)
        else:
            outcomes |= {work: _publish(work, one, clock) for work, one in trained.items()}
        yield outcomes
        shutil.rmtree(_checkpoints([wanted[position] for position in unit], store), ignore_errors=True)


def _publish(work: _Work, trained: Trained, clock: _Clock) -> JobReport | Exception:
    """Write and publish what came of one learner, or why it could not be judged."""
    try:
        with publish_directory(work.directory) as folder:
            return work.write(trained, folder, clock)
    except (StorageError, TransientError):
        raise
    except Exception as error:
        return error


def _publish_together(
    trained: Mapping[_Work, Trained], store: Path, clock: _Clock
) -> dict[_Work, JobReport | Exception]:
    """As `_publish`, for learners that would not come out the same without one another."""
    outcomes: dict[_Work, JobReport | Exception] = {}
    with publish_directory(store / _BUNDLES / _digest(trained)) as bundle:
        for work, one in trained.items():
            folder = bundle / work.directory.name
            folder.mkdir()
            try:
                with storage_errors(work.directory, folder):
                    outcomes[work] = work.write(one, folder, clock)
            except (StorageError, TransientError):
                raise
            except Exception as error:
                shutil.rmtree(folder)
                outcomes[work] = error
    for work in trained:
        if not unpack(store / _BUNDLES, work.directory) and isinstance(outcomes[work], JobReport):
            raise StorageError(f"{work.directory} does not read back as it was written; look at the disk")
    drop_unpacked(store / _BUNDLES, store / "jobs")
    return outcomes


def _checkpoints(unit: Iterable[_Work], store: Path) -> Path:
    """Where learners that train together keep what they go on from: with other members it would be of no use."""
    return store / _CHECKPOINTS / _digest(unit)


def _begin_checkpoints(unit: Sequence[_Work], store: Path) -> Path | None:
    """Where checkpoints of a unit go, with a note of whose they are and when each is given up; None: it keeps none.

    Those in which a learner may have been given up are of use to no other unit than one that gives up the same.
    """
    if not any(work.job.recipe.keeps_checkpoints for work in unit):
        return None
    folder, before = _checkpoints(unit, store), None
    owners = {work.directory.name: {str(key): value for key, value in work.job.give_up.items()} for work in unit}
    with suppress(OSError, ValueError):
        before = json.loads((folder / _OWNERS).read_text())
    with storage_errors(folder):
        of_use = isinstance(before, dict) and (before == owners or not any(before.values()))
        if folder.exists() and not of_use:
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
    write_text_atomically(folder / _OWNERS, json.dumps(owners))
    return folder


def _drop_useless_checkpoints(store: Path) -> None:
    """Remove what a killed process left: a unit of which one learner is published will not train again as it was."""
    for owners in (store / _CHECKPOINTS).glob(f"*/{_OWNERS}"):
        with suppress(OSError, ValueError):  # another process had the same thought
            if any(is_published(store / "jobs" / name) for name in json.loads(owners.read_text())):
                shutil.rmtree(owners.parent, ignore_errors=True)


def _digest(unit: Iterable[_Work]) -> str:
    """A name for these jobs together."""
    return hashlib.sha256("+".join(sorted(work.directory.name for work in unit)).encode()).hexdigest()[:32]


def _most_patient(same: Sequence[Job]) -> Job:
    """The first of jobs that differ in when they are given up only, given up where all of them would be."""
    shared = set.intersection(*(set(job.give_up) for job in same))
    return same[0].model_copy(update={"give_up": {epoch: max(job.give_up[epoch] for job in same) for epoch in shared}})


def _reused(
    same: Iterable[Job], store: Path, device: str, on_event: OnEvent, trained: bool = False
) -> Iterator[JobReport]:
    """Reports of jobs that are done: whose directory is there, or who were given up.

    `trained`: it has just been made, for the first of them that is not given up.
    """
    for job in same:
        if report := finished_report(job, store, device):
            if trained and report.artifact:
                report, trained = report.model_copy(update={"status": "trained"}), False
            on_event(event_of(report))
            yield report


def _failed(same: Iterable[Job], error: Exception, on_event: OnEvent) -> Iterator[JobReport]:
    """Reports of jobs whose learner stumbled; what is nobody's own fault is raised."""
    if isinstance(error, StorageError | TransientError):
        raise error
    late = isinstance(error, DeadlineError)
    if not late:
        traceback.print_exception(error)
    for job in same:
        report = skipped_report(job, str(error)) if late else failed_report(job, f"{type(error).__name__}: {error}")
        on_event(event_of(report))
        yield report
