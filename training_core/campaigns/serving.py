"""Serving what a store's registry names: the champion of a model, a version, an alias, or an ensemble's folder."""

from pathlib import Path

from training_core.artifacts import is_published, mark_used
from training_core.campaigns.prediction import load_ensemble
from training_core.campaigns.promotion.changes import champion_of
from training_core.errors import ConfigError
from training_core.selection.ensemble import Ensemble
from training_core.tracking.registry import open_registry


class RegisteredModel:
    """A model by the name a person gave, looked up anew each time it is asked for; a `serving.current.ModelSource`.

    A name alone is its champion for as long as there is one, else its newest version that is not retired: what was
    only just trained does not answer before it was promoted.
    """

    def __init__(self, model: str, store: Path) -> None:
        self._model, self._store = model, store

    def newest(self) -> str:
        """The version, as a URI, or the folder that the name stands for now.

        Raises:
            ConfigError: there is none.
            StorageError: the registry does not answer.
        """
        if is_published(Path(self._model)):
            mark_used(Path(self._model))  # or tidying up would take what answers from memory for forgotten
            return self._model
        if "/" in self._model.removeprefix("models:/") and not self._model.startswith("models:/"):
            raise ConfigError(
                f"no ensemble in {self._model}; give an ensemble's folder, models:/NAME/VERSION, NAME@champion or a "
                "model's name"
            )
        registry = open_registry(["mlflow"], self._store)
        if not set("/@") & set(self._model):
            champion = champion_of(registry, self._model)
            if champion is not None:
                return f"models:/{self._model}/{champion}"
        return registry.find(self._model).uri

    def load(self, uri: str) -> Ensemble:
        """The ensemble of a version; see `campaigns.prediction.load_ensemble`.

        Raises:
            ConfigError: it is not there any more.
            StorageError: its files are damaged.
        """
        return load_ensemble(uri, self._store)
