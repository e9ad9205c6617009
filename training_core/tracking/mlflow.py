"""Runs, models and their versions in MLflow: the only module that imports it.

Everything goes through a client bound to one tracking URI. MLflow's global state (current URI, active run, the
`MLFLOW_RUN_ID` variable that overrides any parent) is neither read nor changed, so that threads, Prefect tasks and a
user's own MLflow code do not disturb each other.
"""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from training_core.addresses import bare, without_secrets
from training_core.errors import ConfigError, StorageError, UserError
from training_core.tracking.database import prepare_database, tracking_uri
from training_core.tracking.entries import finite_or_nan, legal_keys, thin
from training_core.tracking.models import (
    ENSEMBLE,
    ensemble_folder,
    forget_unused_code,
    local_folder,
    package_sha256,
    parse_model_uri,
    save_package,
)
from training_core.tracking.processes import HOST, is_abandoned, process_tags
from training_core.tracking.protocol import ModelPackage, ResolvedModel, RunRecord, RunStatus, Servable, TrackedDataset
from training_core.tracking.quiet import quiet
from training_core.tracking.registry import ENSEMBLE_SHA256, ERASED, RETIRED

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds; MLflow waits 120 and tries 8 times: 20 minutes of lost training
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_UV_AUTO_DETECT": "false",  # else a uv project in the working directory is copied into every model
    "GIT_PYTHON_REFRESH": "quiet",
}
"""What MLflow is told unless the user said otherwise; it reads these anew on every call."""
_PACKAGE = "polychoir.package_sha256"


class MLflowTracker:
    """Runs in one MLflow experiment, and the model registry that belongs to it.

    Args:
        store_root: Folder of the local database (`mlflow.db`) and of the artifacts (`mlartifacts/`).
        uri: Tracking URI; by default `MLFLOW_TRACKING_URI`, else the local database.
        experiment: Name of the experiment; by default `MLFLOW_EXPERIMENT_NAME`, else "polychoir".
    """

    def __init__(self, store_root: Path, uri: str | None = None, experiment: str | None = None) -> None:
        self._root = store_root.absolute()
        self._uri = uri or tracking_uri(store_root)
        self.location = bare(self._uri)
        self._experiment = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "polychoir"
        self._connection: tuple[Any, str] | None = None

    @quiet()
    def connect(self) -> None:
        """Import MLflow and create the database and the experiment where they are missing (seconds, the first time).

        Raises:
            StorageError: the local database cannot be written or is none.
        """
        self._connected()

    @quiet()
    def start(
        self,
        name: str,
        *,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        dataset: TrackedDataset | None = None,
    ) -> str:
        """Begin a run. Runs that a killed process of this machine left open are closed on the way."""
        self.close_orphans()
        run_id = self._create_run(RunRecord(name=name, tags=tags or {}, dataset=dataset), parent_id=None)
        self._log(run_id, params=params or {})
        return run_id

    @quiet()
    def log_run(self, parent_id: str, record: RunRecord) -> str:
        """Record a finished run as a child; should that fail half-way, the child is closed as FAILED.

        A curve of more than `entries.MAX_CURVE_POINTS` points is thinned; the whole ones are kept as `curves.json`.
        """
        client, _ = self._connected()
        run_id = self._create_run(record, parent_id)
        try:
            self._log(run_id, record.metrics, record.params, record.curves)
            if any(len(thin(curve)) < len(curve) for curve in record.curves.values()):
                client.log_text(run_id, record.model_dump_json(include={"curves"}), "curves.json")
            for path in record.artifacts:
                self.log_artifact(run_id, Path(path))
        except BaseException:
            with suppress(Exception):
                client.set_terminated(run_id, "FAILED")
            raise
        client.set_terminated(run_id, record.status, _milliseconds(record.end_time))
        return run_id

    @quiet()
    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int = 0) -> None:
        """Add values to a run, in one transaction per thousand."""
        self._log(run_id, curves={key: ((step, value),) for key, value in metrics.items()})

    @quiet()
    def log_text(self, run_id: str, text: str, name: str) -> None:
        """Keep a text as an artifact."""
        self._connected()[0].log_text(run_id, text, name)

    @quiet()
    def log_artifact(self, run_id: str, path: Path, folder: str = "") -> None:
        """Copy a file, or what is in a directory under the directory's name, into the run's artifacts."""
        client, _ = self._connected()
        if path.is_dir():
            client.log_artifacts(run_id, str(path), "/".join(filter(None, (folder, path.name))))
        else:
            client.log_artifact(run_id, str(path), folder or None)

    @quiet()
    def finish(self, run_id: str, status: RunStatus = "FINISHED") -> None:
        """End a run."""
        self._connected()[0].set_terminated(run_id, status)

    @quiet()
    def close_orphans(self) -> int:
        """Mark as KILLED the open runs whose process, on this machine, has ended; returns how many."""
        client, experiment_id = self._connected()
        mine = f"attributes.status = 'RUNNING' and tags.`{HOST}` = '{process_tags()[HOST]}'"
        orphans = [run for run in client.search_runs([experiment_id], mine) if is_abandoned(run.data.tags)]
        for run in orphans:
            client.set_terminated(run.info.run_id, "KILLED")
        return len(orphans)

    @quiet()
    def log_ensemble(self, run_id: str, package: ModelPackage) -> str | None:
        """Package an ensemble, log it with the run and register it; returns `models:/name/version`.

        When the newest version holds the same ensemble, packaged by the same code, that version is returned.
        """
        client, experiment_id = self._connected()
        tags = {**package.tags, ENSEMBLE_SHA256: package.sha256, _PACKAGE: package_sha256(package)}
        newest = self._newest_version(package.name)
        if newest and all(newest.tags.get(key) == tags[key] for key in (ENSEMBLE_SHA256, _PACKAGE)):
            known = f"models:/{package.name}/{newest.version}"
            with suppress(StorageError):  # a server keeps its files; not downloaded just to see that they are there
                return known if self._has_server else self.resolve_model(known).uri

        logged = client.create_logged_model(experiment_id, package.name, run_id, tags, model_type="ensemble")
        try:
            with tempfile.TemporaryDirectory() as folder:
                save_package(import_mlflow(), package, Path(folder) / "model", logged.model_id, run_id, tags)
                client.log_model_artifacts(logged.model_id, str(Path(folder) / "model"))
            client.finalize_logged_model(logged.model_id, "READY")
        except Exception:
            with suppress(Exception):
                client.finalize_logged_model(logged.model_id, "FAILED")
            raise
        output = import_mlflow().entities.LoggedModelOutput(logged.model_id, step=0)
        client.log_outputs(run_id, [output])
        if newest is None:
            with suppress(import_mlflow().MlflowException):  # already there, without versions
                client.create_registered_model(package.name)
        # A server takes only the model's id, since it checks who owns the files; without one MLflow would look the id
        # up under the global tracking URI, which may be another.
        source = f"models:/{logged.model_id}" if self._has_server else logged.artifact_location
        version = client.create_model_version(package.name, source, run_id, tags=tags, model_id=logged.model_id)
        link = json.dumps([{"name": package.name, "version": version.version}])
        client.set_logged_model_tags(logged.model_id, {"mlflow.modelVersions": link})
        return f"models:/{package.name}/{version.version}"

    @quiet()
    def resolve_model(self, uri: str) -> ResolvedModel:
        """Find a registered ensemble; its files are downloaded once when they are not on this machine.

        The latest version is the newest that is not retired.

        Raises:
            ConfigError: the URI is malformed, or names no registered model or version.
            StorageError: the registry does not answer, or the files of the version are gone, cannot be fetched, or hold
                no ensemble.
        """
        name, alias, number = parse_model_uri(uri)
        client = None
        try:
            client, _ = self._connected()
            if alias:
                version = client.get_model_version_by_alias(name, alias)
            else:
                version = (
                    client.get_model_version(name, number) if number else self._newest_version(name, retired=False)
                )
        except import_mlflow().MlflowException as error:
            if error.error_code not in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                raise StorageError(
                    f"the registry {self.location} cannot be asked for '{uri}' ({_reason(error)}); see that "
                    "MLFLOW_TRACKING_URI names one that answers, unset it for that of the store, or give the "
                    "ensemble's folder"
                ) from error
            version = None
        if client is None or version is None:
            raise ConfigError(f"there is no model '{uri}' in {self.location}; register it, or give its directory")
        pinned = f"models:/{name}/{version.version}"
        try:
            files = self._fetch(client.get_model_version_download_uri(name, version.version))
        except import_mlflow().MlflowException as error:
            raise StorageError(f"the files of {pinned} cannot be fetched: {without_secrets(str(error))}") from error
        folder = ensemble_folder(import_mlflow(), files)
        if folder is None:
            erased = version.tags.get(ERASED)
            how = f"were removed at {erased}, for it is retired" if erased else "are gone, or hold no ensemble"
            raise StorageError(f"the files of {pinned} {how}; register the ensemble again")
        return ResolvedModel(uri=pinned, path=folder, sha256=version.tags.get(ENSEMBLE_SHA256))

    @property
    def client(self) -> Any:
        """MLflow's own client of this place; call it within `quiet()`.

        Raises:
            StorageError: the local database cannot be written or is none.
        """
        return self._connected()[0]

    def _connected(self) -> tuple[Any, str]:
        """The client and the experiment's id, made on first use; `quiet` lets in one thread at a time."""
        if self._connection is None:
            mlflow = import_mlflow()
            if self._uri.startswith("sqlite:////") and "?" not in self._uri:
                database = Path(self._uri.removeprefix("sqlite:///"))
                prepare_database(database, lambda path: _create_schema(path, self._artifacts))
            registry = os.environ.get("MLFLOW_REGISTRY_URI") or self._uri
            client = mlflow.MlflowClient(self._uri, registry)
            self._connection = client, self._find_experiment(client)
        return self._connection

    @property
    def _has_server(self) -> bool:
        return self._uri.startswith(("http:", "https:", "databricks"))

    @property
    def _artifacts(self) -> str:
        return (self._root / "mlartifacts").as_uri()

    def _find_experiment(self, client: Any) -> str:
        # A server knows where its artifacts go; for a bare database MLflow would take ./mlruns, wherever that is.
        location = None if self._has_server else self._artifacts
        found = client.get_experiment_by_name(self._experiment)
        if found is None:
            try:
                return client.create_experiment(self._experiment, location)
            except import_mlflow().MlflowException:  # another process was faster
                found = client.get_experiment_by_name(self._experiment)
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        return found.experiment_id

    def _create_run(self, record: RunRecord, parent_id: str | None) -> str:
        client, experiment_id = self._connected()
        tags = {**record.tags, **process_tags(), "mlflow.source.name": "polychoir"}
        if parent_id:
            tags["mlflow.parentRunId"] = parent_id
        if record.dataset:
            tags["polychoir.dataset"] = f"{record.dataset.name}@{record.dataset.version}"
            tags["polychoir.dataset_fingerprint"] = record.dataset.fingerprint
        names = legal_keys(tags)
        tags = {names[key]: value for key, value in tags.items()}
        run = client.create_run(experiment_id, _milliseconds(record.start_time), tags, record.name)
        if record.dataset:
            client.log_inputs(run.info.run_id, [_dataset_input(record.dataset)])
        return run.info.run_id

    def _log(
        self,
        run_id: str,
        metrics: Mapping[str, float] | None = None,
        params: Mapping[str, str] | None = None,
        curves: Mapping[str, Iterable[tuple[int, float]]] | None = None,
    ) -> None:
        """Everything in as few transactions as MLflow allows; a final value comes after the curve of the same key."""
        entities, now = import_mlflow().entities, _milliseconds(None)
        points = {key: thin(list(curve)) for key, curve in (curves or {}).items()}
        for key, value in (metrics or {}).items():
            earlier = points.setdefault(key, [])
            earlier.append((earlier[-1][0] + 1 if earlier else 0, value))
        metric_names, param_names = legal_keys(points), legal_keys(params or {})
        rows = [
            entities.Metric(metric_names[key], finite_or_nan(value), now, step)
            for key, curve in points.items()
            for step, value in curve
        ]
        settings = [entities.Param(param_names[key], value) for key, value in (params or {}).items()]
        self._connected()[0].log_batch(run_id, metrics=rows, params=settings)

    def _newest_version(self, name: str, retired: bool = True) -> Any:
        """The newest version, retired ones counting or not; None when there is none."""
        client, _ = self._connected()
        asked = {"filter_string": f"name = '{name}'", "order_by": ["version_number DESC"]}
        found = client.search_model_versions(**asked, max_results=1 if retired else 100)
        return next((version for version in found if retired or RETIRED not in version.tags), None)

    def _fetch(self, location: str) -> Path:
        """The local directory of the model files at `location`, which may turn out not to be there."""
        if (local := local_folder(location)) is not None:
            return local
        folder = self._root / "downloads" / hashlib.sha256(location.encode()).hexdigest()[:32]
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
                download = import_mlflow().artifacts.download_artifacts
                found = download(artifact_uri=location, dst_path=unfinished, tracking_uri=self._uri)
                with suppress(OSError):  # another process was faster
                    Path(found).rename(folder)
        return folder


def serve(load: Callable[[Path], Servable]) -> None:
    """Make `load(ensemble directory)` the model that MLflow serves; for the last line of a models-from-code script."""
    import pandas as pd

    mlflow = import_mlflow()

    class Model(mlflow.pyfunc.PythonModel):
        def load_context(self, context: Any) -> None:
            folder = Path(context.artifacts[ENSEMBLE])
            self._loaded = load(folder)
            forget_unused_code(folder.parents[1] / "code")

        # MLflow goes by the name `context`; of the hints only that of a DataFrame makes it neither check nor warn.
        def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
            try:
                return self._loaded.predict_frame(model_input)
            except UserError as error:  # of other errors a scoring server hides the message and shows the traceback
                raise mlflow.MlflowException.invalid_parameter_value(str(error)) from error

    mlflow.models.set_model(Model())


@cache
def import_mlflow() -> ModuleType:
    """MLflow, imported on first use (seconds), after its environment is settled: telemetry starts with the import."""
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    with quiet():
        import mlflow
        import mlflow.pyfunc
        import mlflow.types.schema
    return mlflow


def _create_schema(database: Path, artifacts: str) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(f"sqlite:///{database}", artifacts).engine.dispose()


def _dataset_input(dataset: TrackedDataset) -> Any:
    """The dataset as MLflow lists it; its digest has room for 36 characters, so a tag holds the whole fingerprint."""
    entities = import_mlflow().entities
    found = entities.Dataset(
        name=dataset.name,
        digest=dataset.fingerprint[:36],
        source_type="local",
        source=json.dumps({"uri": dataset.path}),
        profile=json.dumps({"version": dataset.version}),
    )
    return entities.DatasetInput(found, [entities.InputTag("mlflow.data.context", "training")])


def _reason(error: Exception) -> str:
    """What went wrong, in one line: of a chain of network errors the last, which says why."""
    last = without_secrets(str(error)).rpartition("Caused by ")[2].rpartition(": ")[2].strip("')\" \n")
    return last.partition("\n")[0] or type(error).__name__


def _milliseconds(seconds: float | None) -> int:
    return int((time.time() if seconds is None else seconds) * 1000)
