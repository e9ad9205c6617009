"""What a tracking database in a store needs now and then: dead runs closed, what was deleted or retired erased.

A tracking server looks after its own; nothing here touches one.
"""

import shutil
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from training_core.config import Config
from training_core.tracking.database import DATABASE, is_tracked_elsewhere
from training_core.tracking.models import local_folder
from training_core.tracking.quiet import quiet
from training_core.tracking.registry import ERASED, ModelVersion, open_registry


class DeletedRun(Config):
    """A run that somebody deleted, which MLflow keeps until it is erased."""

    run_id: str
    folder: str
    """Of its artefacts; it may not be there. Empty where they are not on this machine's disks."""


class ModelCopy(Config):
    """What MLflow keeps of a registered version: a copy of its ensemble, and the code that serves it."""

    uri: str
    """`models:/name/version`."""
    folder: str


def has_own_tracking(store: Path) -> bool:
    """Whether the store tracks with MLflow in a database of its own."""
    return not is_tracked_elsewhere(store) and (store / DATABASE).is_file()


def close_orphans(store: Path) -> int:
    """Close the open runs whose process, on this machine, has ended; returns how many.

    Raises:
        StorageError: the database cannot be written.
    """
    from training_core.tracking.mlflow import MLflowTracker

    return MLflowTracker(store).close_orphans()


def deleted_runs(store: Path, days: float) -> tuple[DeletedRun, ...]:
    """Runs that were deleted more than so many days ago."""
    with closing(_Database(store)) as database:
        found = database.store._get_deleted_runs(older_than=int(days * 86_400_000))
        runs = [database.store.get_run(run_id) for run_id in found]
    return tuple(
        DeletedRun(run_id=run.info.run_id, folder=str(local_folder(str(run.info.artifact_uri)) or "")) for run in runs
    )


def erase_run(store: Path, run: DeletedRun) -> None:
    """Remove a deleted run for good: its files, and then all that the database says of it.

    In this order, for who is killed in between finds the run again. Files outside the store are left alone.
    """
    folder = Path(run.folder).resolve()
    if folder.parent.name == run.run_id and folder.is_relative_to(store.resolve()):
        shutil.rmtree(folder.parent, ignore_errors=True)
    with closing(_Database(store)) as database:
        database.store._hard_delete_run(run.run_id)


def unneeded_copies(store: Path, needed: Iterable[ModelVersion]) -> tuple[ModelCopy, ...]:
    """Copies in the store of registered ensembles that no needed version is served from.

    Args:
        store: the folder of the database and of `mlartifacts`.
        needed: versions that somebody may want; all others are taken to be retired.

    Raises:
        StorageError: the registry does not answer.
    """
    registry = open_registry(["mlflow"], store)
    versions = [version for name in registry.models() for version in registry.versions(name)]
    places = {version.uri: registry.files_of(version) for version in versions}
    used = [places.get(version.uri) for version in needed]
    return tuple(
        ModelCopy(uri=version.uri, folder=str(folder))
        for version in versions
        if version.sha256 is not None
        and (folder := places[version.uri]) is not None
        and _is_copy(folder, store)
        and not any(place is not None and place.is_relative_to(folder) for place in used)
    )


def erase_copy(store: Path, copy: ModelCopy) -> None:
    """Remove the files of a retired version, whose entry stays and says since when it cannot be served.

    In this order, for who is killed in between finds the files again.

    Raises:
        FileNotFoundError: somebody has given it an alias meanwhile.
        OSError: the files cannot be removed.
        StorageError: the registry does not answer.
    """
    registry = open_registry(["mlflow"], store)
    version = registry.find(copy.uri)
    if version.aliases:
        raise FileNotFoundError(f"{copy.uri} is {version.aliases[0]} now")
    registry.tag(version.name, version.version, {ERASED: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())})
    shutil.rmtree(copy.folder)


def _is_copy(folder: Path, store: Path) -> bool:
    """Whether a folder is one that MLflow made for a model in the store: `mlartifacts/models/<id>/artifacts`."""
    models = (store / "mlartifacts" / "models").resolve()
    return folder.is_dir() and folder.name == "artifacts" and folder.parents[1] == models


class _Database:
    """MLflow's own access to the database of a store: its client cannot erase."""

    def __init__(self, store: Path) -> None:
        from training_core.tracking.mlflow import MLflowTracker

        MLflowTracker(store).connect()  # settles how MLflow behaves, and brings the schema up to date
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        root = store.absolute()
        with quiet():
            self.store = SqlAlchemyStore(f"sqlite:///{root / DATABASE}", (root / "mlartifacts").as_uri())

    def close(self) -> None:
        """Let go of the file."""
        self.store.engine.dispose()
