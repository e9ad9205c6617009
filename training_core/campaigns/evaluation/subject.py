"""What is judged, and on which rows: finding a model, the record of its training, and rows it has not seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training_core.artifacts import ArtifactRef, is_published, open_published
from training_core.campaigns.prediction import find_ensemble
from training_core.campaigns.recording import settings_path, summaries
from training_core.campaigns.run_config import RunConfig
from training_core.campaigns.summary import RunSummary
from training_core.config import Config
from training_core.data.splitting.splits import SET_ASIDE
from training_core.data.storage.store import Dataset, DatasetStore
from training_core.errors import DataError, UserError
from training_core.selection.ensemble import Ensemble

_ENOUGH_ROWS, _ENOUGH_GROUPS = 50, 8
"""Of groups that no model has seen: a test of n groups gives no p-value below 2^(1-n), .008 of 8."""


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
    for summary in summaries(store):
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


def training_version(ensemble: Ensemble, datasets: DatasetStore) -> Dataset | None:
    """The version of its data set that an ensemble was trained on; None when it names none, or it is gone."""
    try:
        return datasets.open(ensemble.manifest.dataset)
    except UserError:
        return None


def seen_rows(ensemble: Ensemble, dataset: Dataset) -> np.ndarray | None:
    """Which rows of `dataset` may have trained a model, bool [N]; None when nobody can say, its own version being gone.

    Only the test rows of that version have surely not: learners that were kept from an earlier model may have been
    trained on rows that the version sets aside. Rows are told by their ids; those of another data set are all new.
    """
    name, _, version = ensemble.manifest.dataset.partition("@")
    if name != dataset.name:
        return np.zeros(dataset.num_rows, bool)
    source = dataset if version == dataset.version else training_version(ensemble, _beside(dataset))
    if source is None:
        return None
    if source is dataset:
        return np.asarray(dataset.split() != "test")
    seen = source.ids(np.flatnonzero(source.split() != "test"))
    return np.isin(dataset.ids().astype(str), seen.astype(str))


def judged_rows(ensemble: Ensemble, dataset: Dataset, which: str) -> tuple[np.ndarray, int, bool]:
    """Positions of the rows that may judge, how many were left out as seen, and whether that could be checked.

    Raises:
        DataError: no row is left, or the rows a model has seen have to be known and are not.
    """
    kept = np.flatnonzero(dataset.split() != SET_ASIDE) if which == "unseen" else dataset.rows("test")
    seen = seen_rows(ensemble, dataset)
    left_out = 0
    if seen is not None:
        fresh = kept[~seen[kept]]
        left_out, kept = len(kept) - len(fresh), fresh
    elif which == "unseen":
        raise DataError(
            f"the model was trained on {ensemble.manifest.dataset}, which is not in this store any more, so "
            "nobody can say which rows it has not seen; judge on the test split"
        )
    if not len(kept):
        why = "its SOURCE.yaml sets `split.test` to 0" if not left_out else f"all {left_out} were trained on"
        hint = "; --rows unseen judges on every row the model was not trained on" if which == "test" else ""
        raise DataError(f"{dataset.ref} has no row to judge on: {why}{hint}")
    return kept, left_out, seen is not None


@dataclass(frozen=True)
class FreshRows:
    """Rows that none of several models has seen.

    Attributes:
        positions: of these rows, sorted, int64 [n].
        left_out: rows that might have judged, had none of the models seen them or their groups.
        checked: whether the rows that each of them has seen are known.
        of_known_groups: how many of `positions` are of groups of which one of the models has seen other rows.
    """

    positions: np.ndarray
    left_out: int
    checked: bool
    of_known_groups: int


def fresh_rows(ensembles: Sequence[Ensemble], dataset: Dataset, which: str) -> FreshRows:
    """`judged_rows` of several models at once.

    Who knows a group by its earlier rows is at an advantage over who does not. So new rows of groups that one of the
    models has seen are left out, where what remains is enough to judge by.

    Raises:
        DataError: no row is left, or the rows one of them has seen have to be known and are not.
    """
    found = [judged_rows(ensemble, dataset, which) for ensemble in ensembles]
    everything = np.concatenate([kept for kept, _, _ in found])
    rows, times = np.unique(everything, return_counts=True)
    kept = rows[times == len(found)]
    candidates = max(len(kept) + left_out for kept, left_out, _ in found)
    if not len(kept):
        raise DataError(
            f"{dataset.ref} has no row that none of the {len(found)} models was trained on; append newer rows, or "
            "judge on a data set that none of them has seen"
        )
    known = _of_seen_groups(ensembles, dataset)[kept]
    if known.any() and _are_enough(dataset, kept[~known]):
        kept, known = kept[~known], known[~known]
    return FreshRows(kept, candidates - len(kept), all(checked for _, _, checked in found), int(known.sum()))


def _of_seen_groups(ensembles: Sequence[Ensemble], dataset: Dataset) -> np.ndarray:
    """Which rows are of a group of which one of the models has seen a row, bool [N]; none where rows have no groups."""
    groups = dataset.groups()
    if groups is None:
        return np.zeros(dataset.num_rows, bool)
    masks = [mask for mask in (seen_rows(ensemble, dataset) for ensemble in ensembles) if mask is not None]
    seen = np.logical_or.reduce([np.zeros(dataset.num_rows, bool), *masks])
    return np.isin(groups.astype(str), np.unique(groups[seen].astype(str)))


def _are_enough(dataset: Dataset, rows: np.ndarray) -> bool:
    groups = dataset.groups(rows)
    return len(rows) >= _ENOUGH_ROWS and groups is not None and len(np.unique(groups.astype(str))) >= _ENOUGH_GROUPS


def _beside(dataset: Dataset) -> DatasetStore:
    """The store that a data set is in."""
    return DatasetStore(dataset.path.parent.parent)


def _described(ensemble: Ensemble) -> str:
    task = ensemble.task
    return f"{task.kind} ({', '.join(task.classes or task.targets)})"
