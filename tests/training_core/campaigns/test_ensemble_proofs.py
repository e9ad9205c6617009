"""What ensembles promise, through the whole pipeline: nothing is read out of noise, copies of rows give nothing away,
and a mixture is no worse than the best of those it is made of.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import training_core as pc
from training_core.data.synthetic import SyntheticConfig, SyntheticModality, make_synthetic
from training_core.evaluation.calibration import correctness, expected_calibration_error, expected_error_if_calibrated

ROOT = Path(__file__).parents[3]
SMALL: dict[str, Any] = {
    "preset": "tiny",
    "bags": {"num_bags": 4, "num_row_draws": 1},
    "learners": {"learners_per_bag": 1, "include": ("linear", "extra_trees"), "strategy": "speed"},
    "extra_trees": {"num_trees": 40},
    "processes": False,
}


def fit(arrays: dict[str, np.ndarray], target: np.ndarray, store: Path, **given: Any) -> pc.FittedEnsemble:
    return pc.fit_ensemble(arrays, store, target=target, **{**SMALL, **given})


def test_labels_that_mean_nothing_are_guessed_as_often_as_by_chance_and_without_confidence(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    codes = np.arange(900) % 3
    centres = draws.normal(size=(3, 5))
    arrays = {name: (centres[codes] + draws.normal(size=(900, 5))).astype(np.float32) for name in ("left", "right")}
    permuted = draws.permutation(codes)
    split = np.where(np.arange(900) < 400, "train", "test")
    meant = fit(arrays, codes, tmp_path / "meant", split=split)
    nothing = fit(arrays, permuted, tmp_path / "nothing", split=split)
    test = {name: values[400:] for name, values in arrays.items()}
    assert np.mean(np.asarray(meant.predict(test)) == codes[400:]) > 0.7, "the same views do tell the classes"
    chance, error = 1 / 3, float(np.sqrt(2 / 9 / 500))
    for shown in (("left", "right"), ("left",), ("right",)):
        said = nothing.predict(test, available=shown)
        assert abs(np.mean(said.labels == permuted[400:]) - chance) <= 2 * error + 0.01
        assert said.confidence.mean() < chance + 0.1
    best = nothing.leaderboard()["score"].max()
    assert best < chance + 3 * np.sqrt(2 / 9 / 80), "nor do rows outside the bags show skill"


@pytest.mark.parametrize("given", [True, False], ids=["group given", "group not given"])
def test_copies_of_a_row_give_nothing_away_when_their_group_is_given(tmp_path: Path, given: bool) -> None:
    draws = np.random.default_rng(1)
    origin = np.repeat(np.arange(150), 4)
    target = draws.integers(0, 2, 150)[origin]
    left = (draws.normal(size=(150, 6))[origin] + 0.02 * draws.normal(size=(600, 6))).astype(np.float32)
    right = (draws.normal(size=(150, 6))[origin] + 0.02 * draws.normal(size=(600, 6))).astype(np.float32)
    learners = {"learners_per_bag": 1, "include": ("extra_trees",)}
    groups = origin if given else None
    fitted = fit(
        {"left": left, "right": right}, target, tmp_path, groups=groups, split={"test": 0.3}, learners=learners
    )
    judgement = fitted.summary().judgement
    assert judgement is not None
    out_of_bag = fitted.leaderboard()["score"].max()
    error = float(np.sqrt(0.25 / 45))  # a group is one draw: 45 of the 150 are tested on
    if given:
        assert abs(judgement.score - 0.5) <= 2 * error
        assert out_of_bag <= 0.5 + 3 * np.sqrt(0.25 / 20)
        assert judgement.confidence < 0.6
    else:
        assert judgement.score > 0.9, "without it the copies of a row tell its label"
        assert out_of_bag > 0.9


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[pc.FittedEnsemble, Any, np.ndarray]:
    """An ensemble of four classes told by two views, beside one of noise, and 2,000 rows it has not seen."""
    place = tmp_path_factory.mktemp("planted")
    modalities = (
        SyntheticModality(name="left", strength=1.6, size=12),
        SyntheticModality(name="right", strength=1.6, size=12),
        SyntheticModality(name="hum", role="noise", size=12),
    )
    world = make_synthetic(SyntheticConfig(name="planted", num_rows=3500, num_outputs=4, modalities=modalities, seed=2))
    fitted = pc.fit_ensemble(str(world.write(place / "world")), place, **SMALL)
    dataset = pc.open_dataset("planted", place)
    samples = dataset.samples(dataset.rows("test"))
    assert samples.target is not None
    return fitted, samples, samples.target


def test_noise_weighs_nothing(planted: tuple[pc.FittedEnsemble, Any, np.ndarray]) -> None:
    shares = planted[0].modality_weights()
    assert shares["hum"] < 0.02
    assert min(shares["left"], shares["right"]) > 0.2


def test_confidence_is_true_under_every_pattern_and_falls_with_what_is_known(
    planted: tuple[pc.FittedEnsemble, Any, np.ndarray],
) -> None:
    fitted, samples, target = planted
    sure = {}
    for shown in (("left", "right", "hum"), ("left", "right"), ("left", "hum"), ("right",), ("left",), ("hum",)):
        said = fitted.predict(samples, available=shown)
        right = correctness(fitted.task, target, said.values)
        error = expected_calibration_error(said.confidence, right)
        assert error <= max(0.03, expected_error_if_calibrated(said.confidence) + 0.02), shown
        sure[shown] = said.confidence.mean()
    assert sure["left", "right", "hum"] > sure["left",] + 0.05
    assert sure["left", "right"] > sure["right",] + 0.05
    assert min(sure["left",], sure["right",]) > sure["hum",] + 0.1


@pytest.mark.slow
def test_mixtures_are_no_worse_than_the_best_of_their_learners(tmp_path: Path) -> None:
    prove(tmp_path, "--parts", "singles", "--cases", "wine", "cancer", "diabetes", "--seeds", "2")


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_bundled_case_holds_what_is_promised(tmp_path: Path) -> None:
    prove(tmp_path, "--parts", "singles", "noise", "chance", "copies", "--seeds", "2")


def prove(folder: Path, *arguments: str) -> None:
    """Run the benchmark of what is promised; it ends with 1 where something does not hold."""
    command = [sys.executable, str(ROOT / "benchmarks" / "proofs.py"), *arguments, "--store", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "hold" in done.stdout
