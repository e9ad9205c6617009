"""A run with a budget, and one that is asked to end: as users see them."""

import signal
import subprocess
import time
from pathlib import Path

import pytest
from command import SMALL, answer, polychoir
from ended import wait_until_gone
from test_kills import children, start


def wait_for(process: "subprocess.Popen[str]", moment: str) -> None:
    assert process.stdout
    for line in process.stdout:
        if moment in line:
            return
    pytest.fail(f"'{moment}' never came")


@pytest.mark.slow
def test_sigterm_ends_a_run_with_a_line_and_no_process_is_left(source: Path, tmp_path: Path) -> None:
    endless = ("--set=training.epochs=100000", "--set=training.patience=100000")
    process = start(source, tmp_path / "store", *endless)
    wait_for(process, "1/6")
    until = time.monotonic() + 60
    while not (learners := children(process)):
        assert time.monotonic() < until, "nobody trains"
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 143
    wait_until_gone(*(learner.pid for learner in learners))


@pytest.mark.nightly
@pytest.mark.slow
def test_a_run_with_a_budget_ends_with_an_ensemble_and_says_what_it_used(source: Path, tmp_path: Path) -> None:
    endless = ("--set=training.epochs=100000", "--set=training.patience=100000", "--set=bags.num_bags=12")
    begun = time.monotonic()
    summary = answer(polychoir("train", source, *SMALL, *endless, "--budget", "150", "--store", tmp_path, "--json"))
    took = time.monotonic() - begun
    assert took < 1.05 * 150
    assert summary["score"] > 0.8
    assert summary["learners"]["trained"] >= 4, "one for all modalities, one for each"
    assert summary["learners"]["skipped"] > 0, "those that would never end"
    assert summary["learners"]["failed"] == 0
    use = summary["budget"]
    assert 0 < use["usable_seconds"] < use["used_seconds"] <= took
    assert all(row["score"] > 0.4 for row in summary["patterns"]), "an answer under every pattern"
