"""Whether another training fits: against the arithmetic that says so."""

import time
from pathlib import Path

import pytest
from factories import small_run, write_source

from training_core.campaigns import bagging
from training_core.jobs import Job, Limits, TimeLeft, train_here


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Job]:
    """An estimator and a net, each predicted to take 10 seconds."""
    folder = tmp_path_factory.mktemp("world")
    run = small_run(write_source(folder, num_rows=120))
    ref = bagging.resolve_dataset(run.dataset, folder / "store")
    planned = bagging.plan_training(run, ref, bagging.bags_of(run, ref)).jobs
    family = {job.recipe.learner.family: job for job in planned}
    return {name: job.model_copy(update={"predicted_seconds": 10.0}) for name, job in family.items()}


def within(seconds: float, pace: float = 1.0) -> TimeLeft:
    return TimeLeft(Limits(deadline=time.time() + seconds, pace=pace))


def test_without_a_deadline_everything_fits(jobs: dict[str, Job]) -> None:
    assert TimeLeft(Limits()).allows([jobs["estimator"]] * 1000)


def test_an_estimator_fits_when_its_predicted_time_does(jobs: dict[str, Job]) -> None:
    assert within(11).allows([jobs["estimator"]])
    assert not within(9).allows([jobs["estimator"]])


def test_a_net_is_tried_in_half_its_predicted_time_for_it_may_stop_early(jobs: dict[str, Job]) -> None:
    assert within(5.5).allows([jobs["net"]])
    assert not within(4.5).allows([jobs["net"]])


def test_nets_together_take_half_the_time(jobs: dict[str, Job]) -> None:
    assert within(10.5).allows([jobs["net"]] * 4)
    assert not within(9.5).allows([jobs["net"]] * 4)


def test_a_slow_machine_makes_everything_longer(jobs: dict[str, Job]) -> None:
    assert not within(19, pace=2.0).allows([jobs["estimator"]])
    assert within(21, pace=2.0).allows([jobs["estimator"]])


def test_the_pace_follows_what_was_taken_but_small_learners_hardly_move_it() -> None:
    left = TimeLeft(Limits())
    left.took(0.1, 1.1)
    assert left.pace == pytest.approx(6.1 / 5.1)
    left.took(95.0, 190.0)
    assert left.pace == pytest.approx(196.1 / 100.1)
    left.took(None, 50.0)
    assert left.pace == pytest.approx(196.1 / 100.1)


def test_nothing_is_begun_after_the_deadline(jobs: dict[str, Job], tmp_path: Path) -> None:
    events: list[dict[str, object]] = []
    done = train_here(list(jobs.values()), tmp_path, events.append, Limits(deadline=time.time() - 1))
    assert {report.status for report in done} == {"skipped"}
    assert all("not enough time" in report.error and report.artifact is None for report in done)
    assert {event["event"] for event in events} == {"skipped"}
    again = train_here([jobs["estimator"]], tmp_path, events.append)
    assert [report.status for report in again] == ["trained"]
    late = train_here([jobs["estimator"]], tmp_path, events.append, Limits(deadline=time.time() - 1))
    assert [report.status for report in late] == ["reused"], "what is there costs no time"
