"""Learners are filed under the kind of device they trained on: that of the workers, whatever the driver has."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from factories import small_run, unreal_cohort

from training_core.artifacts import publish_directory
from training_core.campaigns import dispatch
from training_core.campaigns.bagging import Plan
from training_core.campaigns.clock import RunClock
from training_core.campaigns.dispatch import Dispatcher, Outcome, reports_of
from training_core.errors import ConfigError, TransientError
from training_core.jobs import Cohort, DatasetRef, Job, JobReport, Limits, job_directory

COHORT = unreal_cohort("one")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store in which a worker with a GPU has published the learner of the group."""
    report = JobReport(name="one", status="trained", learner="linear", bag="b", modalities=("vec",), score=0.5)
    with publish_directory(job_directory(COHORT.jobs[0], tmp_path, "cuda")) as folder:
        (folder / "report.json").write_text(report.to_json())
    return tmp_path


def died(cohort: Cohort, limits: Limits, done: Callable[[Outcome], None]) -> None:
    done(TransientError("the worker was killed"))


def never(jobs: Sequence[Job], limits: Limits) -> list[JobReport]:
    raise AssertionError("nothing is trained in the driver")


def status(store: Path, seconds: float | None, device: str | None) -> str:
    """What becomes of the learner of a group whose worker died, or under a budget was not even begun."""
    dataset: DatasetRef = COHORT.jobs[0].dataset
    clock = RunClock.begin(seconds, "library", time.time() - 100)
    dispatcher = Dispatcher(Plan(bags=(), cohorts=(COHORT,)), small_run("world"), dataset, store, clock)
    (report,) = dispatcher.train(died, never, device=device).reports
    return report.status


@pytest.mark.parametrize(("seconds", "without"), [(None, "failed"), (50.0, "skipped")])
def test_what_a_worker_with_a_gpu_had_published_is_found_by_a_driver_without(
    store: Path, monkeypatch: pytest.MonkeyPatch, seconds: float | None, without: str
) -> None:
    monkeypatch.setattr(dispatch, "device_kind", lambda: "cpu")
    assert status(store, seconds, "cuda") == "reused"
    assert status(store, seconds, None) == without, "in processes of this machine it would train anew"
    monkeypatch.setattr(dispatch, "device_kind", lambda: "cuda")
    assert status(store, seconds, None) == "reused"
    assert status(store, seconds, "cpu") == without


def test_what_the_user_has_to_mend_is_raised(store: Path) -> None:
    with pytest.raises(ConfigError, match="no such loss"):
        reports_of(COHORT, ConfigError("no such loss"), store, "cuda")
    with pytest.raises(KeyboardInterrupt):
        reports_of(COHORT, KeyboardInterrupt(), store, "cuda")
    (lost,) = reports_of(COHORT, TransientError("killed"), store, "cpu")
    assert (lost.status, lost.error) == ("failed", "killed")
