"""The unit of work: a `Job` says what to train, `run_job` trains it, a `JobReport` says what came of it.

A job's outputs live in a directory named by its fingerprint (core version + data + config + seed), published in one
step. A job whose directory exists is not trained again, whoever asks: that is the whole of caching and of resuming.
"""

import hashlib
import importlib.metadata
import resource
import time
import traceback
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from training_core.artifacts import CHECKSUMS, ArtifactRef, exclusive, is_published, open_published, publish_directory
from training_core.config import Config, canonical_json
from training_core.data.splitting.bags import Bag, bag_features, in_bag_rows, out_of_bag_rows
from training_core.data.storage.store import Dataset, DatasetStore
from training_core.data.views import View
from training_core.engine.loop import History
from training_core.engine.trained import TrainedLearner
from training_core.errors import StorageError, TransientError
from training_core.evaluation.metrics import metrics
from training_core.quantities import Seed
from training_core.recipes import RecipeConfig, train_member
from training_core.schema import pattern_key, patterns_to_judge
from training_core.selection.conclude import MAX_ENUMERATED

Event = dict[str, Any]
"""Something that happened to a job, as JSON-able data: `{"event": "epoch", "job": …, …}`."""
OnEvent = Callable[[Event], None]

_BLOCK_BYTES = 128 << 20  # of raw samples that are judged at a time


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
    """One learner to be trained on one bag. Two jobs with equal fingerprints give bit-identical results."""

    name: str
    recipe: RecipeConfig
    dataset: DatasetRef
    subset: Bag
    seed: Seed
    predicted_seconds: float | None = None
    """What the cost model expects, kept to be compared with what it took."""
    reason: str = ""
    """Why this learner was chosen for this bag."""

    def fingerprint(self, device: str) -> str:
        """What the result depends on, and nothing else: not the job's name, nor where its data is stored."""
        return hashlib.sha256(
            canonical_json(
                {
                    "core": core_fingerprint(),
                    "data": self.dataset.fingerprint,
                    "recipe": self.recipe.model_dump(mode="json", exclude=self.recipe.unread),
                    "subset": self.subset.model_dump(mode="json", exclude={"name"}),
                    "seed": self.seed,
                    "device": device.partition(":")[0],
                }
            ).encode()
        ).hexdigest()


class Cohort(Config):
    """Jobs that are trained one after another in one process, so that its start is paid for once."""

    name: str
    jobs: tuple[Job, ...]


class JobReport(Config):
    """What came of a job."""

    name: str
    status: Literal["trained", "reused", "failed"]
    learner: str
    """Kind of learner."""
    bag: str
    modalities: tuple[str, ...]
    reason: str = ""
    error: str = ""
    """Why it failed; empty otherwise."""
    artifact: ArtifactRef | None = None
    score: float | None = None
    """The task's metric on the rows outside the bag."""
    metrics: Mapping[str, float] = {}
    """All metrics on the rows outside the bag."""
    num_rows: int = 0
    """Distinct rows in the bag."""
    epochs: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    predicted_seconds: float | None = None
    peak_bytes: int = 0
    """Largest resident memory of the process that trained it, up to the end of this job."""
    size_bytes: int = 0
    """Size of the saved learner on disk."""


@cache
def core_fingerprint() -> str:
    """SHA-256 of this library's source and of the versions of the libraries that decide its numbers."""
    digest = hashlib.sha256()
    package = Path(__file__).parent
    for source in sorted(package.rglob("*.py")):
        digest.update(source.relative_to(package).as_posix().encode() + b"\0" + source.read_bytes() + b"\0")
    for library in ("numpy", "scipy", "scikit-learn", "torch"):
        digest.update(f"{library}=={importlib.metadata.version(library)}\0".encode())
    return digest.hexdigest()


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
    return JobReport(
        name=job.name,
        status="failed",
        learner=job.recipe.learner.kind,
        bag=job.subset.name,
        modalities=job.subset.modalities,
        reason=job.reason,
        error=error,
        predicted_seconds=job.predicted_seconds,
    )


def run_job(job: Job, store: Path, device: str, on_event: OnEvent) -> JobReport:
    """Train one job, or fetch what an earlier run trained; a second process asking for the same job waits for it.

    What a learner stumbles over (too little data in its bag, divergence, a bug in it) is reported, not raised: one
    learner may fail without taking the ensemble with it.

    Raises:
        StorageError: its outputs cannot be written, which will not be better for the next one.
    """
    directory = job_directory(job, store, device)
    with exclusive(store / "locks" / f"job-{directory.name}.lock"):
        if report := finished_report(job, store, device):
            on_event({"event": "reused", "job": job.name})
            return report
        on_event({"event": "started", "job": job.name, "epochs": job.recipe.training.epochs})
        try:
            with publish_directory(directory) as folder:
                report = _train(job, folder, device, on_event)
                (folder / "report.json").write_text(report.to_json())
        except (StorageError, TransientError):
            raise
        except Exception as error:  # whatever a learner stumbles over costs that learner only
            traceback.print_exc()
            report = failed_report(job, f"{type(error).__name__}: {error}")
            on_event({"event": "failed", "job": job.name, "error": report.error})
            return report
    report = report.model_copy(update={"artifact": open_published(directory)})
    on_event({"event": "finished", "job": job.name, "score": report.score, "seconds": report.seconds})
    return report


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


@lru_cache(maxsize=2)
def _open_dataset(root: str, name: str, version: str) -> Dataset:
    """The dataset, opened once per process: the jobs of a group share what it has read."""
    return DatasetStore(Path(root)).open(f"{name}@{version}")


def _train(job: Job, folder: Path, device: str, on_event: OnEvent) -> JobReport:
    """Train, judge on the rows outside the bag, and write everything to `folder`."""
    start, cpu_start = time.perf_counter(), time.process_time()
    dataset = _open_dataset(job.dataset.root, job.dataset.name, job.dataset.version)
    rows = dataset.rows("train")
    drawn = (job.subset, rows, dataset.target(rows), dataset.groups(rows), dataset.times(rows))
    inside, outside = in_bag_rows(*drawn), out_of_bag_rows(*drawn)

    def on_epoch(epoch: int, values: dict[str, float]) -> None:
        on_event({"event": "epoch", "job": job.name, "epoch": epoch, **values})

    learner, history = train_member(
        job.recipe, dataset, job.subset.modalities, bag_features(job.subset, dataset.spec), inside, job.seed, device,
        on_epoch,
    )  # fmt: skip
    (folder / "learner").mkdir()
    learner.save(folder / "learner")

    names = job.subset.modalities
    judged = dataset.subset(outside, names)
    heard = _hear(learner, judged, dataset.spec.names)
    arrays = {f"pattern:{key}": values.astype(np.float32) for key, values in heard.items()}
    np.savez(folder / "out_of_bag.npz", rows=outside, **arrays)  # pyright: ignore[reportArgumentType]
    (folder / "curves.json").write_text(history.to_json())

    predicted = heard[pattern_key(names, names)]
    voted = ~np.isnan(predicted).any(axis=1)
    found = metrics(dataset.spec.task, judged.target()[voted], predicted[voted]) if voted.any() else {}
    return JobReport(
        name=job.name,
        status="trained",
        learner=job.recipe.learner.kind,
        bag=job.subset.name,
        modalities=names,
        reason=job.reason,
        score=found.get(dataset.spec.task.metric),
        metrics=found,
        num_rows=len(np.unique(inside)),
        epochs=len(history.epochs),
        seconds=time.perf_counter() - start,
        cpu_seconds=time.process_time() - cpu_start,
        predicted_seconds=job.predicted_seconds,
        peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        size_bytes=sum(file.stat().st_size for file in (folder / "learner").rglob("*") if file.is_file()),
    )


def _hear(learner: TrainedLearner, judged: View, modalities: tuple[str, ...]) -> dict[str, np.ndarray]:
    """What a learner says about rows under every pattern of its modalities it can answer for, [n, C] each.

    Read in blocks, so that the rows need not fit in memory.
    """
    names = judged.spec.names
    patterns: dict[str, frozenset[str]] = {}
    for pattern in patterns_to_judge(modalities, MAX_ENUMERATED):
        key = pattern_key(pattern & set(names), names)
        full = len(key.split("+")) == len(names)
        if key and (full or learner.tolerates):
            patterns.setdefault(key, pattern)
    heard = {key: np.full((len(judged), learner.task.num_outputs), np.nan) for key in patterns}
    step = max(1, _BLOCK_BYTES * len(judged) // max(1, judged.num_bytes))
    for start, block in zip(range(0, len(judged), step), judged.blocks(step), strict=True):
        for key, pattern in patterns.items():
            heard[key][start : start + len(block)] = learner.predict(block.without(set(names) - pattern))
    return heard
