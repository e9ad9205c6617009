"""The registry of models in MLflow: versions, aliases and tags, as plain values."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from training_core.addresses import without_secrets
from training_core.errors import ConfigError, StorageError
from training_core.tracking.mlflow import MLflowTracker, import_mlflow
from training_core.tracking.models import local_folder, model_uri, parse_model_uri
from training_core.tracking.quiet import quiet
from training_core.tracking.registry import ENSEMBLE_SHA256, RETIRED, ModelVersion, Origin

_PAGE = 200
_UNKNOWN = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}


class MLflowRegistry:
    """The registry of `MLFLOW_TRACKING_URI`, else that of the store; connected on first use.

    Args:
        store_root: Folder of the local database.
    """

    def __init__(self, store_root: Path) -> None:
        self._tracker = MLflowTracker(store_root)

    @property
    def location(self) -> str:
        """Where it is."""
        return self._tracker.location

    def models(self) -> tuple[str, ...]:
        """Names of the models that have a version, sorted."""
        with self._asked("the models") as client:
            found: list[Any] = []
            token = None
            while True:
                page = client.search_registered_models(max_results=_PAGE, page_token=token)
                found += page
                if not (token := page.token):
                    return tuple(sorted(one.name for one in found if one.latest_versions))

    def versions(self, name: str) -> tuple[ModelVersion, ...]:
        """Versions of a model, the newest first; none when it is not known."""
        if "'" in name:  # no data set has such a name, and MLflow's filter no way to write it
            return ()
        with self._asked(name) as client:
            found: list[Any] = []
            token = None
            while True:
                page = client.search_model_versions(f"name = '{name}'", max_results=_PAGE, page_token=token)
                found += page
                if not (token := page.token):
                    break
            aliases = client.get_registered_model(name).aliases if found else {}
        read = [_read(one, aliases) for one in found if one.name == name]
        return tuple(sorted(read, key=lambda one: -one.version))

    def find(self, model: str) -> ModelVersion:
        """The version that `name`, `name@alias` or a `models:/` URI stands for."""
        name, alias, number = parse_model_uri(model_uri(model))
        versions = self.versions(name)
        if not versions:
            known = ", ".join(self.models()) or "none"
            raise ConfigError(f"there is no model '{name}' in {self.location}; the models there are: {known}")
        if alias:
            found = next((one for one in versions if alias in one.aliases), None)
        elif number:
            found = next((one for one in versions if one.version == int(number)), None)
        else:
            found = next((one for one in versions if not one.retired), None)
        if found is None:
            had = "; ".join(
                f"{one.version}" + (f" ({', '.join(one.aliases)})" if one.aliases else "") for one in versions[:10]
            )
            wanted = f"alias '{alias}'" if alias else f"version {number}" if number else "version that is not retired"
            raise ConfigError(f"the model '{name}' has no {wanted}; its versions are {had}")
        return found

    def files_of(self, version: ModelVersion) -> Path | None:
        """The folder of a version's files; None where they are not on this machine's disks."""
        with self._asked(version.uri) as client:
            location = client.get_model_version_download_uri(version.name, str(version.version))
        folder = local_folder(location)
        return None if folder is None else folder.resolve()

    def set_alias(self, name: str, alias: str, version: int | None) -> None:
        """Let `alias` stand for a version, or for none."""
        with self._asked(f"{name}@{alias}") as client:
            if version is not None:
                client.set_registered_model_alias(name, alias, str(version))
            elif alias in client.get_registered_model(name).aliases:
                client.delete_registered_model_alias(name, alias)

    def tag(self, name: str, version: int, tags: Mapping[str, str]) -> None:
        """Add tags to a version."""
        with self._asked(f"models:/{name}/{version}") as client:
            for key, value in tags.items():
                client.set_model_version_tag(name, str(version), key, value)

    @contextmanager
    def _asked(self, what: str) -> Iterator[Any]:
        """MLflow's client; its errors become ours."""
        with quiet():
            try:
                yield self._tracker.client
            except import_mlflow().MlflowException as error:
                if error.error_code in _UNKNOWN:
                    raise ConfigError(f"there is no {what} in {self.location}: {error.message}") from error
                why = without_secrets(str(error)).splitlines()[0]
                raise StorageError(
                    f"the registry {self.location} cannot be asked for {what} ({why}); "
                    "see that MLFLOW_TRACKING_URI names one that answers, or unset it for that of the store"
                ) from error


def _read(found: Any, aliases: Mapping[str, str]) -> ModelVersion:
    tags: dict[str, str] = dict(found.tags)
    return ModelVersion(
        name=found.name,
        version=int(found.version),
        aliases=tuple(sorted(alias for alias, version in aliases.items() if str(version) == str(found.version))),
        retired=RETIRED in tags,
        why_retired=tags.get(RETIRED, ""),
        created=found.creation_timestamp / 1000,
        sha256=tags.get(ENSEMBLE_SHA256),
        run_id=found.run_id or None,
        **Origin.of_tags(tags).model_dump(),
    )
