"""Serving what a store's registry names: the champion of a model, a version, an alias, or an ensemble's folder."""

from pathlib import Path

from training_core.artifacts import is_published, mark_used
from training_core.campaigns.prediction import load_ensemble, require_name
from training_core.campaigns.promotion.changes import champion_of
from training_core.selection.ensemble import Ensemble
from training_core.tracking.registry import open_registry


def answering(model: str, store: Path) -> str:
    """The version, as a URI, or the folder that a model's name stands for where models are in production.

    A name alone is its champion for as long as there is one, else its newest version that is not retired: what was
    only just trained does not answer before it was promoted.

    Raises:
        ConfigError: there is none.
        StorageError: the registry does not answer.
    """
    if is_published(Path(model)):
        return model
    require_name(model)
    registry = open_registry(["mlflow"], store)
    champion = champion_of(registry, model) if is_bare_name(model) else None
    return registry.find(model).uri if champion is None else f"models:/{model}/{champion}"


def is_bare_name(model: str) -> bool:
    """Whether a model is meant by its name alone: no version, no alias, no ensemble's folder."""
    return not set("/@") & set(model) and not is_published(Path(model))


class RegisteredModel:
    """A model by the name a person gave, looked up anew each time it is asked for; a `serving.current.ModelSource`."""

    def __init__(self, model: str, store: Path) -> None:
        self._model, self._store = model, store

    def newest(self) -> str:
        """The version, as a URI, or the folder that the name stands for now; see `answering`.

        Raises:
            ConfigError: there is none.
            StorageError: the registry does not answer.
        """
        found = answering(self._model, self._store)
        if found == self._model and is_published(Path(found)):
            mark_used(Path(found))  # or tidying up would take what answers from memory for forgotten
        return found

    def load(self, uri: str) -> Ensemble:
        """The ensemble of a version; see `campaigns.prediction.load_ensemble`.

        Raises:
            ConfigError: it is not there any more.
            StorageError: its files are damaged.
        """
        return load_ensemble(uri, self._store)
