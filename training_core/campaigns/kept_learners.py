"""Learners of an earlier model that take part in a new run as they are: what did not change is not trained again.

They are weighed beside the new ones on what they say of training rows that they have not seen
(`evaluation.subject.seen_rows`). Where the old ways still hold they keep their weight, and where they do
not the combination leaves them out. Only learners with a weight are kept, so their number does not grow without end.
"""

import hashlib
import logging
import shutil
from pathlib import Path

import numpy as np

from training_core.artifacts import (
    ArtifactRef,
    is_whole,
    mark_used,
    open_published,
    publish_directory,
    unpublished_if_damaged,
)
from training_core.campaigns.bagging import open_dataset
from training_core.campaigns.evaluation.subject import seen_rows
from training_core.campaigns.prediction import find_ensemble
from training_core.campaigns.run_bags import run_spec
from training_core.campaigns.run_config import RunConfig
from training_core.config import canonical_json
from training_core.data.storage.store import Dataset
from training_core.engine.loop import History
from training_core.engine.trained import TrainedLearner
from training_core.evaluation.metrics import metrics
from training_core.jobs import DatasetRef, JobReport, core_fingerprint
from training_core.schema import pattern_key
from training_core.selection.ensemble import Ensemble
from training_core.selection.manifest import Member
from training_core.selection.out_of_bag import hear

_log = logging.getLogger(__name__)

MIN_UNSEEN_ROWS = 50
"""Training rows that kept learners have not seen, at least: a weight that is learned from fewer is luck."""


def keep_learners(run: RunConfig, ref: DatasetRef, store: Path) -> tuple[JobReport, ...]:
    """Reports of the learners of `run.keep_learners_of`, as if they had been trained before, one directory each.

    None where the run names no model, its samples or the task are others by now (a new category, a new class), the
    training rows hold too few that it has not seen, or nobody can say which it has. None either where it has seen a row
    of the test split, since the run's own judgement and gates would praise what was learned by heart; a warning says
    so.

    Raises:
        ConfigError: there is no such model.
        StorageError: its files are damaged, or the store cannot be written.
    """
    if not run.keep_learners_of:
        return ()
    name, artifact = find_ensemble(run.keep_learners_of, store)
    ensemble, dataset = Ensemble.load(artifact.path), open_dataset(ref)
    if ensemble.spec != run_spec(run, dataset):
        return ()
    seen = seen_rows(ensemble, dataset)
    if seen is None or ensemble.manifest.dataset.partition("@")[0] != dataset.name:
        return ()
    if num_known := int(seen[dataset.rows("test")].sum()):
        _log.warning(
            "no learner of %s is kept: it may have been trained on %s of the rows that test %s, which then say nothing "
            "of it; train on a version whose test rows are newer than it",
            name,
            num_known,
            dataset.ref,
        )
        return ()
    rows = dataset.rows("train")
    rows = rows[~seen[rows]]
    if len(rows) < MIN_UNSEEN_ROWS:
        return ()
    kept = [member for member in ensemble.members if member.name in ensemble.kept]
    tag = name.rpartition("/")[2] if name.startswith("models:/") else artifact.sha256[:8]
    return tuple(_kept(member, tag, artifact, ensemble, dataset, rows, store) for member in kept)


def _kept(
    member: Member, tag: str, artifact: ArtifactRef, ensemble: Ensemble, dataset: Dataset, rows: np.ndarray, store: Path
) -> JobReport:
    name = member.name if "@" in member.name else f"{member.name}@{tag}"
    inputs = [core_fingerprint(), artifact.sha256, member.folder, dataset.fingerprint]
    folder = store / "jobs" / hashlib.sha256(canonical_json(inputs).encode()).hexdigest()[:32]
    report = _judged_before(folder)
    if report is None:
        with publish_directory(folder) as unfinished:
            report = _judged(member, name, ensemble, dataset, rows, unfinished)
            (unfinished / "report.json").write_text(report.to_json())
    mark_used(folder)
    return report.model_copy(update={"name": name, "artifact": open_published(folder)})


def _judged_before(folder: Path) -> JobReport | None:
    """What `_judged` found earlier; None when there is nothing, or nothing whole any more."""
    if not is_whole(folder):
        return None
    try:
        with unpublished_if_damaged(folder):
            return JobReport.model_validate_json((folder / "report.json").read_text())
    except (FileNotFoundError, ValueError):
        return None


def _judged(
    member: Member, name: str, ensemble: Ensemble, dataset: Dataset, rows: np.ndarray, folder: Path
) -> JobReport:
    """Write what a job would have written to `folder`."""
    shutil.copytree(ensemble.folder / member.folder, folder / "learner")
    judged = dataset.subset(rows, member.modalities)
    heard = hear(TrainedLearner.load(folder / "learner"), judged, dataset.spec.names)
    arrays = {f"pattern:{key}": values.astype(np.float32) for key, values in heard.items()}
    np.savez(folder / "out_of_bag.npz", rows=rows, **arrays)  # pyright: ignore[reportArgumentType]
    (folder / "curves.json").write_text(History(epochs=(), num_steps=0, stop_reason="kept as it was").to_json())
    predicted = heard[pattern_key(member.modalities, member.modalities)]
    voted = ~np.isnan(predicted).any(axis=1)
    found = metrics(ensemble.task, judged.target()[voted], predicted[voted]) if voted.any() else {}
    return JobReport(
        name=name,
        status="reused",
        learner=member.kind,
        bag=name.partition("/")[0],
        modalities=member.modalities,
        reason=f"kept from {ensemble.name}",
        trained_as="kept as it was",
        score=found.get(ensemble.task.metric),
        metrics=found,
        size_bytes=sum(file.stat().st_size for file in (folder / "learner").rglob("*") if file.is_file()),
    )
