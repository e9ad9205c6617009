import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.training_core.export.small_ensemble import CLASSES, make_ensemble, small_samples, small_spec
from training_core.artifacts import ArtifactRef, verify_published
from training_core.data.frames import frame_from_samples
from training_core.errors import DataError
from training_core.evaluation.predictions import Predictions
from training_core.export import (
    ServedEnsemble,
    package_ensemble,
    pinned_requirements,
    prediction_columns,
    predictions_frame,
)
from training_core.schema import TaskSpec
from training_core.selection.ensemble import Ensemble
from training_core.tracking.mlflow import MLflowTracker

SPEC = small_spec()
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def registered(tmp_path_factory):
    """A small ensemble, logged and registered: (tracker, published directory, URI)."""
    folder = tmp_path_factory.mktemp("export")
    ensemble = make_ensemble(folder, SPEC)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
            patch.delenv(name)
        tracker = MLflowTracker(folder / "store")
        patch.setenv("MLFLOW_TRACKING_URI", tracker.location)
        run_id = tracker.start("train")
        uri = tracker.log_ensemble(run_id, package_ensemble(ensemble, "small", SPEC, small_samples(SPEC)))
        tracker.finish(run_id)
        yield tracker, ensemble, uri


@pytest.fixture(scope="module")
def served(registered):
    import mlflow

    return mlflow.pyfunc.load_model(registered[2])


@pytest.fixture(scope="module")
def direct(registered):
    return Ensemble.load(registered[1].path)


def assert_same(answer: pd.DataFrame, expected: Predictions) -> None:
    assert tuple(answer.columns) == prediction_columns(CLASSES)
    probabilities = answer[[f"probability_{name}" for name in CLASSES.classes]].to_numpy()
    np.testing.assert_allclose(probabilities, expected.values, rtol=0, atol=1e-12)
    np.testing.assert_allclose(answer["confidence"], expected.confidence, rtol=0, atol=1e-12)
    assert answer["num_learners"].tolist() == expected.num_learners.tolist()
    assert answer["prediction"].tolist() == [CLASSES.classes[code] for code in expected.values.argmax(axis=1)]


def test_registered_ensemble_resolves_to_the_directory_that_was_published(registered):
    tracker, ensemble, uri = registered
    assert uri == "models:/small/1"
    found = tracker.resolve_model(uri)
    assert found.sha256 == ensemble.sha256
    verify_published(ArtifactRef(uri=str(found.path), sha256=found.sha256))
    assert found.path != ensemble.path


def test_served_ensemble_predicts_what_the_ensemble_predicts(served, direct):
    samples = small_samples(SPEC, seed=1)
    assert_same(served.predict(frame_from_samples(samples, SPEC)), direct.predict(samples))


@pytest.mark.parametrize("missing", [["vec"], ["meta"], ["review"], ["vec", "review"]])
def test_modality_left_out_of_the_table_is_missing(served, direct, missing):
    samples = small_samples(SPEC, seed=1)
    columns = {"vec": [f"vec_{i}" for i in range(4)], "meta": ["age", "size", "city"], "review": ["body"]}
    frame = frame_from_samples(samples, SPEC).drop(columns=[name for m in missing for name in columns[m]])
    assert_same(served.predict(frame), direct.predict(samples.without(missing)))


def test_integers_empty_columns_and_a_foreign_column_are_no_trouble(served, direct):
    frame = pd.DataFrame({"age": [30, 40], "size": [None, None], "city": [7, 7], "other": ["x", "y"]}, index=[5, 9])
    answer = served.predict(frame)
    samples = small_samples(SPEC).take(np.arange(10, 12)).without(["vec", "review"])
    table = np.array([[30, np.nan, 2], [40, np.nan, 2]])
    assert_same(answer, direct.predict(replace(samples, inputs={**samples.inputs, "meta": table})))
    assert answer.index.tolist() == [5, 9]


def test_input_without_any_known_column_is_refused_by_name(served):
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match=r"none of the model's columns; expected some of vec_0, vec_1"):
        served.predict(pd.DataFrame({"colour": ["red"]}))


def test_cell_that_is_no_number_is_refused_by_name(served, direct):
    from mlflow.exceptions import MlflowException

    frame = pd.DataFrame({"age": ["old"]})
    with pytest.raises(MlflowException, match="age"):
        served.predict(frame)
    with pytest.raises(DataError, match="age"):
        ServedEnsemble(direct).predict_frame(frame)


def test_package_pins_what_is_installed_and_lists_every_column_as_optional(registered, served):
    tracker, _, uri = registered
    folder = tracker.resolve_model(uri).path.parents[1]
    lines = (folder / "requirements.txt").read_text().split()
    assert f"numpy=={importlib.metadata.version('numpy')}" in lines
    assert all("==" in line and "+" not in line for line in lines)
    columns = served.metadata.get_input_schema().inputs
    assert [column.name for column in columns] == [*(f"vec_{i}" for i in range(4)), "age", "size", "city", "body"]
    assert not any(column.required for column in columns)
    example = json.loads((folder / "input_example.json").read_text())
    assert len(example["data"]) == 3


def test_model_loads_where_polychoir_is_not_installed_with_no_more_than_its_requirements(registered):
    # A fresh process that knows the environment but not this project.
    code = f"""
import json, sys
import mlflow.pyfunc
import pandas as pd
before = set(sys.modules)
model = mlflow.pyfunc.load_model({registered[2]!r})
answer = model.predict(pd.DataFrame({{"age": [30.0], "city": ["Bonn"]}}))
import training_core
imported = sorted({{name.partition(".")[0] for name in set(sys.modules) - before}})
print(json.dumps([answer["prediction"].tolist(), list(training_core.__path__), imported]))
"""
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT.parent, env=environment, capture_output=True, text=True, check=True
    )
    (prediction,), (place,), imported = json.loads(done.stdout)
    assert prediction in CLASSES.classes
    assert "/mlartifacts/models/m-" in place
    owners = importlib.metadata.packages_distributions()
    needed = {owner.lower() for module in imported for owner in owners.get(module, [])}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    own_choice = {re.split("[<>=,]", line)[0] for line in project}
    needed.discard("sqlalchemy")  # it comes with MLflow; how new it may be concerns Prefect
    needed.discard("rich")  # scikit-learn takes it for its progress bars where it happens to be installed
    assert needed & own_choice <= {line.partition("==")[0] for line in pinned_requirements()}
    assert "torch" in needed


def test_loading_where_polychoir_runs_already_replaces_no_module_and_leaves_no_path(registered):
    import mlflow

    modules, path = dict(sys.modules), list(sys.path)
    mlflow.pyfunc.load_model(registered[2])
    assert [name for name, module in modules.items() if sys.modules.get(name) is not module] == []
    assert sys.path == path


def test_multilabel_predictions_list_the_labels_of_even_odds():
    task = TaskSpec.multilabel(["a", "b"])
    answer = predictions_frame(task, Predictions(np.array([[0.5, 0.9], [0.1, 0.2]]), np.ones(2), np.ones(2, int)))
    assert answer["prediction"].tolist() == ["a, b", ""]
    assert answer["probability_b"].tolist() == [0.9, 0.2]


@pytest.mark.parametrize("task", [TaskSpec.classification("abc"), TaskSpec.multilabel("abc")], ids=lambda t: t.kind)
def test_sets_are_listed_the_likeliest_first(task):
    values, sets = np.array([[0.2, 0.5, 0.3], [0.9, 0.05, 0.05]]), np.array([[True, True, False], [False] * 3])
    answer = predictions_frame(task, Predictions(values, np.ones(2), np.ones(2, int), sets=sets))
    assert answer["prediction_set"].tolist() == ["b, a", ""]
    assert tuple(answer.columns) == prediction_columns(task)
    without = predictions_frame(task, Predictions(values, np.ones(2), np.ones(2, int)))
    assert without["prediction_set"].tolist() == ["", ""]


def test_regression_predictions_have_a_column_per_target():
    task = TaskSpec.regression(["height", "weight"])
    predictions = Predictions(
        np.array([[1.0, 2.0]]), np.array([0.5]), np.array([3]), std=np.array([[0.1, 0.2]]),
        lower=np.array([[0.5, 1.0]]), upper=np.array([[1.5, 3.0]]),
    )  # fmt: skip
    answer = predictions_frame(task, predictions)
    assert tuple(answer.columns) == prediction_columns(task)
    assert answer.iloc[0].to_dict() == {
        "prediction_height": 1.0,
        "prediction_weight": 2.0,
        "confidence": 0.5,
        "std_height": 0.1,
        "std_weight": 0.2,
        "lower_height": 0.5,
        "lower_weight": 1.0,
        "upper_height": 1.5,
        "upper_weight": 3.0,
        "num_learners": 3,
    }


def test_single_regression_target_is_just_the_prediction():
    predictions = Predictions(np.array([[1.5]]), np.array([0.5]), np.array([3]))
    answer = predictions_frame(TaskSpec.regression(["price"]), predictions)
    assert answer["prediction"].tolist() == [1.5]
    assert answer[["std", "lower", "upper"]].isna().all(axis=None)


@pytest.mark.parametrize(
    "task", [TaskSpec.multilabel(["a", "b", "c"]), TaskSpec.regression(["x", "y"]), TaskSpec.regression()]
)
def test_every_task_can_be_served(tmp_path, task):
    spec = small_spec(task)
    ensemble = Ensemble.load(make_ensemble(tmp_path, spec).path)
    samples = small_samples(spec, num_rows=12, seed=2)
    answer = ServedEnsemble(ensemble).predict_frame(frame_from_samples(samples, spec))
    assert tuple(answer.columns) == prediction_columns(task)
    assert len(answer) == 12
    assert answer["confidence"].between(0, 1).all()
