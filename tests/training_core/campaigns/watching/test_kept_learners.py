"""Learners that are kept from an earlier model, and when none may be: what they have seen must not judge them."""

import os
import shutil
from pathlib import Path

import pytest
from streamed_world import WEEK, frame, more, quick_run

from training_core.artifacts import CHECKSUMS, publish_directory
from training_core.campaigns.bagging import resolve_dataset
from training_core.campaigns.kept_learners import keep_learners
from training_core.campaigns.watching.retraining import RetrainConfig, plan_retraining
from training_core.jobs import JobReport
from training_core.selection.ensemble import Ensemble
from training_core.selection.manifest import MANIFEST

START = 4 * WEEK


@pytest.fixture
def cut(place: Path, model: str, store: Path) -> str:
    """The version that a retraining is given after new rows came in: rows that tested the first model train there."""
    more(place, frame(START, 2 * WEEK))
    planned = plan_retraining(RetrainConfig(model=model), store)
    assert planned.run is not None
    return planned.run.dataset


def kept(dataset: str, model: str, store: Path) -> tuple[JobReport, ...]:
    run = quick_run(dataset).model_copy(update={"keep_learners_of": model})
    return keep_learners(run, resolve_dataset(dataset, store), store)


def as_if_trained_on(dataset: str, model: str, store: Path) -> str:
    """The folder of the same ensemble that says it was trained on another version."""
    folder = store / "ensembles" / "retrained"
    with publish_directory(folder) as unfinished:
        shutil.copytree(model, unfinished, dirs_exist_ok=True, ignore=shutil.ignore_patterns(CHECKSUMS))
        manifest = Ensemble.load(Path(model)).manifest.model_copy(update={"dataset": dataset})
        (unfinished / MANIFEST).write_text(manifest.model_dump_json())
    return str(folder)


def test_none_is_kept_where_it_may_have_been_trained_on_rows_that_test_the_run(cut, model, store, caplog):
    """The newest version still has the first model's test rows as such; a retrained model has learned them by heart."""
    retrained = as_if_trained_on(cut, model, store)
    assert kept("stream", retrained, store) == ()
    assert f"no learner of {retrained} is kept" in caplog.text
    assert kept("stream", model, store), "the first model never saw them"


def test_what_is_found_again_is_used_again(cut, model, store):
    folders = [report.artifact.path for report in kept(cut, model, store) if report.artifact is not None]
    assert folders
    for folder in folders:
        os.utime(folder, (0, 0))
    kept(cut, model, store)
    assert all(folder.stat().st_mtime > 1e9 for folder in folders)


def test_what_does_not_read_back_is_made_again(cut, model, store):
    first = kept(cut, model, store)
    assert first[0].artifact is not None
    report = first[0].artifact.path / "report.json"
    whole = report.read_text()
    report.write_text(whole[: len(whole) // 2])
    again = kept(cut, model, store)
    assert [found.model_dump(exclude={"artifact"}) for found in again] == [
        found.model_dump(exclude={"artifact"}) for found in first
    ]
    assert JobReport.model_validate_json(report.read_text())


def test_what_lacks_a_file_is_made_again(cut, model, store):
    folders = [report.artifact.path for report in kept(cut, model, store) if report.artifact is not None]
    (folders[0] / "out_of_bag.npz").unlink()
    assert kept(cut, model, store)
    assert (folders[0] / "out_of_bag.npz").exists()
