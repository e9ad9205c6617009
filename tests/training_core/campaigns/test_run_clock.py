"""When training has to end: arithmetic, and what is learned from earlier runs."""

import time
from pathlib import Path

import pytest

from training_core.campaigns.clock import Rehearsal, RunClock


@pytest.fixture(autouse=True)
def fresh_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "polychoir" / "closing.json"


def rehearsal(**changes: float) -> Rehearsal:
    values = {"num_learners": 4, "conclude_seconds": 1.0, "load_seconds": 0.5, "predict_seconds_per_row": 0.01}
    return Rehearsal.model_validate({**values, **changes})


def test_without_a_budget_there_is_no_deadline() -> None:
    clock = RunClock.begin(None, "flow")
    assert clock.deadline is None
    assert clock.training_deadline(10, 100) is None
    assert clock.left == float("inf")


def test_a_budget_counts_from_the_beginning_of_the_command() -> None:
    clock = RunClock.begin(100.0, "flow", started=time.time() - 30)
    assert clock.left == pytest.approx(70, abs=0.5)
    assert clock.deadline == clock.started + 100


def test_training_ends_early_enough_for_the_rest() -> None:
    clock = RunClock.begin(100.0, "library", started=0.0)
    deadline = clock.training_deadline(4, 0, rehearsal())
    assert deadline is not None
    assert deadline == pytest.approx(97.0 - clock.closing_seconds(4, 0, rehearsal()))
    assert clock.closing_seconds(4, 0, rehearsal()) == pytest.approx(clock.closing_seconds(4, 0) + 1.0 + 0.5)


def test_more_learners_more_rows_and_a_busy_machine_take_longer() -> None:
    clock = RunClock.begin(100.0, "flow", started=0.0)
    base = clock.closing_seconds(4, 100, rehearsal())
    assert clock.closing_seconds(8, 100, rehearsal()) > base
    assert clock.closing_seconds(4, 200, rehearsal()) == pytest.approx(base + 1.0)
    assert clock.closing_seconds(4, 100, rehearsal(slowdown=3.0)) > base


def test_training_always_gets_a_fair_share() -> None:
    clock = RunClock.begin(10.0, "flow", started=0.0)
    deadline = clock.training_deadline(1000, 10_000, rehearsal())
    assert deadline is not None
    assert deadline >= 3.0


def test_a_run_that_ended_late_makes_the_next_one_reckon_with_more(fresh_memory: Path) -> None:
    clock = RunClock.begin(100.0, "flow", started=0.0)
    before = clock.closing_seconds(10, 0)
    clock.remember_closing(before, 2 * before)
    assert clock.closing_seconds(10, 0) == pytest.approx(2 * before)
    clock.remember_closing(2 * before, 0.5 * before)
    assert 0.5 * before < clock.closing_seconds(10, 0) < 2 * before, "too little is worse than too much"
    assert RunClock.begin(100.0, "library").closing_seconds(10, 0) == pytest.approx(0.6 + 0.5), "each for itself"


def test_one_disastrous_run_does_not_spoil_all_others() -> None:
    clock = RunClock.begin(100.0, "flow")
    before = clock.closing_seconds(10, 0)
    clock.remember_closing(before, 1000 * before)
    assert clock.closing_seconds(10, 0) <= 4 * before


def test_a_damaged_memory_is_as_good_as_none(fresh_memory: Path) -> None:
    clock = RunClock.begin(100.0, "flow")
    before = clock.closing_seconds(10, 0)
    fresh_memory.parent.mkdir(parents=True)
    for text in ("{", "[1]", '{"flow": "fast"}'):
        fresh_memory.write_text(text)
        assert clock.closing_seconds(10, 0) == before
