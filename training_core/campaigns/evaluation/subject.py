"""What is judged, and on which rows: finding a model, the record of its training, and rows it has not seen."""

from pathlib import Path

import numpy as np

from training_core.artifacts import ArtifactRef, is_published, open_published
from training_core.campaigns.prediction import find_ensemble
from training_core.campaigns.recording import settings_path
from training_core.campaigns.run_config import RunConfig
from training_core.campaigns.summary import RunSummary
from training_core.config import Config
from training_core.data.storage.store import Dataset, DatasetStore
from training_core.errors import DataError, UserError
from training_core.selection.ensemble import Ensemble


class ModelRef(Config):
    """A model that was found: small enough to pass between tasks."""

    name: str
    """As it was asked for, `latest` replaced by the version it stood for."""
    artifact: ArtifactRef

    def load(self) -> Ensemble:
        """The ensemble."""
        return Ensemble.load(self.artifact.path)


def find_model(model: str, store: Path) -> ModelRef:
    """The ensemble that a name stands for, its files compared with their checksums.

    Raises:
        ConfigError: there is no such model.
        StorageError: its files are damaged.
    """
    name, artifact = find_ensemble(model, store)
    return ModelRef(name=name, artifact=artifact)


def training_run(artifact: ArtifactRef, store: Path) -> RunSummary | None:
    """The summary of the run that an ensemble came from, the newest of several; None where the store has none."""
    for path in sorted((store / "reports").glob("*.json"), key=lambda path: -path.stat().st_mtime):
        try:
            summary = RunSummary.model_validate_json(path.read_text())
        except (OSError, ValueError):  # the settings of a run, or the summary of another version of Polychoir
            continue
        folder = Path(summary.ensemble)
        if is_published(folder) and open_published(folder).sha256 == artifact.sha256:
            return summary
    return None


def training_settings(artifact: ArtifactRef, store: Path) -> RunConfig | None:
    """The settings of the run that an ensemble came from; None where the store has no record of it."""
    summary = training_run(artifact, store)
    path = settings_path(store, summary.run_id) if summary else None
    if path is None or not path.exists():
        return None
    try:
        return RunConfig.model_validate_json(path.read_text())
    except ValueError:  # of another version of Polychoir
        return None


def require_same_samples(ensemble: Ensemble, dataset: Dataset, name: str) -> None:
    """Go on only where the samples of a data set are what a model was trained on.

    Raises:
        DataError: a modality or the task differs; says which and how.
    """
    if ensemble.task != dataset.spec.task:
        raise DataError(
            f"{name} predicts {_described(ensemble)}, and {dataset.ref} holds {dataset.spec.task.kind} "
            f"({', '.join(dataset.spec.task.classes or dataset.spec.task.targets)}); give data of the same task"
        )
    theirs = {modality.name: modality for modality in dataset.spec.modalities}
    for modality in ensemble.spec.modalities:
        if theirs.get(modality.name) != modality:
            found = theirs.get(modality.name)
            got = f"{found.kind} {list(found.shape)}" if found else "nothing of that name"
            raise DataError(
                f"{name} takes '{modality.name}' as {modality.kind} {list(modality.shape)}, and {dataset.ref} has {got}"
                "; columns and categories have to be the same, too (polychoir inspect shows them)"
            )


def judged_rows(ensemble: Ensemble, dataset: Dataset, which: str) -> tuple[np.ndarray, int, bool]:
    """Positions of the rows that may judge, how many were left out as trained on, and whether that could be checked.

    A model was trained on the training and validation rows of the version it names. Rows of another version of that
    data set are compared by their ids.

    Raises:
        DataError: no row is left, or the training rows have to be known and are not.
    """
    kept = np.flatnonzero(dataset.split() != "quarantined") if which == "unseen" else dataset.rows("test")
    trained_on, _, version = ensemble.manifest.dataset.partition("@")
    checked, left_out = True, 0
    if trained_on == dataset.name:
        source = dataset if version == dataset.version else _training_version(dataset, ensemble.manifest.dataset)
        if source is None:
            checked = False
            if which == "unseen":
                raise DataError(
                    f"the model was trained on {ensemble.manifest.dataset}, which is not in this store any more, so "
                    "nobody can say which rows it has not seen; judge on the test split"
                )
        else:
            seen = source.ids(np.concatenate([source.rows("train"), source.rows("validation")]))
            fresh = ~np.isin(dataset.ids(kept).astype(str), seen.astype(str))
            left_out, kept = int((~fresh).sum()), kept[fresh]
    if not len(kept):
        why = "its SOURCE.yaml sets `split.test` to 0" if not left_out else f"all {left_out} were trained on"
        hint = "; --rows unseen judges on every row the model was not trained on" if which == "test" else ""
        raise DataError(f"{dataset.ref} has no row to judge on: {why}{hint}")
    return kept, left_out, checked


def _training_version(dataset: Dataset, ref: str) -> Dataset | None:
    try:
        return DatasetStore(dataset.path.parent.parent).open(ref)
    except UserError:
        return None


def _described(ensemble: Ensemble) -> str:
    task = ensemble.task
    return f"{task.kind} ({', '.join(task.classes or task.targets)})"
