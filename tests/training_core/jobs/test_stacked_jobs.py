"""Jobs whose learners train together: published as one, gone on with as one, and failing one by one."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import small_run, write_source

from training_core.campaigns import bagging
from training_core.isolation import run_isolated
from training_core.jobs import Cohort, Event, Job, JobReport, Limits, read_out_of_bag, run, run_jobs

ROOT = Path(__file__).parents[3]
COPIES = 3


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("world"), num_rows=160)


def copies_in(store: Path, source: Path, **training: object) -> list[Job]:
    """Three copies of one net on all modalities."""
    run = small_run(
        source,
        learners={"learners_per_bag": 1, "include": ("tabular_mlp",), "net_copies": COPIES},
        training={"epochs": 12, "patience": 3, "lr": 0.01, "stacking": "always", **training},
    )
    ref = bagging.resolve_dataset(run.dataset, store)
    return [job for job in bagging.plan_training(run, ref, bagging.bags_of(run, ref)).jobs if "bag-00" in job.name]


def ignore(event: Event) -> None:
    pass


def answers(reports: Sequence[JobReport]) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for report in reports:
        assert report.artifact is not None, report.error
        found |= {f"{report.name}/{key}": values for key, values in read_out_of_bag(report.artifact)[1].items()}
    return found


def assert_same_answers(one: Sequence[JobReport], other: Sequence[JobReport]) -> None:
    left, right = answers(one), answers(other)
    assert left.keys() == right.keys()
    assert all(np.array_equal(values, right[key]) for key, values in left.items())


def killed(source: Path, store: Path, where: str, **training: object) -> None:
    """Train the copies in a process that kills itself: `where` is run with the module `run` at hand."""
    code = f"""
        import os, sys
        sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}, {str(Path(__file__).parent)!r}]
        from pathlib import Path
        import training_core.jobs.run as run
        import training_core.engine.device as device
        device.use_one_thread()
        from test_stacked_jobs import copies_in
        def die(): os.kill(os.getpid(), 9)
        on_event = lambda event: None
        {where}
        jobs = copies_in(Path({str(store)!r}), Path({str(source)!r}), **{training!r})
        list(run.run_jobs(jobs, Path({str(store)!r}), "cpu", on_event))
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=environment, timeout=240, check=False)
    assert process.returncode == -signal.SIGKILL


def test_copies_of_a_net_train_together_and_each_has_its_own_directory(tmp_path: Path, source: Path) -> None:
    events: list[Event] = []
    jobs = copies_in(tmp_path, source)
    reports = list(run_jobs(jobs, tmp_path, "cpu", events.append))
    assert [report.status for report in reports] == ["trained"] * COPIES
    assert all(report.trained_as.startswith("stacked with 2 others") for report in reports)
    assert len({report.artifact.uri for report in reports if report.artifact}) == COPIES
    assert len({values.tobytes() for values in answers(reports).values()}) > COPIES
    assert all(report.seconds > 0 and report.cpu_seconds > 0 for report in reports)
    kinds = [event["event"] for event in events]
    assert kinds[:COPIES] == ["started"] * COPIES and kinds[-COPIES:] == ["finished"] * COPIES
    assert not list((tmp_path / "stacks").iterdir())
    assert not (tmp_path / "checkpoints").exists() or not list((tmp_path / "checkpoints").iterdir())
    events.clear()
    again = list(run_jobs(jobs, tmp_path, "cpu", events.append))
    assert [report.status for report in again] == ["reused"] * COPIES
    assert [event["event"] for event in events] == ["reused"] * COPIES


@pytest.mark.slow
def test_killed_while_a_stack_is_published_the_rest_is_found_and_nothing_trained_twice(
    tmp_path: Path, source: Path
) -> None:
    whole = list(run_jobs(copies_in(tmp_path / "whole", source), tmp_path / "whole", "cpu", ignore))
    die_after_one = "unpack = run.unpack; run.unpack = lambda *places: (unpack(*places) and die())"
    killed(source, tmp_path / "killed", die_after_one)
    assert len(list((tmp_path / "killed" / "jobs").glob("*/report.json"))) == 1
    events: list[Event] = []
    jobs = copies_in(tmp_path / "killed", source)
    reports = list(run_jobs(jobs, tmp_path / "killed", "cpu", events.append))
    assert {event["event"] for event in events} == {"reused"}
    assert not list((tmp_path / "killed" / "stacks").iterdir())
    assert_same_answers(whole, reports)


@pytest.mark.slow
def test_killed_in_the_middle_a_stack_goes_on_from_its_checkpoint(tmp_path: Path, source: Path) -> None:
    often = {"checkpoint_seconds": 1e-6}
    whole = list(run_jobs(copies_in(tmp_path / "whole", source), tmp_path / "whole", "cpu", ignore))
    killed(source, tmp_path / "k", "on_event = lambda event: event.get('epoch') == 3 and die()", **often)
    assert list((tmp_path / "k" / "checkpoints").iterdir())
    events: list[Event] = []
    reports = list(run_jobs(copies_in(tmp_path / "k", source, **often), tmp_path / "k", "cpu", events.append))
    assert min(event["epoch"] for event in events if event["event"] == "epoch") == 3
    assert not list((tmp_path / "k" / "checkpoints").iterdir())
    assert_same_answers(whole, reports)


def test_a_diverging_member_costs_itself_only(tmp_path: Path, source: Path) -> None:
    jobs = copies_in(tmp_path, source)
    training = jobs[1].recipe.training.model_copy(update={"lr": 1e30, "clip_norm": 0.0})
    jobs[1] = jobs[1].model_copy(update={"recipe": jobs[1].recipe.model_copy(update={"training": training})})
    events: list[Event] = []
    reports = {report.name: report for report in run_jobs(jobs, tmp_path, "cpu", events.append)}
    assert [reports[job.name].status for job in jobs] == ["trained", "failed", "trained"]
    assert reports[jobs[1].name].error.startswith("DivergenceError: tabular_mlp on ")
    assert [event["job"] for event in events if event["event"] == "failed"] == [jobs[1].name]


def test_a_member_that_cannot_be_judged_costs_itself_only(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, heard = copies_in(tmp_path, source), run.hear
    calls: list[int] = []

    def hear(*given: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise OSError(errno.EIO, "the disk is broken here")
        return heard(*given)

    monkeypatch.setattr(run, "hear", hear)
    reports = {report.name: report for report in run_jobs(jobs, tmp_path, "cpu", ignore)}
    assert [reports[job.name].status for job in jobs] == ["trained", "failed", "trained"]
    assert not list((tmp_path / "stacks").iterdir())


def test_checkpoints_of_learners_that_were_published_since_are_removed(tmp_path: Path, source: Path) -> None:
    jobs = copies_in(tmp_path, source)
    reports = run_jobs(jobs, tmp_path, "cpu", ignore)
    assert isinstance(reports, Generator)
    next(reports)
    reports.close()  # as if killed: everything is published, the checkpoints are still there
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1
    assert [report.status for report in run_jobs(jobs, tmp_path, "cpu", ignore)] == ["reused"] * COPIES
    assert not list((tmp_path / "checkpoints").iterdir())


def test_equal_jobs_under_two_names_are_trained_once(tmp_path: Path, source: Path) -> None:
    jobs = copies_in(tmp_path, source)
    twin = jobs[0].model_copy(update={"name": "twin"})
    reports = {report.name: report for report in run_jobs([*jobs, twin], tmp_path, "cpu", ignore)}
    assert reports["twin"].status == "reused"
    assert reports["twin"].artifact == reports[jobs[0].name].artifact


@pytest.mark.slow
def test_a_stack_over_its_members_limits_is_ended_and_all_of_it_has_failed(tmp_path: Path, source: Path) -> None:
    jobs = copies_in(tmp_path, source, epochs=1_000_000, patience=1_000_000)
    cohort = Cohort(name="cohort 1/1", jobs=tuple(jobs))
    events: list[Event] = []
    reports = run_isolated(cohort, tmp_path, events.append, Limits(learner_seconds=3.0))
    assert [report.error for report in reports] == ["took longer than its limit of 3 s"] * COPIES
    assert sum(event["event"] == "started" for event in events) == COPIES
