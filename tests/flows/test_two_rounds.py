"""Adaptive bags through the whole job: a first round of cheap learners, whose learners are members like any other."""

from pathlib import Path

import pytest
from command import SMALL, answer, polychoir


@pytest.mark.nightly
@pytest.mark.slow
def test_a_run_with_adaptive_bags_measures_first_and_trains_nothing_twice(tmp_path: Path, source: Path) -> None:
    adaptive = ("--set=bags.strategy=adaptive", "--set=bags.num_bags=9", "--set=learners.include=[linear]")
    command = ("train", source, *SMALL, *adaptive, "--set=seed=11", "--set=trackers=[]", "--store", tmp_path, "--json")
    first = answer(polychoir(*command))
    assert first["score"] >= 0.9
    assert first["learners"]["planned"] == 9
    assert first["learners"]["trained"] + first["learners"]["reused"] == 9
    assert first["learners"]["trained"] == 6, "those of single modalities were trained in the first round"
    measured = {row["name"] for row in first["leaderboard"]}
    assert {"bag-01/linear", "bag-02/linear", "bag-03/linear"} <= measured
    again = answer(polychoir(*command))
    assert again["learners"]["trained"] == 0
    assert again["predictions_sha256"] == first["predictions_sha256"]
