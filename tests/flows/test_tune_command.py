"""`polychoir tune` as a user runs it: a study that goes on, a best.yaml that train takes, an honest report."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from command import ROOT, answer, polychoir

from training_core.campaigns.run_config import RunConfig

RUN = """
dataset: {source}
preset: quick
learners: {{include: [linear, tabular_mlp]}}
bags: {{num_bags: 4}}
training: {{epochs: 4, lr: 0.0002}}
tabular_mlp: {{width: 16}}
tuning: {{learner: tabular_mlp, trials: 3, batch: 3, fields: [training.lr, training.weight_decay]}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    (folder / "run.yaml").write_text(RUN.format(source=source))
    return folder


def tune(place: Path, *arguments: str) -> dict[str, Any]:
    return answer(polychoir("tune", place / "run.yaml", "--store", place / "store", "--json", *arguments))


@pytest.fixture(scope="module")
def study(place: Path) -> dict[str, Any]:
    return tune(place)


def test_the_command_answers_with_one_object_and_leaves_its_files(study: dict[str, Any]) -> None:
    assert [trial["number"] for trial in study["trials"]] == [0, 1, 2]
    assert study["trials"][0]["enqueued"] == "default"
    assert study["trials"][0]["params"]["training.lr"] == 0.0002
    assert study["counts"]["running"] == study["counts"]["failed"] == 0
    folder = Path(study["folder"])
    assert {"journal.log", "study.json", "best.yaml", "report.html", "plots"} <= {p.name for p in folder.iterdir()}
    assert (folder / "report.html").read_text().startswith("<!doctype html>")
    assert (folder / "plots" / "history-loss.svg").exists()


def test_the_best_settings_are_a_run_that_train_takes(study: dict[str, Any]) -> None:
    best = study["trials"][study["best"]]
    run = RunConfig.load(Path(study["best_yaml"]))
    assert run.training.lr == best["params"]["training.lr"]
    assert run.training.weight_decay == best["params"]["training.weight_decay"]
    assert run.tabular_mlp.width == 16
    assert not run.tune


def test_the_same_command_goes_on_with_the_study_and_its_record(place: Path, study: dict[str, Any]) -> None:
    import mlflow

    more = tune(place, "--trials", "5")
    assert more["name"] == study["name"]
    assert [trial["number"] for trial in more["trials"]] == [0, 1, 2, 3, 4]
    assert more["trials"][:3] == study["trials"], "what is told stays as it was"
    tracked = json.loads((Path(more["folder"]) / "tracked.json").read_text())
    ((place_of_ids, noted),) = tracked["places"].items()
    client = mlflow.MlflowClient(place_of_ids)
    parent = client.get_run(noted["run_id"])
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["best/trial"] == more["best"]
    children = client.search_runs([parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{noted['run_id']}'")
    assert sorted(int(child.data.tags["polychoir.trial"]) for child in children) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--set", "tuning.space.training.learning_rate=[1e-4, 1e-2]"), "training.learning_rate"),
        (("--set", "tuning.learner=fusionnet"), "fusion_net"),
        (("--set", "tuning.trialz=3"), "did you mean 'trials'"),
    ],
)
def test_a_wrong_setting_is_one_line_and_exit_code_2(
    place: Path, study: dict[str, Any], arguments: tuple[str, ...], said: str
) -> None:
    result = polychoir("tune", "world", "--store", place / "store", *arguments)
    assert result.returncode == 2, result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert said in errors[0]
    assert "Traceback" not in result.stderr
    assert "starting Prefect" not in result.stderr, "found out at once"


def test_help_has_an_example() -> None:
    assert "polychoir tune RUN.yaml" in polychoir("tune", "--help").stdout


@pytest.mark.nightly
def test_what_the_test_rows_say_is_in_the_report_once_both_were_trained(place: Path, study: dict[str, Any]) -> None:
    before = (Path(study["folder"]) / "report.html").read_text()
    assert "looks better than it is" in before
    tuned = answer(polychoir("train", study["best_yaml"], "--store", place / "store", "--json"))
    default = answer(polychoir("train", place / "run.yaml", "--store", place / "store", "--json"))
    again = tune(place)
    text = (Path(again["folder"]) / "report.html").read_text()
    assert again["best"] == study["best"] != 0, "the settings of the run hardly learn anything"
    assert "Paired bootstrap" in text
    assert tuned["ensemble"] in text
    assert default["ensemble"] in text


@pytest.mark.slow
def test_a_run_that_says_so_is_tuned_before_it_is_trained(place: Path, study: dict[str, Any]) -> None:
    command = ("train", place / "run.yaml", "--set", "tune=true", "--store", place / "store", "--json")
    trained = answer(polychoir(*command))
    best = RunConfig.load(Path(study["best_yaml"]))
    settings = Path(trained["report"]).with_suffix(".settings.json")
    used = RunConfig.model_validate_json(settings.read_text())
    assert used.training.lr == best.training.lr
    assert not used.tune, "what was trained is to be trained again as it is"


@pytest.mark.nightly
@pytest.mark.slow
def test_a_killed_command_goes_on_to_the_exact_number_of_trials(place: Path, tmp_path: Path) -> None:
    arguments = ("tune", place / "run.yaml", "--store", tmp_path / "store", "--trials", "9", "--json")
    command = [sys.executable, "-m", "flows.cli", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 240
        while "trial 1 " not in (tmp_path / "output").read_text():
            assert process.poll() is None, (tmp_path / "output").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    found = answer(polychoir(*arguments))
    assert [trial["number"] for trial in found["trials"]] == list(range(9))
    assert found["counts"]["running"] == 0
