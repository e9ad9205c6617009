"""The benchmarks of tuning run, and what they write down hangs together; how good it is, only full runs say."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.slow
BENCHMARKS = Path(__file__).parents[4] / "benchmarks"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Sources of a classification that is split at random, and of a regression whose split is given."""
    draws = np.random.default_rng(0)
    found: list[Path] = []
    for name in ("classes", "numbers"):
        folder = tmp_path_factory.mktemp("sources") / name
        folder.mkdir()
        centres, codes = draws.normal(size=(3, 6)), np.arange(240) % 3
        views = {view: (centres[codes] + draws.normal(size=(240, 6))).astype(np.float32) for view in ("left", "right")}
        np.savez(folder / "views.npz", left=views["left"], right=views["right"])
        values = codes if name == "classes" else views["left"][:, 0] - 0.5 * views["right"][:, 1]
        parts = ["train"] * 170 + ["test"] * 70
        rows = [f"{value},{part}" for value, part in zip(values, parts, strict=True)]
        (folder / "rows.csv").write_text("target,part\n" + "\n".join(rows) + "\n")
        kind = "classification" if name == "classes" else "regression"
        split = "" if name == "classes" else "split: {file: rows.csv, column: part}\n"
        (folder / "source.yaml").write_text(
            f"name: {name}\ntask: {{kind: {kind}, target: {{file: rows.csv, column: target}}}}\n{split}modalities:\n"
            "  left: {kind: vector, file: views.npz, key: left}\n  right: {kind: vector, file: views.npz, key: right}\n"
        )
        found.append(folder / "source.yaml")
    return found[0], found[1]


def figures(folder: Path, benchmark: str, *arguments: object) -> dict[str, Any]:
    """Run a benchmark quickly on sources of ours alone; what it wrote."""
    out = folder / "figures.json"
    command = [sys.executable, BENCHMARKS / f"{benchmark}.py", "--quick", "--cases", "--out", out, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS.parent)}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(out.read_text())


def test_both_racers_begin_with_the_same_settings_on_the_same_rows(tmp_path: Path, sources: tuple[Path, Path]) -> None:
    for source in sources:
        found = figures(tmp_path, "tuning_race", "--source", source)["cases"][source.parent.name]
        (ours,), (bare,) = found["Polychoir"], found["Optuna, bare loop"]
        (_, first, epochs), (_, other, others_epochs) = ours["trials"][0], bare["trials"][0]
        assert epochs == others_epochs == 4
        assert 0.5 < first / other < 2, "only the order of rows and what dropout draws differ"
        assert all(after > 0 and trained <= 4 for after, _, trained in [*ours["trials"], *bare["trials"]])


def test_gains_on_test_rows_are_tested_over_splits_or_on_the_one_there_is(
    tmp_path: Path, sources: tuple[Path, Path]
) -> None:
    found = figures(tmp_path, "tuning_held_out", "--source", sources[0], "--source", sources[1])["cases"]
    assert set(found) == {"classes", "numbers"}
    for case in found.values():
        assert len(case["seeds"]) == 2
        for one in case["seeds"]:
            assert one["promised"] >= 0 and (not one["kept_default"] or one["promised"] == one["loss_gain"] == 0)
        for measure, gain in case["gains"].items():
            mean = np.mean([one[f"{measure}_gain"] for one in case["seeds"]])
            assert gain["mean"] == pytest.approx(mean) and gain["low"] <= mean <= gain["high"]
            assert 0 <= gain["p_value"] <= 1


def test_fronts_are_measured_in_units_of_the_default_and_a_limit_is_kept(
    tmp_path: Path, sources: tuple[Path, Path]
) -> None:
    found = figures(tmp_path, "tuning_front", "--second", "size_mb", "--source", sources[0])["cases"]["classes"]
    assert set(found["hypervolume"]) == {"random", "tpe", "nsga2"}
    for (area,) in found["hypervolume"].values():
        assert 1 <= area < 4, "the default is in every front"
    free, small = found["limited"]
    assert small["size_mb"] == pytest.approx(small["disk_mb"]) and small["size_mb"] <= small["limit_mb"]
    assert small["within"] < small["trials"], "the default itself is beyond half its size"
    assert free["within"] == free["trials"]


def test_a_warm_study_is_held_to_the_best_of_the_cold_one(tmp_path: Path, sources: tuple[Path, Path]) -> None:
    found = figures(tmp_path, "tuning_warm", "--source", sources[0], "--source", sources[1])["pairs"]
    assert set(found) == {
        f"{case} after {before}"
        for case in ("classes", "numbers")
        for before in ("the same rows", "classes", "numbers")
    }
    for (pair,) in found.values():
        assert 1 <= pair["cold"] <= 4 and 1 <= pair["warm"] <= 4
        assert pair["winners"] >= 1
        assert pair["reached"] or pair["warm_loss"] > pair["cold_loss"]
    for case in ("classes", "numbers"):  # whose winners are as good as they were
        assert found[f"{case} after the same rows"][0]["reached"]
