"""Predicting for a file with a registered model or an ensemble on disk."""

from pathlib import Path
from typing import TYPE_CHECKING

from training_core.artifacts import ArtifactRef, is_published, mark_used, open_published, verify_published
from training_core.data.frames import read_samples
from training_core.errors import ConfigError, StorageError
from training_core.export import predictions_frame
from training_core.selection.ensemble import Ensemble
from training_core.tracking import open_tracker
from training_core.tracking.models import model_uri

if TYPE_CHECKING:
    import pandas as pd


def predict_file(model: str, path: Path, store: Path, id_column: str | None = None) -> tuple["pd.DataFrame", list[str]]:
    """Predictions for every row of `path`, with their ids, and the modalities the whole file lacks.

    Ids are those of `id_column`, else of a column `id`, else row numbers.

    Raises:
        ConfigError: there is no such model.
        DataError: the file cannot be read, or holds none of the model's modalities.
        StorageError: the model's files are damaged.
    """
    ensemble = load_ensemble(model, store)
    samples = read_samples(path, ensemble.spec, id_column)
    missing = [name for name in ensemble.spec.names if not samples.available[name].any()]
    table = predictions_frame(ensemble.task, ensemble.predict(samples))
    table.insert(0, "id", samples.ids)
    return table, missing


def load_ensemble(model: str, store: Path) -> Ensemble:
    """The ensemble that `models:/name/version`, `name@champion`, a registered name (its newest version) or a folder is.

    Its files are compared with their checksums before anything in them is read.

    Raises:
        ConfigError: there is no such model.
        StorageError: its files are damaged.
    """
    return Ensemble.load(find_ensemble(model, store)[1].path)


def require_name(model: str) -> None:
    """Go on only with what may be a registered model, not with a path where no ensemble is.

    Raises:
        ConfigError: it is one; says what else may be given.
    """
    if "/" in model and not model.startswith("models:/"):
        raise ConfigError(
            f"no ensemble in {model}; give an ensemble's folder, models:/NAME/VERSION, NAME@champion or a model's name"
        )


def find_ensemble(model: str, store: Path) -> tuple[str, ArtifactRef]:
    """What a model is called, `latest` replaced by a version, and its files, compared with their checksums.

    They are marked as used; of a registered one also the ensemble in the store that its files are a copy of.

    Raises:
        ConfigError: there is no such model.
        StorageError: its files are damaged.
    """
    folder = Path(model)
    if is_published(folder):
        ref = open_published(folder)
        verify_published(ref)
        mark_used(folder)
        return str(folder), ref
    require_name(model)
    found = open_tracker(["mlflow"], store).resolve_model(model_uri(model))
    ref = open_published(found.path)
    if found.sha256 is not None and found.sha256 != ref.sha256:
        raise StorageError(f"{found.uri} in {found.path} is not what was registered; register the ensemble again")
    verify_published(ref)
    for used in (found.path, store / "ensembles" / found.path.name):
        mark_used(used)
    return found.uri, ref
