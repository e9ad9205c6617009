"""The reference profile of a trained model: made when it is trained, kept in the store and with the run.

    store/profiles/<folder name of the ensemble>/profile.json, profile.npz

Features are those of all rows of the version it was trained on. Predictions, confidence and performance are those of
its test rows; where these are too few for a verdict, of its validation rows as well, by which training only stopped;
with still fewer they are not watched: of rows it was trained on a model is too sure.
"""

import re
from pathlib import Path

import numpy as np

from training_core.artifacts import ArtifactRef, is_published, open_published, publish_directory, verify_published
from training_core.campaigns.bagging import open_dataset
from training_core.campaigns.evaluation.subject import training_version
from training_core.campaigns.recording import RecordRef, tracker_at
from training_core.data.storage.store import Dataset, DatasetStore
from training_core.errors import DataError
from training_core.jobs import DatasetRef
from training_core.monitoring import DriftConfig, ReferenceProfile, make_profile
from training_core.selection.ensemble import Ensemble

MIN_JUDGED_ROWS = DriftConfig().min_rows
"""Rows it takes for a verdict: a reference of fewer could never give one."""


def publish_profile(ensemble: ArtifactRef, dataset: DatasetRef, store: Path, record: RecordRef | None) -> ArtifactRef:
    """Make the profile of an ensemble from the version it was trained on, unless it is there, and keep it with its run.

    Raises:
        StorageError: a file does not read back, or the store cannot be written.
    """
    folder = profile_folder(ensemble, store)
    if not is_published(folder):
        profile = _made(Ensemble.load(ensemble.path), open_dataset(dataset))
        with publish_directory(folder) as unfinished:
            profile.save(unfinished)
    if record is not None:
        tracker = tracker_at(record.trackers, record.store)
        for name in ("profile.json", "profile.npz"):
            tracker.log_artifact(record.run_id, folder / name, "profile")
    return open_published(folder)


def profile_of(ensemble: ArtifactRef, store: Path) -> ReferenceProfile:
    """The profile of an ensemble; made now where it was trained without one and its data are still there.

    Raises:
        DataError: there is none, and the version it was trained on is not in this store.
        StorageError: it is damaged.
    """
    folder = profile_folder(ensemble, store)
    if not is_published(folder):
        loaded = Ensemble.load(ensemble.path)
        dataset = training_version(loaded, DatasetStore(store / "datasets"))
        if dataset is None:
            raise DataError(
                f"{loaded.name} has no reference profile in {store / 'profiles'}, and none can be made: the data it "
                f"was trained on ({loaded.manifest.dataset or 'not named'}) are not in this store; copy its profile "
                "there, or train it again"
            )
        with publish_directory(folder) as unfinished:
            _made(loaded, dataset).save(unfinished)
    verify_published(open_published(folder))
    return ReferenceProfile.load(folder)


def profile_folder(ensemble: ArtifactRef, store: Path) -> Path:
    """Where the profile of an ensemble is: ensembles of a store are named by what is in them, others by their files."""
    name = ensemble.path.name
    return store / "profiles" / (name if re.fullmatch(r"[0-9a-f]{32}", name) else ensemble.sha256[:32])


def _made(ensemble: Ensemble, dataset: Dataset) -> ReferenceProfile:
    served = np.flatnonzero(dataset.split() != "quarantined")
    names = ensemble.spec.names
    profile = make_profile(dataset.subset(served, names), ensemble.name)
    judged = dataset.rows("test")
    if len(judged) < MIN_JUDGED_ROWS:
        judged = np.concatenate([judged, dataset.rows("validation")])
    if len(judged) < MIN_JUDGED_ROWS:
        return profile
    return profile.with_answers(make_profile(dataset.subset(judged, names), ensemble.name, ensemble.predict))
