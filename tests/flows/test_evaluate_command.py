import json
from pathlib import Path

import pytest
from command import answer, polychoir
from factories import small_run

from training_core.campaigns.library import fit_ensemble

QUICK = ("--preset=quick", "--set=learners.include=[linear]", "--set=budget.group_size=6")
BRIEFLY = ("--rates", "0,0.5", "--set", "num_resamples=200")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of its own: other tests count the models and runs of the one they share."""
    return tmp_path_factory.mktemp("evaluated") / "store"


@pytest.fixture(scope="module")
def model(store: Path, source: Path) -> str:
    """The folder of an ensemble: training it here, without a flow, takes a tenth of the time."""
    run = small_run(source, learners={"learners_per_bag": 1, "include": ("linear",)})
    return str(fit_ensemble(run, store, processes=False).folder)


@pytest.fixture(scope="module")
def found(store: Path, model: str, tmp_path_factory: pytest.TempPathFactory) -> dict:
    out = tmp_path_factory.mktemp("out") / "report"
    return answer(polychoir("evaluate", model, "world", *BRIEFLY, "--out", out, "--store", store, "--json"))


def test_the_command_answers_with_one_object_and_writes_the_report(found: dict, model: str):
    assert found["model"] == model
    assert found["metric"] == "accuracy"
    assert 0.5 < found["score"] <= 1
    assert [point["rate"] for point in found["curves"][0]["points"]] == [0.0, 0.5]
    folder = Path(found["folder"])
    assert json.loads((folder / "evaluation.json").read_text())["score"] == found["score"]
    assert (folder / "evaluation.html").read_text().startswith("<!doctype html>")


def test_the_evaluation_is_tracked_with_its_files(found: dict, store: Path):
    import mlflow

    client = mlflow.MlflowClient(found["tracking"])
    run = client.get_run(found["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["test/accuracy"] == pytest.approx(found["score"])
    assert found["cost"]["run_id"] is None, "no run of this store trained it"
    assert {"evaluation.html", "evaluation.json"} <= {item.path for item in client.list_artifacts(found["run_id"])}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--rates", "0,often"), "--rates is '0,often'"),
        (("--rates", "1.5"), "rates.0"),
        (("--rows", "train"), "rows"),
        (("--set", "repeets=3"), "did you mean 'repeats'"),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_code_2(store: Path, arguments: tuple[str, ...], said: str):
    result = polychoir("evaluate", "world", "world", "--store", store, *arguments)
    assert result.returncode == 2
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.nightly
@pytest.mark.slow
def test_oracles_are_trained_by_the_settings_of_the_run_and_what_it_took_is_known(source: Path, tmp_path: Path):
    import mlflow

    few = "--set=modalities=[left, facts]"
    trained = answer(polychoir("train", source, "--store", tmp_path, "--json", *QUICK, few))
    given = (*BRIEFLY, "--oracle", "--store", tmp_path, "--json")
    found = answer(polychoir("evaluate", trained["model"], "world", *given))
    assert found["model"] == trained["model"]
    assert found["cost"]["run_id"] == trained["run_id"]
    assert found["cost"]["cpu_seconds"] > 0
    assert found["failures"] == {}
    tags = mlflow.MlflowClient(found["tracking"]).get_run(found["run_id"]).data.tags
    assert tags["polychoir.training_run"] == trained["run_id"]
    oracles = {tuple(one["ensemble"]["available"]): one["oracle"] for one in found["patterns"]}
    assert oracles.keys() == {("left", "facts"), ("left",), ("facts",)}
    assert oracles["left", "facts"] is None
    for available in (("left",), ("facts",)):
        gap = oracles[available]["gap"]
        assert gap["interval"]["low"] <= gap["difference"] <= gap["interval"]["high"]
        assert abs(gap["difference"]) < 0.3
    assert "oracle" in Path(found["report"]).read_text()


@pytest.mark.nightly
@pytest.mark.slow
def test_a_model_or_data_set_that_is_not_there_is_a_users_error(store: Path, model: str):
    for arguments in (("models:/nothing/1", "world"), (model, "nothing")):
        result = polychoir("evaluate", *arguments, "--store", store)
        assert result.returncode == 2, result.stderr
        assert "nothing" in result.stderr
        assert "bug" not in result.stderr
