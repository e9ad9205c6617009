"""A run that is tuned first: the share of its budget that goes into the study, and the run that comes of it."""

import time
from pathlib import Path

import pytest
from invented_study import invented_study

from training_core.campaigns.clock import RunClock
from training_core.campaigns.run_config import RunConfig
from training_core.campaigns.tuning.tuned_run import tuned_run, tuning_deadline, within_budget
from training_core.errors import GateError


def test_a_study_gets_half_of_what_is_left_of_a_budget() -> None:
    run = RunConfig(dataset="shoes", tune=True)
    assert within_budget(run, RunClock.begin(None, "library")) == run
    seconds = within_budget(run, RunClock.begin(100.0, "library")).tuning.seconds
    assert seconds is not None
    assert 40 < seconds <= 50


def test_fewer_seconds_of_its_own_stand() -> None:
    run = RunConfig.load(dataset="shoes", tuning={"seconds": 5.0})
    assert within_budget(run, RunClock.begin(100.0, "library")).tuning.seconds == 5.0


def test_a_budget_that_is_used_up_still_allows_a_study_to_begin() -> None:
    run = within_budget(RunConfig(dataset="shoes"), RunClock.begin(10.0, "library", started=0.0))
    assert run.tuning.seconds == 1.0


def test_trials_under_way_are_ended_while_the_run_has_time_left() -> None:
    assert tuning_deadline(RunClock.begin(None, "library")) is None
    clock = RunClock.begin(100.0, "library", started=time.time() - 50)
    deadline, seconds = tuning_deadline(clock), within_budget(RunConfig(dataset="shoes"), clock).tuning.seconds
    assert deadline is not None and clock.deadline is not None and seconds is not None
    assert time.time() + seconds < deadline < clock.deadline - 15
    used_up = tuning_deadline(RunClock.begin(10.0, "library", started=0.0))
    assert used_up is not None and used_up <= time.time()


def test_without_a_trial_that_was_done_in_time_the_run_stands_as_it_is(tmp_path: Path) -> None:
    summary = invented_study(tmp_path)
    still_open = tuple(trial.model_copy(update={"state": "running", "values": None}) for trial in summary.trials)
    run = RunConfig(dataset="shoes", tune=True)
    found = tuned_run(run, summary.model_copy(update={"best": None, "trials": still_open}))
    assert found == run.model_copy(update={"tune": False})


def test_the_tuned_run_has_the_best_values_and_is_not_tuned_again(tmp_path: Path) -> None:
    run = RunConfig(dataset="shoes", tune=True)
    summary = invented_study(tmp_path)
    assert summary.best_trial is not None
    found = tuned_run(run, summary)
    assert found.training.lr == summary.best_trial.params["training.lr"]
    assert found.fusion_net.width == summary.best_trial.params["fusion_net.width"]
    assert not found.tune


def test_a_study_without_a_usable_trial_ends_the_run_with_the_reason(tmp_path: Path) -> None:
    summary = invented_study(tmp_path).model_copy(update={"best": None})
    with pytest.raises(GateError, match="the loss is not finite"):
        tuned_run(RunConfig(dataset="shoes"), summary)
