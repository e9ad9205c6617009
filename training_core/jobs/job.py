"""What is to be trained, and what came of it: `Job`, `Cohort`, `JobReport`, and where a job's outputs are.

A job's outputs live in a directory named by its fingerprint (core version + data + config + seed), published in one
step. A job whose directory exists is not trained again, whoever asks: that is the whole of caching and of resuming. Of
a job that was given up its validation losses are kept, so that whoever would give it up as early need not train it.
Whether a job is given up depends on its losses alone, never on what somebody else has trained before.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import FiniteFloat

from training_core.artifacts import (
    ArtifactRef,
    core_fingerprint,
    installed_version,
    is_published,
    mark_used,
    missing_files,
    open_published,
    require_undamaged,
    storage_errors,
    unpublished_if_damaged,
    write_text_atomically,
)
from training_core.config import Config, canonical_json
from training_core.data.splitting.bags import Bag
from training_core.engine.loop import History
from training_core.errors import StorageError, TransientError
from training_core.quantities import PositiveInt, Seed
from training_core.recipes import RecipeConfig

Event = dict[str, Any]
"""Something that happened to a job, as JSON-able data: `{"event": "epoch", "job": …, …}`."""
OnEvent = Callable[[Event], None]
JobStatus = Literal["trained", "reused", "failed", "skipped", "pruned"]


class DatasetRef(Config):
    """A published dataset version: where it is and what it holds."""

    root: str
    """Absolute path of the dataset store."""
    name: str
    version: str
    fingerprint: str
    """SHA-256 of the content, independent of where it is stored."""

    @property
    def label(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"


class Job(Config):
    """One learner to be trained on one bag.

    Two jobs with equal fingerprints give bit-identical results when they train alone or in equal stacks, results that
    are equal up to rounding in two stacks, and else such as are equally good, and equal up to rounding where no dropout
    is drawn inside the net.
    """

    name: str
    recipe: RecipeConfig
    dataset: DatasetRef
    subset: Bag
    seed: Seed
    predicted_seconds: float | None = None
    """What the cost model expects, kept to be compared with what it took."""
    predicted_bytes: float | None = None
    """Resident memory of its process that the cost model expects."""
    reason: str = ""
    """Why this learner was chosen for this bag."""
    give_up: Mapping[PositiveInt, FiniteFloat] = {}
    """After which epochs, from 1, its training is given up unless its best validation loss so far is at most so much.
    It says how long to train, not what comes of it, so it is no part of the fingerprint."""

    def why_give_up(self, epoch: int, best_loss: float) -> str | None:
        """Why training is given up after `epoch` epochs with this best validation loss; None when it goes on.

        There is nothing to be saved after the last epoch.
        """
        limit = self.give_up.get(epoch)
        if limit is None or best_loss <= limit or epoch >= self.recipe.training.epochs:
            return None
        return f"given up after epoch {epoch}: its best validation loss, {best_loss:.6g}, is above {limit:.6g}"

    def fingerprint(self, device: str) -> str:
        """What the result depends on, and nothing else: not the job's name, nor where its data is stored."""
        return hashlib.sha256(
            canonical_json(
                {
                    "core": core_fingerprint(),
                    "extras": {name: installed_version(name) for name in self.recipe.extras},
                    "data": self.dataset.fingerprint,
                    "recipe": self.recipe.model_dump(mode="json", exclude=self.recipe.unread),
                    "subset": self.subset.model_dump(mode="json", exclude={"name"}),
                    "seed": self.seed,
                    "device": device.partition(":")[0],
                }
            ).encode()
        ).hexdigest()


class Cohort(Config):
    """Jobs that are trained in one process: its start is paid for once, and nets of one architecture train together."""

    name: str
    jobs: tuple[Job, ...]


class JobReport(Config):
    """What came of a job."""

    name: str
    status: JobStatus
    """skipped: there was no time for it, or not enough to end it. pruned: given up, as `Job.give_up` says."""
    learner: str
    """Kind of learner."""
    bag: str
    modalities: tuple[str, ...]
    reason: str = ""
    error: str = ""
    """Why it failed, was skipped or was given up; empty otherwise."""
    artifact: ArtifactRef | None = None
    score: float | None = None
    """The task's metric on the rows outside the bag."""
    metrics: Mapping[str, float] = {}
    """All metrics on the rows outside the bag."""
    num_rows: int = 0
    """Distinct rows in the bag."""
    epochs: int = 0
    validation_losses: tuple[float, ...] = ()
    """The best validation loss so far, after each epoch; empty without validation rows."""
    trained_as: str = ""
    """How its learner was trained: `stacked with 7 others (…)`, or `alone: …` and why."""
    seconds: float = 0.0
    """From its start to its published directory; of a stack each learner's share."""
    cpu_seconds: float = 0.0
    predicted_seconds: float | None = None
    predicted_bytes: float | None = None
    peak_bytes: int = 0
    """Largest resident memory of the process that trained it, pages of mapped files included, up to the end of this
    job."""
    size_bytes: int = 0
    """Size of the saved learner on disk."""


@cache
def code_version() -> str:
    """Which code this is, for people: Polychoir's version and the first digits of `core_fingerprint`."""
    return f"{installed_version('polychoir') or '0'}+{core_fingerprint()[:12]}"


def job_directory(job: Job, store: Path, device: str) -> Path:
    """Where the outputs of `job` are, or will be."""
    return store / "jobs" / job.fingerprint(device)[:32]


def finished_report(job: Job, store: Path, device: str) -> JobReport | None:
    """The report of a job that has been trained, or given up by its own measure, before; None when it has not.

    It is reported under this job's own name, as reused, or as pruned when its own training would have been given up.
    Outputs that lack a file, or whose report does not read back, are unpublished: as good as not there.

    Raises:
        TransientError: they cannot be read at this moment.
        StorageError: they may not be read.
    """
    directory = job_directory(job, store, device)
    with _unreadable(directory):
        if not is_published(directory):
            return _given_up_before(job, store, device)
        try:
            with unpublished_if_damaged(directory):
                report = JobReport.model_validate_json((directory / "report.json").read_text())
                if missing := missing_files(directory):
                    raise FileNotFoundError(missing[0])
                artifact = open_published(directory)
        except (FileNotFoundError, ValueError, StorageError):  # the last: somebody else unpublished it meanwhile
            return None
    mark_used(directory)
    # What ends by itself after an epoch is not given up after it, so the last epoch is not asked about.
    return _given_up(job, report, len(report.validation_losses) - 1) or report.model_copy(
        update={**_named(job), "status": "reused", "artifact": artifact}
    )


def require_intact(artifacts: Iterable[ArtifactRef]) -> None:
    """Compare all files of these outputs of jobs with their checksums; a job whose outputs are damaged is undone.

    Raises:
        StorageError: some are damaged; their jobs train anew when they are asked for again. Or they may not be read.
        TransientError: they cannot be read at this moment.
    """
    damaged: list[str] = []
    for artifact in artifacts:
        with _unreadable(artifact.path):
            try:
                require_undamaged(artifact)
            except StorageError as error:
                damaged.append(str(error))
    if damaged:
        more = f" (and {len(damaged) - 1} other learners are damaged)" if len(damaged) > 1 else ""
        raise StorageError(f"{damaged[0]}{more}; run the same command again: what is damaged is trained anew")


@contextmanager
def _unreadable(directory: Path) -> Iterator[None]:
    """That a directory cannot be read says nothing of what is in it: nothing is undone for it."""
    try:
        yield
    except PermissionError as error:
        raise StorageError(f"{directory}: {error.strerror}; allow reading and writing there") from error
    except OSError as error:
        raise TransientError(f"{directory} cannot be read now: {error.strerror or error}") from error


def keep_given_up(job: Job, report: JobReport, store: Path, device: str) -> None:
    """Keep the report of a job that was given up, for those who would give it up as early or earlier.

    Raises:
        StorageError: it cannot be written.
    """
    path = _given_up_path(job, store, device)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(path, report.to_json())


def best_losses(history: History) -> tuple[float, ...]:
    """The lowest validation loss so far, after each epoch; empty without validation rows."""
    return tuple(accumulate((loss for _, loss in history.curve("validation/loss")), min))


def failed_report(job: Job, error: str) -> JobReport:
    """The report of a job that gave no learner."""
    return _report_without_learner(job, "failed", error)


def skipped_report(job: Job, why: str) -> JobReport:
    """The report of a job that there was no time for."""
    return _report_without_learner(job, "skipped", why)


def pruned_report(job: Job, why: str, losses: Sequence[float], seconds: float, cpu_seconds: float) -> JobReport:
    """The report of a job that was given up; `losses` as `best_losses` gives them."""
    report = _report_without_learner(job, "pruned", why)
    known = {"validation_losses": tuple(losses), "epochs": len(losses), "seconds": seconds, "cpu_seconds": cpu_seconds}
    return report.model_copy(update=known)


def event_of(report: JobReport) -> Event:
    """What is told when a job is settled."""
    told: dict[JobStatus, Event] = {
        "trained": {"event": "finished", "score": report.score, "seconds": report.seconds},
        "reused": {"event": "reused"},
        "failed": {"event": "failed", "error": report.error},
        "skipped": {"event": "skipped", "why": report.error},
        "pruned": {"event": "pruned", "epoch": report.epochs, "why": report.error},
    }
    return {**told[report.status], "job": report.name}


def _given_up_path(job: Job, store: Path, device: str) -> Path:
    return store / "given-up" / f"{job.fingerprint(device)[:32]}.json"


def _given_up_before(job: Job, store: Path, device: str) -> JobReport | None:
    """The report of a job whose losses, as far as they are known, are enough to give it up; None: it has to train."""
    if not job.give_up:
        return None
    try:
        known = JobReport.model_validate_json(_given_up_path(job, store, device).read_text())
    except (OSError, ValueError):
        return None
    return _given_up(job, known, len(known.validation_losses))


def _given_up(job: Job, known: JobReport, num_epochs: int) -> JobReport | None:
    """The report of a job that the first so many losses known of it are enough to give up; None when they are not.

    It has taken its share of the time that all epochs took.
    """
    for epoch, loss in enumerate(known.validation_losses[: max(num_epochs, 0)], start=1):
        if why := job.why_give_up(epoch, loss):
            share = epoch / len(known.validation_losses)
            losses = known.validation_losses[:epoch]
            return pruned_report(job, why, losses, share * known.seconds, share * known.cpu_seconds)
    return None


def _named(job: Job) -> dict[str, str]:
    """What of a report is this job's own, whoever trained it."""
    return {"name": job.name, "bag": job.subset.name, "reason": job.reason}


def _report_without_learner(job: Job, status: JobStatus, error: str) -> JobReport:
    return JobReport(
        name=job.name,
        status=status,
        learner=job.recipe.learner.kind,
        bag=job.subset.name,
        modalities=job.subset.modalities,
        reason=job.reason,
        error=error,
        predicted_seconds=job.predicted_seconds,
        predicted_bytes=job.predicted_bytes,
    )


def read_curves(artifact: ArtifactRef) -> History:
    """What happened epoch by epoch while a job's learner trained."""
    return History.model_validate_json((artifact.path / "curves.json").read_text())


def read_out_of_bag(artifact: ArtifactRef) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """What a job's learner says about rows it never saw.

    Returns:
        The dataset positions of the rows, int64 [n], and per pattern of the learner's own modalities (as
        `schema.pattern_key`) its predictions [n, C], NaN where it has no vote.
    """
    with np.load(artifact.path / "out_of_bag.npz", allow_pickle=False) as file:
        patterns = [key for key in file.files if key != "rows"]
        return file["rows"], {key.removeprefix("pattern:"): file[key] for key in patterns}
