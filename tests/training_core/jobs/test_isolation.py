"""Groups of jobs in child processes: reuse, crashes, limits, two parents at once, a full disk."""

import json
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
from ended import wait_until_gone
from factories import small_run, write_source

from training_core import isolation
from training_core.campaigns import bagging
from training_core.campaigns.bagging import Plan
from training_core.errors import ConfigError, GateError, StorageError, TransientError
from training_core.evaluation.analytics import LearnerTraining
from training_core.evaluation.diagnostics import diagnose
from training_core.evaluation.evidence import RunEvidence
from training_core.isolation import collect_reports, run_isolated
from training_core.jobs import Event, Limits, read_curves, read_out_of_bag

ROOT = Path(__file__).parents[3]
ENDLESS = {"epochs": 100_000, "patience": 100_000, "patience_steps": 1_000_000_000}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("world"), num_rows=160)


def plan_in(store: Path, source: Path, **changes: object) -> Plan:
    """A plan of one group, so that its order of jobs is known."""
    run = small_run(source, **{"budget": {"group_size": 6, "workers": 1}, **changes})
    ref = bagging.resolve_dataset(run.dataset, store)
    return bagging.plan_training(run, ref, bagging.bags_of(run, ref))


def ignore(event: Event) -> None:
    pass


def test_a_group_is_trained_once_and_then_found(tmp_path: Path, source: Path) -> None:
    (cohort,) = plan_in(tmp_path, source).cohorts
    events: list[Event] = []
    first = run_isolated(cohort, tmp_path, events.append)
    assert [report.status for report in first] == ["trained"] * 6
    assert {e["job"] for e in events if e["event"] == "finished"} == {job.name for job in cohort.jobs}
    assert any(e["event"] == "epoch" and "validation/loss" in e for e in events)
    events.clear()
    again = run_isolated(cohort, tmp_path, events.append)
    assert [report.status for report in again] == ["reused"] * 6
    assert {e["event"] for e in events} == {"reused"}
    assert [r.artifact for r in again] == [r.artifact for r in first]


def test_a_learner_leaves_out_of_bag_predictions_curves_and_figures(tmp_path: Path, source: Path) -> None:
    (cohort,) = plan_in(tmp_path, source).cohorts
    for report in run_isolated(cohort, tmp_path, ignore):
        assert report.artifact is not None
        rows, predictions = read_out_of_bag(report.artifact)
        dataset = bagging.open_dataset(cohort.jobs[0].dataset)
        assert set(rows) <= set(dataset.rows("train"))
        assert "+".join(report.modalities) in predictions
        assert all(values.shape == (len(rows), 3) for values in predictions.values())
        assert report.score is not None and report.score > 0.4
        assert report.seconds > 0 and report.size_bytes > 0 and report.peak_bytes > 10_000_000
        assert len(read_curves(report.artifact).epochs) == report.epochs
    tolerant = [r for r in collect_reports(cohort, tmp_path, "") if r.learner == "tabular_mlp"]
    assert tolerant, "the plan has a net"


def test_a_killed_child_costs_its_unfinished_jobs_only(tmp_path: Path, source: Path) -> None:
    (cohort,) = plan_in(tmp_path, source).cohorts
    started: list[str] = []

    def kill_at_the_third(event: Event) -> None:
        if event["event"] == "started":
            started.append(event["job"])
            if len(started) == 3:
                for child in list(isolation._LIVE):
                    child.kill()

    with pytest.raises(TransientError, match="was killed by SIGKILL"):
        run_isolated(cohort, tmp_path, kill_at_the_third)
    kept = [r for r in collect_reports(cohort, tmp_path, "killed") if r.status == "reused"]
    assert len(kept) in (2, 3), "the third may be published while it is killed"
    assert all(r.error == "killed" for r in collect_reports(cohort, tmp_path, "killed") if r.status == "failed")
    assert not list((tmp_path / "jobs").glob(".unfinished-*"))
    events: list[Event] = []
    reports = run_isolated(cohort, tmp_path, events.append)
    assert sum(event["event"] == "started" for event in events) == 6 - len(kept)
    expected = ["reused"] * len(kept) + ["trained"] * (6 - len(kept))
    assert sorted(report.status for report in reports) == expected


def test_a_job_over_its_limit_is_ended_and_the_others_go_on(tmp_path: Path, source: Path) -> None:
    changes = {"training": ENDLESS}
    (cohort,) = plan_in(tmp_path, source, **changes).cohorts
    mlp = next(job for job in cohort.jobs if job.recipe.learner.kind == "tabular_mlp")
    quick = next(job for job in cohort.jobs if job.recipe.learner.kind == "linear")
    pair = cohort.model_copy(update={"jobs": (mlp, quick)})
    reports = run_isolated(pair, tmp_path, ignore, Limits(learner_seconds=6.0))
    assert [report.status for report in reports] == ["failed", "trained"]
    assert reports[0].error == "took longer than its limit of 6 s"


@pytest.mark.slow
def test_a_group_ends_at_its_deadline_and_keeps_what_it_published(tmp_path: Path, source: Path) -> None:
    (cohort,) = plan_in(tmp_path, source, training=ENDLESS).cohorts
    quick = next(job for job in cohort.jobs if job.recipe.learner.kind == "linear")
    endless = next(job for job in cohort.jobs if job.recipe.learner.kind == "tabular_mlp")
    hopeful = endless.model_copy(update={"predicted_seconds": 1.0})
    after = hopeful.model_copy(update={"name": "after", "seed": 7})
    pair = cohort.model_copy(update={"jobs": (quick, hopeful, after)})
    events: list[Event] = []
    deadline = time.time() + 40

    def end_soon(event: Event) -> None:
        events.append(event)

    reports = run_isolated(pair, tmp_path, end_soon, Limits(deadline=deadline))
    assert time.time() - deadline < 2.0
    assert [report.status for report in reports] == ["trained", "skipped", "skipped"]
    assert "the time was over" in reports[1].error
    assert {e["job"] for e in events if e["event"] == "skipped"} == {hopeful.name, "after"}


def test_a_group_whose_time_is_over_starts_no_process(tmp_path: Path, source: Path) -> None:
    (cohort,) = plan_in(tmp_path, source).cohorts
    begun = time.monotonic()
    reports = run_isolated(cohort, tmp_path, ignore, Limits(deadline=time.time() + 1.0))
    assert {report.status for report in reports} == {"skipped"}
    assert time.monotonic() - begun < 5
    assert not (tmp_path / "jobs").exists() or not list((tmp_path / "jobs").glob("*/report.json"))


def test_a_learner_beyond_its_memory_is_given_up(tmp_path: Path, source: Path) -> None:
    changes = {"training": ENDLESS}
    (cohort,) = plan_in(tmp_path, source, **changes).cohorts
    endless = next(job for job in cohort.jobs if job.recipe.learner.kind == "tabular_mlp")
    one = cohort.model_copy(update={"jobs": (endless,)})
    (report,) = run_isolated(one, tmp_path, ignore, Limits(memory_bytes=50e6))
    assert report.status == "failed"
    assert "of memory, its process may have 50.0 MB" in report.error
    lost = LearnerTraining(name="a", learner="x", modalities=("m",), status="failed", error=report.error)
    assert [found.problem for found in diagnose(RunEvidence(trainings=(lost,)))] == ["memory"]


@pytest.mark.parametrize(
    "last_words",
    [
        'os.write(1, b\'{"event": "epoch", "job": "half\')',
        'os.write(2, b"caf\\xe9")',
    ],
)
def test_what_a_killed_child_said_last_may_be_cut_off_or_not_be_text(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, last_words: str
) -> None:
    (cohort,) = plan_in(tmp_path, source).cohorts
    child = f"import os, signal, sys; sys.stdin.read(); {last_words}; os.kill(os.getpid(), signal.SIGKILL)"
    monkeypatch.setattr(isolation, "_COMMAND", (sys.executable, "-c", child))
    monkeypatch.setattr(isolation, "_forks", lambda device: False)
    with pytest.raises(TransientError, match="was killed by SIGKILL"):
        run_isolated(cohort, tmp_path, ignore)


def test_a_group_works_in_its_callers_directory(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the process it was forked from began in another one."""
    monkeypatch.setattr(isolation, "device_kind", lambda: "cpu")  # on a GPU nothing is forked
    isolation.warm_up()
    monkeypatch.chdir(tmp_path)
    (cohort,) = plan_in(tmp_path, source).cohorts
    seen: list[tuple[str, bool]] = []

    def look(event: Event) -> None:
        if event["event"] == "started" and not seen:
            (child,) = isolation._LIVE
            seen.append((str(psutil.Process(child.pid).cwd()), child.pid in _children_of_the_nursery()))

    one = cohort.model_copy(update={"jobs": cohort.jobs[:1]})
    (report,) = run_isolated(one, Path("store"), look)
    assert report.status == "trained" and list((tmp_path / "store" / "jobs").glob("*/report.json"))
    assert seen == [(str(tmp_path), True)]


def test_a_child_on_a_leased_gpu_sees_that_one_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    found = isolation._environment("cuda:3")
    assert (found["CUDA_VISIBLE_DEVICES"], found["CUDA_DEVICE_ORDER"]) == ("3", "PCI_BUS_ID")
    assert isolation._environment("cpu")["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert found["OMP_NUM_THREADS"] == found["MKL_NUM_THREADS"] == "1"


def _children_of_the_nursery() -> list[int]:
    assert isolation._NURSERY._process
    return [child.pid for child in psutil.Process(isolation._NURSERY._process.pid).children()]


def test_when_what_loaded_the_libraries_is_killed_the_group_is_begun_again(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "device_kind", lambda: "cpu")  # on a GPU nothing is forked
    (cohort,) = plan_in(tmp_path, source).cohorts

    def kill_it(event: Event) -> None:
        if event["event"] == "started":
            assert isolation._NURSERY._process
            isolation._NURSERY._process.kill()

    with pytest.raises(TransientError, match="was killed by SIGKILL"):
        run_isolated(cohort, tmp_path, kill_it)
    assert {report.status for report in run_isolated(cohort, tmp_path, ignore)} <= {"trained", "reused"}


def test_a_diverging_learner_is_reported_and_the_rest_is_used(tmp_path: Path, source: Path) -> None:
    plan = plan_in(tmp_path, source, training={"epochs": 3, "lr": 1e30, "optimizer": "sgd", "clip_norm": 0})
    (cohort,) = plan.cohorts
    reports = run_isolated(cohort, tmp_path, ignore)
    failed = [report for report in reports if report.status == "failed"]
    assert failed and all(report.learner == "tabular_mlp" for report in failed)
    assert all("DivergenceError" in report.error for report in failed)
    run = small_run(source, budget={"quorum": 0.2})
    ensemble = bagging.conclude_run(run, cohort.jobs[0].dataset, reports, tmp_path)
    assert (ensemble.path / "ensemble.json").exists()
    with pytest.raises(GateError, match=r"only \d of 6 learners trained, the quorum is 100%"):
        bagging.conclude_run(small_run(source, budget={"quorum": 1.0}), cohort.jobs[0].dataset, reports, tmp_path)


def start_fit(source: Path, store: Path, limit_bytes: int | None = None) -> subprocess.Popen[str]:
    """A process that trains through the library and prints each event as a line."""
    code = f"""
        import json, resource, sys
        sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
        from factories import small_run
        import training_core as pc
        run = small_run({str(source)!r}, budget={{"group_size": 6, "workers": 1}})
        pc.open_dataset  # imported before the limit below
        from training_core.campaigns import bagging; from pathlib import Path
        bagging.resolve_dataset(run.dataset, Path({str(store)!r}))
        limit = {limit_bytes}
        if limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            pc.fit_ensemble(run, {str(store)!r}, lambda event: print(json.dumps(event), flush=True))
        except Exception as error:
            print(json.dumps({{"event": "raised", "type": type(error).__name__, "message": str(error)}}), flush=True)
    """
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)


def lines(process: subprocess.Popen[str]) -> list[Event]:
    return [json.loads(line) for line in process.communicate(timeout=240)[0].splitlines()]


def test_children_die_with_their_parent(tmp_path: Path, source: Path) -> None:
    parent = start_fit(source, tmp_path)
    assert parent.stdout
    while json.loads(parent.stdout.readline())["event"] != "started":
        pass
    children = psutil.Process(parent.pid).children(recursive=True)
    assert children
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_until_gone(*(child.pid for child in children))


@pytest.mark.slow
def test_two_processes_at_once_train_every_job_once(tmp_path: Path, source: Path) -> None:
    events = [lines(process) for process in [start_fit(source, tmp_path) for _ in range(2)]]
    finished = [e["job"] for process in events for e in process if e["event"] == "finished"]
    assert sorted(finished) == sorted(set(finished))
    assert len(finished) == 6
    assert not [e for process in events for e in process if e["event"] == "raised"]


def test_a_full_disk_ends_the_run_with_one_clear_error(tmp_path: Path, source: Path) -> None:
    events = lines(start_fit(source, tmp_path, limit_bytes=600))
    assert events[-1]["event"] == "raised"
    assert events[-1]["type"] == StorageError.__name__
    assert "no space left" in events[-1]["message"]
    assert not list((tmp_path / "jobs").glob("*/report.json"))


def test_a_subsample_that_leaves_no_rows_to_judge_on_is_refused_at_once(tmp_path: Path, source: Path) -> None:
    with pytest.raises(ConfigError, match="row_fraction 1 leaves no rows to judge learners on"):
        plan_in(tmp_path, source, bags={"num_bags": 6, "row_fraction": 1.0})


@pytest.mark.slow
def test_a_damaged_report_means_the_learner_is_trained_again(tmp_path: Path, source: Path) -> None:
    (cohort,) = plan_in(tmp_path, source).cohorts
    one = cohort.model_copy(update={"jobs": cohort.jobs[:1]})
    (report,) = run_isolated(one, tmp_path, ignore)
    assert report.artifact is not None
    (report.artifact.path / "report.json").write_text('{"name": "half')
    (again,) = run_isolated(one, tmp_path, ignore)
    assert again.status == "trained"
    assert again.score == report.score


def test_estimators_do_not_depend_on_the_settings_of_nets(tmp_path: Path, source: Path) -> None:
    jobs = plan_in(tmp_path, source).jobs
    other = plan_in(tmp_path, source, training={"epochs": 7}).jobs
    same = {job.name: job.fingerprint("cpu") == twin.fingerprint("cpu") for job, twin in zip(jobs, other, strict=True)}
    assert same == {job.name: job.recipe.learner.kind == "linear" for job in jobs}


def test_a_job_is_named_by_what_its_result_depends_on(tmp_path: Path, source: Path) -> None:
    job = plan_in(tmp_path, source).jobs[0]
    same = job.model_copy(update={"name": "other", "reason": "because"})
    assert same.fingerprint("cpu") == job.fingerprint("cpu")
    assert job.fingerprint("cuda:1") == job.fingerprint("cuda:0") != job.fingerprint("cpu")
    assert job.model_copy(update={"seed": job.seed + 1}).fingerprint("cpu") != job.fingerprint("cpu")
    often = job.recipe.training.model_copy(update={"checkpoint_seconds": 1.0})
    safer = job.model_copy(update={"recipe": job.recipe.model_copy(update={"training": often})})
    assert safer.fingerprint("cpu") == job.fingerprint("cpu")
    training = job.recipe.training.model_copy(update={"epochs": 5})
    other = job.model_copy(update={"recipe": job.recipe.model_copy(update={"training": training})})
    assert other.fingerprint("cpu") != job.fingerprint("cpu")
