"""What a run leaves with the tracker: itself, a child run per learner, the ensemble as a registered model."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from training_core.artifacts import ArtifactRef, newest_first, write_text_atomically
from training_core.campaigns.bagging import open_dataset
from training_core.campaigns.report import render_html
from training_core.campaigns.run_config import RunConfig
from training_core.campaigns.summary import Judgement, RunSummary
from training_core.config import Config
from training_core.engine.watching.profiling import PROFILE_FOLDER
from training_core.engine.watching.speed import SpeedReport
from training_core.errors import StorageError
from training_core.export import package_ensemble
from training_core.jobs import DatasetRef, Event, Job, JobReport, code_version, read_curves
from training_core.selection.ensemble import Ensemble
from training_core.tracking import (
    Live,
    RunRecord,
    RunStatus,
    TrackedDataset,
    Tracker,
    TrackerKind,
    flat_params,
    home_of,
    open_tracker,
)
from training_core.tracking.registry import Origin


class RecordRef(Config):
    """A run in a tracker: small enough to pass between tasks."""

    trackers: tuple[TrackerKind, ...]
    store: str
    run_id: str
    home: str
    """Where `run_id` is good, and a child run is looked for before it is recorded anew."""
    location: str
    """Everywhere the run is recorded."""


@lru_cache(maxsize=4)
def tracker_at(kinds: tuple[TrackerKind, ...], store: str) -> Tracker:
    """The tracker of a store, opened once per process.

    Raises:
        ConfigError: a tracker is not installed.
    """
    return open_tracker(kinds, Path(store))


def begin_record(run: RunConfig, ref: DatasetRef, store: Path, tags: Mapping[str, str]) -> RecordRef:
    """Begin the run's record, with its settings, its dataset and `tags` that lead back to who started it."""
    tracker = tracker_at(run.trackers, str(store))
    run_id = tracker.start(
        ref.name,
        tags={"polychoir.dataset": ref.label, "polychoir.preset": run.preset, **tags},
        params=flat_params(run.model_dump(mode="json")),
        dataset=TrackedDataset(
            name=ref.name, version=ref.version, fingerprint=ref.fingerprint, path=str(open_dataset(ref).path)
        ),
    )
    settings = settings_path(Path(store), run_id)
    settings.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(settings, run.model_dump_json(indent=1))
    return RecordRef(
        trackers=run.trackers, store=str(store), run_id=run_id, home=home_of(tracker), location=tracker.location
    )


def record_progress(record: RecordRef, event: Event) -> None:
    """Show the epoch that an event tells of, in those trackers that can; `record_reports` has the whole curves."""
    tracker = tracker_at(record.trackers, record.store)
    if event["event"] == "epoch" and isinstance(tracker, Live):
        values = {key: value for key, value in event.items() if isinstance(value, float)}
        tracker.log_progress(record.run_id, event["job"], values, event["epoch"])


def record_reports(record: RecordRef, jobs: Sequence[Job], reports: Sequence[JobReport]) -> None:
    """A child run per learner trained now; a line in the parent's `reused.json` for those recorded before.

    A learner keeps the run under which it was trained: a rerun refers to it instead of claiming the work as its own.
    What had to go elsewhere, since the tracker had failed, is recorded again by the next run where it had to be.
    """
    tracker = tracker_at(record.trackers, record.store)
    named = {job.name: job for job in jobs}
    reused: dict[str, str] = {}
    for report in reports:
        if report.status == "skipped":
            continue  # nothing happened that could be recorded
        known = None if report.status == "trained" else _recorded(record, report)
        if known is not None:
            reused[report.name] = known
            continue
        run_id = tracker.log_run(record.run_id, _learner_record(named[report.name], report))
        if report.artifact is not None:
            # At home with the fallback by now, perhaps, where the run itself did not begin.
            marker, noted = _marker(record, report.artifact), _noted(record, report.artifact)
            marker.parent.mkdir(parents=True, exist_ok=True)
            write_text_atomically(marker, json.dumps({**noted, home_of(tracker): run_id}))
    if reused:
        tracker.log_text(record.run_id, json.dumps(reused, indent=1), "reused.json")


def register(
    record: RecordRef, ref: DatasetRef, ensemble: ArtifactRef, judgement: Judgement, tags: Mapping[str, str]
) -> str:
    """Log the run's scores and register the ensemble under the dataset's name.

    Returns `models:/name/version`, or the ensemble's directory where there is no registry.
    """
    tracker = tracker_at(record.trackers, record.store)
    scores = {f"test/{metric}": value for metric, value in judgement.test.items()}
    for row in judgement.patterns:
        if row.missing:
            kept = "+".join(row.available)
            scores |= {f"pattern/{kept}/{judgement.metric}": row.score, f"pattern/{kept}/confidence": row.confidence}
    scores |= {
        f"best_single/{judgement.metric}": judgement.best_single.score,
        f"plain_mean/{judgement.metric}": judgement.plain_mean.score,
    }
    tracker.log_metrics(record.run_id, scores)
    dataset = open_dataset(ref)
    spec = Ensemble.load(ensemble.path).spec
    example = dataset.samples(dataset.rows("train")[:3], spec.names)
    package = package_ensemble(ensemble, ref.name, spec, example, {**_origin(record, ref, ensemble, judgement), **tags})
    return tracker.log_ensemble(record.run_id, package) or ensemble.uri


def report_path(record: RecordRef) -> Path:
    """Where the HTML report of a run is written."""
    return Path(record.store) / "reports" / f"{record.run_id}.html"


def settings_path(store: Path, run_id: str) -> Path:
    """Where the settings of a run are kept: whoever retrains it for a comparison starts from them."""
    return store / "reports" / f"{run_id}.settings.json"


def summaries(store: Path) -> Iterator[RunSummary]:
    """Of all runs whose reports are in the store, the newest first."""
    for path in newest_first((store / "reports").glob("*.json")):
        try:
            summary = RunSummary.model_validate_json(path.read_text())
        except (OSError, ValueError):  # the settings of a run, or the summary of another version of Polychoir
            continue
        yield summary


def write_report(record: RecordRef, summary: RunSummary) -> None:
    """Write the HTML report and the summary as JSON into the store, and keep both with the run."""
    path = report_path(record)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = render_html(summary)
    write_text_atomically(path, text)
    as_json = summary.model_dump_json(indent=1)
    write_text_atomically(path.with_suffix(".json"), as_json)
    tracker = tracker_at(record.trackers, record.store)
    tracker.log_text(record.run_id, text, "report.html")
    tracker.log_text(record.run_id, as_json, "summary.json")


def end_record(record: RecordRef, status: RunStatus) -> None:
    """Close the run."""
    tracker_at(record.trackers, record.store).finish(record.run_id, status)


def _origin(record: RecordRef, ref: DatasetRef, ensemble: ArtifactRef, judgement: Judgement) -> dict[str, str]:
    """Where a version comes from, as its tags; its parent is added where it enters the registry."""
    try:
        settings = RunConfig.model_validate_json(settings_path(Path(record.store), record.run_id).read_text())
    except (OSError, ValueError):  # somebody removed it meanwhile: the run itself does not depend on it
        settings = None
    return Origin(
        dataset=ref.label,
        code=code_version(),
        config_hash=None if settings is None else settings.what_counts().content_hash(),
        metric=judgement.metric,
        scores=judgement.test,
        size_bytes=sum(file.stat().st_size for file in ensemble.path.rglob("*") if file.is_file()),
    ).tags()


def _learner_record(job: Job, report: JobReport) -> RunRecord:
    curves: dict[str, tuple[tuple[int, float], ...]] = {}
    speed: dict[str, float] = {}
    files: tuple[str, ...] = ()
    if report.artifact is not None:
        folder = report.artifact.path
        history = read_curves(report.artifact)
        keys = {key for epoch in history.epochs for key in epoch}
        curves = {key: tuple(history.curve(key)) for key in sorted(keys)}
        if (measured := SpeedReport.read(folder)) is not None:
            speed = {f"speed/{name}": value for name, value in measured.figures().items()}
        files = (str(folder / PROFILE_FOLDER),) if (folder / PROFILE_FOLDER).is_dir() else ()
    figures = {
        "seconds": report.seconds,
        "cpu_seconds": report.cpu_seconds,
        "predicted_seconds": report.predicted_seconds or 0.0,
        "peak_bytes": float(report.peak_bytes),
        "size_bytes": float(report.size_bytes),
    }
    return RunRecord(
        name=report.name,
        status="FAILED" if report.status == "failed" else "FINISHED",
        tags={
            "polychoir.learner": report.learner,
            "polychoir.bag": report.bag,
            "polychoir.modalities": "+".join(report.modalities),
            "polychoir.reason": report.reason,
            **({"polychoir.error": report.error} if report.error else {}),
        },
        params=flat_params(job.recipe.model_dump(mode="json") | {"seed": job.seed}),
        metrics={f"out_of_bag/{name}": value for name, value in report.metrics.items()}
        | (figures if report.status != "failed" else {})
        | speed,
        curves=curves,
        artifacts=files,
    )


def _marker(record: RecordRef, artifact: ArtifactRef) -> Path:
    """The file that says under which run a learner is recorded, by the place that gave the run its id."""
    return Path(record.store) / "tracking" / "learners" / f"{artifact.path.name}.json"


def _noted(record: RecordRef, artifact: ArtifactRef) -> dict[str, str]:
    """The runs under which a learner is recorded, by place; none when nothing was noted."""
    if not (marker := _marker(record, artifact)).exists():
        return {}
    try:
        noted = json.loads(marker.read_text())
    except (OSError, ValueError) as error:
        raise StorageError(f"{marker} is unreadable ({error}); delete it to record the learner again") from error
    if "run_id" in noted:  # as it was written once: with all places in one line, of which the first gave the id
        return {noted["location"].partition(", ")[0]: noted["run_id"]}
    return noted


def _recorded(record: RecordRef, report: JobReport) -> str | None:
    """The run under which a learner is recorded where this run began, or has gone since; None when it is in neither."""
    if report.artifact is None:
        return None
    noted = _noted(record, report.artifact)
    return noted.get(record.home) or noted.get(home_of(tracker_at(record.trackers, record.store)))
