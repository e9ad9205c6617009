"""Jobs that are given up while they train: alone, in a stack, after an interruption; and what is remembered of them."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from factories import write_source
from test_stacked_jobs import answers, copies_in, ignore, killed

from training_core.campaigns.bagging import require_quorum
from training_core.campaigns.run_config import RunConfig
from training_core.campaigns.summary import LearnerCounts
from training_core.engine.cohort import validation
from training_core.errors import GateError
from training_core.isolation import run_isolated
from training_core.jobs import Cohort, Event, Job, JobReport, finished_report, job_directory, read_curves, run_jobs
from training_core.learners import LinearConfig
from training_core.selection.leaderboard import leaderboard

NEVER_GOOD_ENOUGH = {2: -1.0}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("world"), num_rows=160)


def with_limits(job: Job, give_up: dict[int, float]) -> Job:
    return job.model_copy(update={"give_up": give_up})


def without_dropout(jobs: Sequence[Job]) -> list[Job]:
    found = []
    for job in jobs:
        learner = job.recipe.learner.model_copy(update={"dropout": 0.0})
        found.append(job.model_copy(update={"recipe": job.recipe.model_copy(update={"learner": learner})}))
    return found


def by_name(jobs: Sequence[Job], store: Path, events: list[Event] | None = None) -> dict[str, JobReport]:
    tell = ignore if events is None else events.append
    return {report.name: report for report in run_jobs(jobs, store, "cpu", tell)}


@pytest.mark.parametrize("stacking", ["always", "never"])
def test_a_job_is_given_up_and_nothing_of_it_is_published(tmp_path: Path, source: Path, stacking: str) -> None:
    jobs = copies_in(tmp_path, source, stacking=stacking)
    jobs[1] = with_limits(jobs[1], NEVER_GOOD_ENOUGH)
    events: list[Event] = []
    reports = by_name(jobs, tmp_path, events)
    assert [reports[job.name].status for job in jobs] == ["trained", "pruned", "trained"]
    pruned = reports[jobs[1].name]
    assert (pruned.artifact, pruned.score, pruned.epochs, len(pruned.validation_losses)) == (None, None, 2, 2)
    assert pruned.error.startswith("given up after epoch 2: its best validation loss, ")
    assert pruned.seconds > 0 and pruned.cpu_seconds > 0
    told = [event for event in events if event["job"] == jobs[1].name]
    assert [event["event"] for event in told] == ["started", "epoch", "epoch", "pruned"]
    assert told[-1]["why"] == pruned.error and told[-1]["epoch"] == 2
    assert not job_directory(jobs[1], tmp_path, "cpu").exists()
    assert not list((tmp_path / "checkpoints").iterdir())


@pytest.mark.parametrize("worth_remaking", [0.0, 1e30], ids=["taken out", "frozen"])
def test_the_others_of_a_stack_learn_what_they_would_have(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, worth_remaking: float
) -> None:
    monkeypatch.setattr(validation, "WORTH_REMAKING", worth_remaking)
    whole = by_name(without_dropout(copies_in(tmp_path / "whole", source)), tmp_path / "whole")
    jobs = without_dropout(copies_in(tmp_path, source))
    jobs[:2] = [with_limits(job, NEVER_GOOD_ENOUGH) for job in jobs[:2]]
    reports = by_name(jobs, tmp_path)
    assert [reports[job.name].status for job in jobs] == ["pruned", "pruned", "trained"]
    last = jobs[-1].name
    before, after = answers([whole[last]]), answers([reports[last]])
    assert all(np.allclose(before[name], after[name], atol=1e-4) for name in before)
    assert reports[last].epochs == whole[last].epochs
    for job in jobs[:2]:  # until then they were alike, too
        np.testing.assert_allclose(
            reports[job.name].validation_losses, whole[job.name].validation_losses[:2], rtol=1e-5
        )


def test_losses_are_the_best_so_far_and_as_much_as_the_limit_goes_on(tmp_path: Path, source: Path) -> None:
    (job, *_) = copies_in(tmp_path, source, lr=0.05, patience=12)
    report = by_name([job], tmp_path)[job.name]
    assert report.artifact is not None
    losses = [loss for _, loss in read_curves(report.artifact).curve("validation/loss")]
    assert list(report.validation_losses) == list(np.minimum.accumulate(losses))
    assert report.validation_losses[-1] < losses[-1], "or this says nothing of the best so far"
    epochs = range(1, len(losses) + 1)
    just_enough = with_limits(job, dict(zip(epochs, report.validation_losses, strict=True)))
    assert by_name([just_enough], tmp_path / "other")[job.name].status == "trained"


def test_limits_decide_how_long_to_train_and_not_what_a_job_is(tmp_path: Path, source: Path) -> None:
    (job, *_) = copies_in(tmp_path, source)
    hasty = with_limits(job, NEVER_GOOD_ENOUGH)
    assert hasty.fingerprint("cpu") == job.fingerprint("cpu")
    assert Job.model_validate_json(hasty.model_dump_json()) == hasty, "keys are numbers again"
    whole = by_name([job], tmp_path)[job.name]
    assert whole.status == "trained" and len(whole.validation_losses) > 2
    fresh = by_name([hasty], tmp_path / "fresh")[job.name]
    events: list[Event] = []
    known = by_name([hasty], tmp_path, events)[job.name]
    assert [event["event"] for event in events] == ["pruned"], "nothing is trained for it"
    unmeasured = {"seconds": 0.0, "cpu_seconds": 0.0}
    assert known.model_copy(update=unmeasured) == fresh.model_copy(update=unmeasured), "whatever else is in the store"
    assert 0 < known.cpu_seconds < whole.cpu_seconds
    assert by_name([job], tmp_path)[job.name].status == "reused", "and what was published stays"
    with pytest.raises(ValueError, match="finite"):
        Job.model_validate({**job.model_dump(), "give_up": {2: float("nan")}})


def test_what_is_known_of_a_job_given_up_is_enough_for_those_who_would_give_it_up(tmp_path: Path, source: Path) -> None:
    (job, *_) = copies_in(tmp_path, source)
    found = by_name([with_limits(job, {4: -1.0})], tmp_path)[job.name]
    events: list[Event] = []
    assert by_name([with_limits(job, {4: -1.0})], tmp_path, events)[job.name] == found
    assert [event["event"] for event in events] == ["pruned"]
    earlier = by_name([with_limits(job, {2: -1.0, 4: -2.0})], tmp_path)[job.name]
    assert earlier.validation_losses == found.validation_losses[:2]
    assert finished_report(with_limits(job, {5: -1.0}), tmp_path, "cpu") is None, "its fifth epoch is not known"
    later = by_name([with_limits(job, {5: -1.0})], tmp_path)[job.name]
    assert later.epochs == 5 and later.validation_losses[:4] == found.validation_losses
    path = next((tmp_path / "given-up").iterdir())
    path.write_text(path.read_text()[:40])  # torn
    assert by_name([with_limits(job, {4: -1.0})], tmp_path)[job.name].validation_losses == found.validation_losses
    assert by_name([job], tmp_path)[job.name].status == "trained"


def test_equal_jobs_are_given_up_only_when_all_would_be(tmp_path: Path, source: Path) -> None:
    (job, *_) = copies_in(tmp_path, source)
    twin = with_limits(job, NEVER_GOOD_ENOUGH).model_copy(update={"name": "twin"})
    both = by_name([with_limits(job, {2: -1.0, 3: -1.0}), with_limits(twin, {2: 1e9, 3: -1.0})], tmp_path / "both")
    assert {name: (report.status, report.epochs) for name, report in both.items()} == {
        job.name: ("pruned", 2), "twin": ("pruned", 3)
    }  # fmt: skip
    for place, pair in {"one": [twin, job], "other": [job, twin]}.items():
        reports = by_name(pair, tmp_path / place)
        assert (reports["twin"].status, reports[job.name].status) == ("pruned", "trained"), "in whatever order"


def test_what_ended_by_itself_after_an_epoch_is_not_given_up_after_it(tmp_path: Path, source: Path) -> None:
    (job, *_) = copies_in(tmp_path, source, lr=0.05, patience=1)
    whole = by_name([job], tmp_path)[job.name]
    assert whole.epochs < 12, "or it did not end by itself"
    at_its_end = with_limits(job, {whole.epochs: -1.0})
    assert by_name([at_its_end], tmp_path / "fresh")[job.name].status == "trained"
    assert by_name([at_its_end], tmp_path)[job.name].status == "reused"


def test_without_validation_rows_and_after_the_last_epoch_nothing_is_given_up(tmp_path: Path, source: Path) -> None:
    jobs = copies_in(tmp_path, source, validation_fraction=0.0, epochs=3)
    unseen = by_name([with_limits(jobs[0], NEVER_GOOD_ENOUGH)], tmp_path)[jobs[0].name]
    assert (unseen.status, unseen.epochs, unseen.validation_losses) == ("trained", 3, ())
    (last, *_) = copies_in(tmp_path, source, epochs=2)
    assert by_name([with_limits(last, NEVER_GOOD_ENOUGH)], tmp_path)[last.name].status == "trained"
    linear = last.model_copy(update={"recipe": last.recipe.model_copy(update={"learner": LinearConfig()})})
    assert by_name([with_limits(linear, {1: -1.0})], tmp_path)[last.name].status == "trained"


@pytest.mark.slow
@pytest.mark.parametrize("stacking", ["always", "never"])
def test_interrupted_its_best_loss_so_far_is_not_forgotten(tmp_path: Path, stacking: str) -> None:
    source = write_source(tmp_path / "world", num_rows=160, noise=2.0)
    often = {"checkpoint_seconds": 1e-6, "stacking": stacking, "lr": 0.1, "patience": 12, "epochs": 12}
    whole = by_name(copies_in(tmp_path / "whole", source, **often), tmp_path / "whole")
    killed(source, tmp_path / "k", "on_event = lambda event: event.get('epoch') == 4 and die()", **often)
    jobs = copies_in(tmp_path / "k", source, **often)
    limits = {
        job.name: {9: whole[job.name].validation_losses[8], 10: whole[job.name].validation_losses[9] - 1e-9}
        for job in jobs
    }
    assert any(len(set(whole[job.name].validation_losses[2:10])) == 1 for job in jobs), "the best of one was before"
    events: list[Event] = []
    reports = by_name([with_limits(job, limits[job.name]) for job in jobs], tmp_path / "k", events)
    assert next(event["epoch"] for event in events if event["event"] == "epoch") == 4
    for job in jobs:
        assert (reports[job.name].status, reports[job.name].epochs) == ("pruned", 10)
        assert reports[job.name].validation_losses == whole[job.name].validation_losses[:10]


@pytest.mark.slow
def test_a_group_in_a_process_of_its_own_tells_who_was_given_up(tmp_path: Path, source: Path) -> None:
    jobs = copies_in(tmp_path, source)
    jobs[0] = with_limits(jobs[0], NEVER_GOOD_ENOUGH)
    cohort, events = Cohort(name="cohort 1/1", jobs=tuple(jobs)), list[Event]()
    reports = run_isolated(cohort, tmp_path, events.append)
    assert [report.status for report in reports] == ["pruned", "trained", "trained"]
    assert [event["job"] for event in events if event["event"] == "pruned"] == [jobs[0].name]
    again = run_isolated(cohort, tmp_path, ignore)
    assert [report.status for report in again] == ["pruned", "reused", "reused"]
    assert again[0] == reports[0]


def test_those_given_up_count_neither_as_trained_nor_as_failed(tmp_path: Path, source: Path) -> None:
    jobs = copies_in(tmp_path, source)
    given_up = [with_limits(job, NEVER_GOOD_ENOUGH) for job in jobs]
    reports = tuple(run_jobs([*given_up[:2], jobs[2]], tmp_path, "cpu", ignore))
    counts = LearnerCounts.of(reports, kept=1)
    assert (counts.planned, counts.trained, counts.failed, counts.skipped, counts.pruned) == (3, 1, 0, 0, 2)
    strict = RunConfig.load(dataset=str(source), budget={"quorum": 1.0})
    require_quorum(reports, strict)
    assert [row.status for row in leaderboard(reports, {})] == ["trained"]
    with pytest.raises(GateError, match="all learners were given up"):
        require_quorum([report for report in reports if report.status == "pruned"], strict)


@pytest.mark.slow
@pytest.mark.parametrize("stacking", ["always", "never"])
def test_whoever_would_not_give_up_does_not_go_on_from_one_that_was(
    tmp_path: Path, source: Path, stacking: str
) -> None:
    often = {"checkpoint_seconds": 1e-6, "stacking": stacking, "patience": 12, "epochs": 8}
    give_up_and_die = """copies = copies_in
        def copies_in(*given, **training):
            first, second, *rest = copies(*given, **training)
            return [first, second.model_copy(update={"give_up": {2: -1.0}}), *rest]
        keep = run.keep_given_up
        run.keep_given_up = lambda *given: die()
        on_event = lambda event: event.get("epoch") == 5 and STACKED and die()"""
    killed(source, tmp_path / "k", give_up_and_die.replace("STACKED", str(stacking == "always")), **often)
    (note,) = (tmp_path / "k" / "checkpoints").glob("*/jobs.json")
    assert list(note.parent.glob("*/state.pt")), "there is something to go on from"
    jobs = copies_in(tmp_path / "k", source, **often)
    given_up, owners = with_limits(jobs[1], NEVER_GOOD_ENOUGH), json.loads(note.read_text())
    assert owners[job_directory(given_up, tmp_path / "k", "cpu").name] == {"2": -1.0}
    reports = by_name(jobs, tmp_path / "k")
    assert [(report.status, report.epochs) for report in reports.values() if report.name == jobs[1].name] == [
        ("trained", 8)
    ]
