"""The registry of models: which versions there are, where they come from, and which of them answer in production."""

import json
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from training_core.config import Config
from training_core.errors import ConfigError

if TYPE_CHECKING:
    from training_core.tracking import TrackerKind

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
"""Aliases: the version that answers, the one that wants to, and the one that answered before."""
ENSEMBLE_SHA256, PARENT, RETIRED = "polychoir.ensemble_sha256", "polychoir.parent", "polychoir.retired"
ERASED = "polychoir.erased"
"""Tags of a version; the last one says since when its files are gone."""
_ORIGIN = {
    "dataset": "polychoir.dataset",
    "parent": PARENT,
    "code": "polychoir.code",
    "config_hash": "polychoir.config_hash",
}
_METRIC, _SCORES, _SIZE = "polychoir.metric", "polychoir.scores", "polychoir.size_bytes"


class Origin(Config):
    """Where a version comes from, and how good it was when it was made: what is kept with it as tags."""

    dataset: str | None = None
    """`name@version` that it was trained on."""
    parent: str | None = None
    """URI of the champion that it was made to follow; None for the first."""
    code: str | None = None
    """Version of Polychoir and the first digits of the hash of its source."""
    config_hash: str | None = None
    """SHA-256 of those settings of the run that what came of it depends on."""
    metric: str | None = None
    """Name of the headline score."""
    scores: Mapping[str, float] = {}
    """All metrics on the test split of its run."""
    size_bytes: int = 0
    """Of the ensemble on disk."""

    def tags(self) -> dict[str, str]:
        """As tags of a version; what is not known is left out."""
        found = {tag: getattr(self, field) for field, tag in _ORIGIN.items()} | {_METRIC: self.metric}
        told = {tag: value for tag, value in found.items() if value is not None}
        if self.scores:
            told[_SCORES] = json.dumps({name: value for name, value in self.scores.items() if math.isfinite(value)})
        return told | ({_SIZE: str(self.size_bytes)} if self.size_bytes else {})

    @classmethod
    def of_tags(cls, tags: Mapping[str, str]) -> "Origin":
        """What `tags` say; whatever somebody else wrote there is left out."""
        try:
            read = json.loads(tags.get(_SCORES, "{}"))
            scores = {str(name): float(value) for name, value in read.items()}
        except (ValueError, TypeError, AttributeError):
            scores = {}
        size = tags.get(_SIZE, "")
        return cls(
            **{field: tags.get(tag) for field, tag in _ORIGIN.items()},
            metric=tags.get(_METRIC),
            scores=scores,
            size_bytes=int(size) if size.isascii() and size.isdigit() else 0,
        )


class ModelVersion(Origin):
    """One version of a registered model."""

    name: str
    version: int
    aliases: tuple[str, ...] = ()
    retired: bool = False
    """Not to be used any more, by what it is tagged with."""
    created: float = 0.0
    """Seconds since 1970."""
    sha256: str | None = None
    """Of the ensemble; None for a model that somebody else registered."""
    run_id: str | None = None
    """The training run."""
    why_retired: str = ""

    @property
    def uri(self) -> str:
        """`models:/name/version`."""
        return f"models:/{self.name}/{self.version}"


class Registry(Protocol):
    """Registered models. Every method raises a StorageError where the registry does not answer."""

    @property
    def location(self) -> str:
        """Where it is: a URI without credentials."""
        ...

    def models(self) -> tuple[str, ...]:
        """Names of the models that have a version, sorted."""
        ...

    def versions(self, name: str) -> tuple[ModelVersion, ...]:
        """Versions of a model, the newest first; none when it is not known."""
        ...

    def find(self, model: str) -> ModelVersion:
        """The version that `name` (its newest that is not retired), `name@alias` or a `models:/` URI stands for.

        Raises:
            ConfigError: there is no such model, version or alias; says which there are.
        """
        ...

    def files_of(self, version: ModelVersion) -> Path | None:
        """The folder of a version's files, links resolved; None where they are not on this machine's disks.

        It may not be there.
        """
        ...

    def set_alias(self, name: str, alias: str, version: int | None) -> None:
        """Let `alias` stand for a version; None: for none. Doing so twice changes nothing.

        Raises:
            ConfigError: there is no such version.
        """
        ...

    def tag(self, name: str, version: int, tags: Mapping[str, str]) -> None:
        """Add tags to a version.

        Raises:
            ConfigError: there is no such version.
        """
        ...


def open_registry(kinds: Sequence["TrackerKind"], store: Path) -> Registry:
    """The registry that belongs to a store's trackers: that of MLflow; opened once per process.

    Raises:
        ConfigError: none of the trackers has a registry.
    """
    if "mlflow" not in kinds:
        raise ConfigError(
            f"the trackers {', '.join(kinds) or '(none)'} have no registry of models; add mlflow to `trackers`"
        )
    return _registry_at(str(store.absolute()))


@lru_cache(maxsize=4)
def _registry_at(store: str) -> Registry:
    from training_core.tracking.mlflow_registry import MLflowRegistry

    return MLflowRegistry(Path(store))
