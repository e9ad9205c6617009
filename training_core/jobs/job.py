"""What is to be trained, and what came of it: `Job`, `Cohort`, `JobReport`, and where a job's outputs are.

A job's outputs live in a directory named by its fingerprint (core version + data + config + seed), published in one
step. A job whose directory exists is not trained again, whoever asks: that is the whole of caching and of resuming.
"""

import hashlib
import importlib.metadata
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from training_core.artifacts import CHECKSUMS, ArtifactRef, is_published, open_published
from training_core.config import Config, canonical_json
from training_core.data.splitting.bags import Bag
from training_core.engine.loop import History
from training_core.quantities import Seed
from training_core.recipes import RecipeConfig

Event = dict[str, Any]
"""Something that happened to a job, as JSON-able data: `{"event": "epoch", "job": …, …}`."""
OnEvent = Callable[[Event], None]


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

    Two jobs with equal fingerprints give bit-identical results when they train alone or in equal stacks; else results
    that are equally good, and equal up to rounding where no dropout is drawn inside the net.
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

    def fingerprint(self, device: str) -> str:
        """What the result depends on, and nothing else: not the job's name, nor where its data is stored."""
        return hashlib.sha256(
            canonical_json(
                {
                    "core": core_fingerprint(),
                    "extras": {name: _version(name) for name in self.recipe.extras},
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
    status: Literal["trained", "reused", "failed", "skipped"]
    """skipped: there was no time for it, or not enough to end it."""
    learner: str
    """Kind of learner."""
    bag: str
    modalities: tuple[str, ...]
    reason: str = ""
    error: str = ""
    """Why it failed or was skipped; empty otherwise."""
    artifact: ArtifactRef | None = None
    score: float | None = None
    """The task's metric on the rows outside the bag."""
    metrics: Mapping[str, float] = {}
    """All metrics on the rows outside the bag."""
    num_rows: int = 0
    """Distinct rows in the bag."""
    epochs: int = 0
    trained_as: str = ""
    """How its learner was trained: `stacked with 7 others (…)`, or `alone: …` and why."""
    seconds: float = 0.0
    """From its start to its published directory; of a stack each learner's share."""
    cpu_seconds: float = 0.0
    predicted_seconds: float | None = None
    predicted_bytes: float | None = None
    peak_bytes: int = 0
    """Largest resident memory of the process that trained it, up to the end of this job."""
    size_bytes: int = 0
    """Size of the saved learner on disk."""


@cache
def core_fingerprint() -> str:
    """SHA-256 of this library's source and of the versions of the libraries that decide its numbers."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    for source in sorted(package.rglob("*.py")):
        digest.update(source.relative_to(package).as_posix().encode() + b"\0" + source.read_bytes() + b"\0")
    for library in ("numpy", "scipy", "scikit-learn", "torch"):
        digest.update(f"{library}=={importlib.metadata.version(library)}\0".encode())
    return digest.hexdigest()


def _version(distribution: str) -> str:
    """Which one is installed; empty when none is."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def job_directory(job: Job, store: Path, device: str) -> Path:
    """Where the outputs of `job` are, or will be."""
    return store / "jobs" / job.fingerprint(device)[:32]


def finished_report(job: Job, store: Path, device: str) -> JobReport | None:
    """The report of a job that has been trained before, under this job's own name; None when it has not."""
    directory = job_directory(job, store, device)
    if not is_published(directory):
        return None
    try:
        report = JobReport.model_validate_json((directory / "report.json").read_text())
    except (OSError, ValueError):  # damaged from outside: as good as not there
        (directory / CHECKSUMS).unlink(missing_ok=True)
        return None
    named = {"name": job.name, "bag": job.subset.name, "reason": job.reason, "status": "reused"}
    return report.model_copy(update={**named, "artifact": open_published(directory)})


def failed_report(job: Job, error: str) -> JobReport:
    """The report of a job that gave no learner."""
    return _report_without_learner(job, "failed", error)


def skipped_report(job: Job, why: str) -> JobReport:
    """The report of a job that there was no time for."""
    return _report_without_learner(job, "skipped", why)


def _report_without_learner(job: Job, status: Literal["failed", "skipped"], error: str) -> JobReport:
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
