"""What a study leaves with the tracker: one parent run, however often it is resumed, and a child per trial."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import model_validator

from training_core.artifacts import exclusive, write_text_atomically
from training_core.campaigns.bagging import open_dataset
from training_core.campaigns.recording import RecordRef, tracker_at
from training_core.campaigns.run_config import RunConfig
from training_core.campaigns.tuning.report import PLOTS
from training_core.campaigns.tuning.summary import StudySummary, TrialRecord
from training_core.config import Config
from training_core.errors import StorageError
from training_core.jobs import DatasetRef
from training_core.tracking import RunRecord, TrackedDataset, flat_params, home_of

_MARKER, _LOCK = "tracked.json", ".tracked.lock"


class _Place(Config):
    """Under which runs a study is recorded in one place."""

    run_id: str
    trials: Mapping[int, str] = {}
    """Child run of each trial, by number."""


class _Tracked(Config):
    """Under which runs a study is recorded, kept in the study's folder.

    Each place is noted by itself: of two processes that work on a study one may have lost the server, and what it wrote
    to its files instead the other has yet to send.
    """

    places: Mapping[str, _Place] = {}
    """By where their ids are good; see `training_core.tracking.home_of`."""

    @model_validator(mode="before")
    @classmethod
    def _one_place(cls, data: Any) -> Any:
        """As it was written once: with all places in one line, of which the first gave the ids."""
        if isinstance(data, dict) and "location" in data:
            place = str(data["location"]).partition(", ")[0]
            return {"places": {place: {key: value for key, value in data.items() if key != "location"}}}
        return data

    def noting(self, run_id: str, trials: Mapping[str, Mapping[int, str]]) -> "_Tracked":
        """The same, with the study under `run_id` and these `trials` of it in some places."""
        noted = {place: _Place(run_id=run_id, trials=there) for place, there in trials.items()}
        return _Tracked(places={**self.places, **noted})


def begin_study_record(run: RunConfig, ref: DatasetRef, study: Path, store: Path, tags: Mapping[str, str]) -> RecordRef:
    """The parent run of the study in the folder `study`: the one it has in this tracker, or a new one.

    Raises:
        StorageError: the note of an earlier call is damaged.
    """
    tracker = tracker_at(run.trackers, str(store))
    with exclusive(study / _LOCK):
        tracked = _tracked(study)
        home = home_of(tracker)
        known = tracked.places.get(home)
        if known is not None:
            run_id = known.run_id
        else:
            run_id = tracker.start(
                f"tuning of {ref.name}",
                tags={"polychoir.dataset": ref.label, "polychoir.study": study.name, **tags},
                params=flat_params(run.model_dump(mode="json")),
                dataset=TrackedDataset(
                    name=ref.name, version=ref.version, fingerprint=ref.fingerprint, path=str(open_dataset(ref).path)
                ),
            )
            home = home_of(tracker)  # which may have failed over it
            _remember(study, tracked.noting(run_id, {home: {}}))
    return RecordRef(trackers=run.trackers, store=str(store), run_id=run_id, home=home, location=tracker.location)


def record_study(record: RecordRef, summary: StudySummary) -> None:
    """A child run for every trial that ended and has none yet, then the study's figures, page, charts and settings.

    Each child is written in one batch: settings, values, its learning curve. Those that had to go elsewhere, since the
    tracker had failed, are noted as being there: whoever still reaches the tracker, now or later, records them in it.
    """
    tracker, folder = tracker_at(record.trackers, record.store), Path(summary.folder)
    with exclusive(folder / _LOCK):  # several processes may work on one study
        tracked = _tracked(folder)
        trials = {place: dict(it.trials) for place, it in tracked.places.items() if it.run_id == record.run_id}
        for trial in summary.trials:
            # What the study's tracker had before it failed is not written to the files that stand in for it.
            known = any(trial.number in trials.get(place, {}) for place in (record.home, home_of(tracker)))
            if trial.state != "running" and not known:
                run_id = tracker.log_run(record.run_id, _trial_record(summary, trial))
                trials.setdefault(home_of(tracker), {})[trial.number] = run_id
        _remember(folder, tracked.noting(record.run_id, trials))
    tracker.log_metrics(record.run_id, _figures(summary))
    for path in (Path(summary.report), folder / PLOTS, Path(summary.best_yaml or folder)):
        if path != folder and path.exists():
            tracker.log_artifact(record.run_id, path)
    tracker.log_text(record.run_id, summary.to_json(), "study.json")


def _trial_record(summary: StudySummary, trial: TrialRecord) -> RunRecord:
    """A trial as a child run; a pruned one has ended as it should."""
    values = dict(zip(summary.objectives, trial.values or (), strict=False))
    return RunRecord(
        name=f"trial {trial.number}",
        status="FAILED" if trial.state == "failed" else "FINISHED",
        tags={
            "polychoir.study": summary.name,
            "polychoir.trial": str(trial.number),
            "polychoir.trial_state": trial.state,
            "polychoir.feasible": str(trial.feasible).lower(),
            **({"polychoir.enqueued": trial.enqueued} if trial.enqueued else {}),
            **({"polychoir.error": trial.error} if trial.error else {}),
        },
        params=flat_params(trial.params),
        metrics={f"objective/{name}": value for name, value in values.items()}
        | {f"constraint/{name}": over for name, over in trial.constraints.items()}
        | {"cpu_seconds": trial.cpu_seconds, "epochs": float(trial.epochs)},
        curves={"validation/best_loss": tuple(enumerate(trial.curve, start=1))} if trial.curve else {},
        start_time=trial.started,
        end_time=trial.ended,
    )


def _figures(summary: StudySummary) -> dict[str, float]:
    """What studies are compared by."""
    found = {f"trials/{state}": float(number) for state, number in summary.counts.items()}
    for which, trial in (("best", summary.best_trial), ("default", summary.default_trial)):
        if trial is not None and trial.values is not None:
            pairs = zip(summary.objectives, trial.values, strict=True)
            found |= {f"{which}/{name}": value for name, value in pairs}
    if summary.best is not None:
        found["best/trial"] = float(summary.best)
    for method, shares in summary.importances.items():
        found |= {f"importance/{method}/{path}": share for path, share in shares.items()}
    return found | {"cpu_seconds": summary.cpu_seconds, "epochs": float(summary.epochs)}


def _tracked(folder: Path) -> _Tracked:
    """What was noted in a study's folder."""
    path = folder / _MARKER
    if not path.exists():
        return _Tracked()
    try:
        return _Tracked.model_validate_json(path.read_text())
    except (OSError, ValueError) as error:
        raise StorageError(
            f"{path} is unreadable ({type(error).__name__}); delete it to record the study again"
        ) from None


def _remember(folder: Path, tracked: _Tracked) -> None:
    write_text_atomically(folder / _MARKER, tracked.model_dump_json())
