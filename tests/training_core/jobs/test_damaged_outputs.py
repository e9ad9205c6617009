"""Outputs of jobs that were damaged from outside: found, said in one line, and trained anew by the same command."""

import shutil
from pathlib import Path

import pytest
from factories import small_run, write_source
from scarcity import no_more_files

from training_core.campaigns import bagging
from training_core.campaigns.run_config import RunConfig
from training_core.campaigns.tuning.honest import cross_fitted_answers
from training_core.errors import StorageError, TransientError
from training_core.jobs import (
    Event,
    Job,
    JobReport,
    finished_report,
    job_directory,
    run_jobs,
    train_here,
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("world"), num_rows=160)


def ignore(event: Event) -> None:
    pass


def planned(source: Path, store: Path) -> tuple[RunConfig, list[Job]]:
    """A run and its estimators, which train in no time."""
    run = small_run(source)
    ref = bagging.resolve_dataset(run.dataset, store)
    jobs = bagging.plan_training(run, ref, bagging.bags_of(run, ref)).jobs
    return run, [job for job in jobs if job.recipe.learner.family == "estimator"]


def statuses(reports: list[JobReport]) -> dict[str, str]:
    return {report.name: report.status for report in reports}


def cut(folder: Path) -> None:
    """Cut 50 bytes off the learner in `folder`."""
    file = folder / "learner" / "estimator.npz"
    file.write_bytes(file.read_bytes()[:-50])


def test_the_same_run_trains_anew_what_was_found_damaged(tmp_path: Path, source: Path) -> None:
    run, jobs = planned(source, tmp_path)
    assert len(jobs) > 2
    ref = jobs[0].dataset
    bagging.conclude_run(run, ref, train_here(jobs, tmp_path, ignore), tmp_path)
    shutil.rmtree(tmp_path / "ensembles")
    for job in jobs[:2]:
        cut(job_directory(job, tmp_path, "cpu"))
    again = train_here(jobs, tmp_path, ignore)
    assert set(statuses(again).values()) == {"reused"}, "their contents are read when they are used"
    with pytest.raises(StorageError, match=r"estimator\.npz' is changed .* 1 other .*run the same command again"):
        bagging.conclude_run(run, ref, again, tmp_path)
    assert not list((tmp_path / "ensembles").glob("*"))
    third = train_here(jobs, tmp_path, ignore)
    assert statuses(third) == {job.name: "trained" if job in jobs[:2] else "reused" for job in jobs}
    assert (bagging.conclude_run(run, ref, third, tmp_path).path / "ensemble.json").exists()


def test_a_study_trains_anew_what_was_found_damaged(tmp_path: Path, source: Path) -> None:
    run, jobs = planned(source, tmp_path)
    reports = train_here(jobs, tmp_path, ignore)
    cut(job_directory(jobs[0], tmp_path, "cpu"))
    dataset = bagging.open_dataset(jobs[0].dataset)
    with pytest.raises(StorageError, match="run the same command again"):
        cross_fitted_answers(dataset, dataset.spec, reports, run.combination, 0, False)
    again = train_here(jobs, tmp_path, ignore)
    assert statuses(again) == {job.name: "trained" if job == jobs[0] else "reused" for job in jobs}
    cross_fitted_answers(dataset, dataset.spec, again, run.combination, 0, False)


def test_what_lacks_a_file_is_trained_anew_at_once(tmp_path: Path, source: Path) -> None:
    _, jobs = planned(source, tmp_path)
    train_here(jobs[:2], tmp_path, ignore)
    (job_directory(jobs[0], tmp_path, "cpu") / "learner" / "estimator.npz").unlink()
    assert finished_report(jobs[0], tmp_path, "cpu") is None
    again = statuses(train_here(jobs[:2], tmp_path, ignore))
    assert again == {jobs[0].name: "trained", jobs[1].name: "reused"}
    assert (job_directory(jobs[0], tmp_path, "cpu") / "learner" / "estimator.npz").exists()


def test_a_passing_error_of_reading_costs_no_learner(tmp_path: Path, source: Path) -> None:
    _, jobs = planned(source, tmp_path)
    (trained,) = train_here(jobs[:1], tmp_path, ignore)
    with no_more_files(), pytest.raises(TransientError, match="Too many open files"):
        finished_report(jobs[0], tmp_path, "cpu")
    (again,) = run_jobs(jobs[:1], tmp_path, "cpu", ignore)
    assert again.status == "reused" and again.artifact == trained.artifact
