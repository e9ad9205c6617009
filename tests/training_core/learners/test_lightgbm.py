"""LightGBM: its trees as arrays answer as it does, texts reach it as scores, and it stops in time."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest

from training_core.errors import StorageError
from training_core.learners import ExtraTreesConfig, HistBoostingConfig, LightGBMConfig
from training_core.learners.saved_state import read_state, write_state
from training_core.learners.saved_trees import pack_lightgbm, restore_trees
from training_core.recipes.multimodal import MultimodalConfig
from training_core.schema import DataSpec, ModalitySpec, Samples, TaskSpec

VALUES = TaskSpec.regression()
QUIET: dict[str, Any] = {"verbosity": -1, "num_threads": 1, "min_data_in_leaf": 5}


def data(num_rows: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Columns, a fifth of whose numbers are missing in the first four, and a class for each row."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(num_rows, 6)).astype(np.float32)
    classes = (matrix[:, 0] > 0).astype(np.int64) + (matrix[:, 4] > 0.5)
    matrix[:, :4][rng.random((num_rows, 4)) < 0.2] = np.nan
    return matrix, classes


def vectors(num_columns: int, task: TaskSpec = VALUES) -> DataSpec:
    return DataSpec(modalities=(ModalitySpec(name="v", kind="vector", shape=(num_columns,)),), task=task)


def samples(matrix: np.ndarray, target: np.ndarray | None = None) -> Samples:
    ids = np.arange(len(matrix)).astype(str).astype(object)
    return Samples({"v": matrix}, {"v": np.ones(len(matrix), dtype=bool)}, ids, target)


def raw_of(models: list[str], matrix: np.ndarray, per_round: int) -> np.ndarray:
    packed, model_of_tree = pack_lightgbm(models, matrix.shape[1])
    assert sorted(set(model_of_tree.tolist())) == list(range(len(models)))
    trees = restore_trees(packed.learnt(), matrix.shape[1], 1)
    raw = np.zeros((len(matrix), per_round))
    for i, answer in enumerate(trees.answers(matrix)):
        raw[:, i % per_round] += answer[:, 0]
    return raw


@pytest.mark.parametrize("objective", ["binary", "multiclass", "regression"])
def test_packed_trees_answer_as_lightgbm_does(objective: str) -> None:
    matrix, classes = data()
    target = {"binary": classes > 0, "multiclass": classes, "regression": 0.1 * classes + np.nan_to_num(matrix[:, 1])}
    settings = {**QUIET, "objective": objective, **({"num_class": 3} if objective == "multiclass" else {})}
    model = lightgbm.train(settings, lightgbm.Dataset(matrix, target[objective]), 25)
    # Later, numbers are missing where none was before, and others are 0 or far away.
    later = matrix.copy()
    later[::7, 4:] = np.nan
    later[1::7] = 0
    later[2::7] *= 1e6
    expected = np.asarray(model.predict(later, raw_score=True)).reshape(len(later), -1)
    np.testing.assert_allclose(raw_of([model.model_to_string()], later, expected.shape[1]), expected, atol=1e-12)


def test_a_tree_without_a_split_is_a_constant() -> None:
    matrix = np.ones((40, 1), dtype=np.float32)
    model = lightgbm.train({**QUIET, "objective": "regression"}, lightgbm.Dataset(matrix, np.arange(40.0)), 2)
    np.testing.assert_allclose(raw_of([model.model_to_string()], matrix, 1), 19.5)


def test_splits_on_categories_are_refused() -> None:
    matrix = np.random.default_rng(0).integers(0, 5, (200, 1)).astype(np.float32)
    target = np.isin(matrix[:, 0], (0, 3)).astype(float)
    pool = lightgbm.Dataset(matrix, target, categorical_feature=[0], params={"min_data_per_group": 1, **QUIET})
    model = lightgbm.train({**QUIET, "objective": "regression", "min_data_per_group": 1}, pool, 2)
    with pytest.raises(ValueError, match="categories"):
        pack_lightgbm([model.model_to_string()], 1)


def test_it_stops_early_on_noise_and_goes_on_for_signal() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(400, 3))
    signal, noise = np.sin(3 * matrix[:, :1]) * 2, rng.normal(size=(400, 1))
    fitted = [LightGBMConfig().build(vectors(3), 0).fit(samples(matrix, y)) for y in (signal, noise)]
    rounds = [len(estimator._trees or []) for estimator in fitted]
    assert rounds[0] > 40 > rounds[1]


def test_a_text_counts_beside_a_number() -> None:
    rng = np.random.default_rng(0)
    good, number = rng.integers(0, 2, 600), rng.normal(size=(600, 1))
    words = np.array([["bad", "good"][g] + f" word{rng.integers(50)}" for g in good], dtype=object)
    target = ((good == 1) & (number[:, 0] > 0)).astype(np.int64)
    spec = texts(("no", "yes"))
    spec = spec.model_copy(update={"modalities": (spec["title"], vectors(1)["v"])})
    rows = samples(number, target)
    rows = replace(rows, inputs={"title": words, **rows.inputs}, available={"title": good >= 0, **rows.available})
    estimator = LightGBMConfig().build(spec, 0).fit(rows.take(slice(0, 400)))
    predicted = estimator.predict(rows.take(slice(400, 600))).argmax(axis=1)
    assert (predicted == target[400:]).mean() > 0.97  # a sum of what either says is wrong where one outweighs the other


def texts(classes: tuple[str, ...]) -> DataSpec:
    notes = tuple(ModalitySpec(name=name, kind="text") for name in ("title", "body"))
    return DataSpec(modalities=notes, task=TaskSpec.classification(classes))


def noted(notes: np.ndarray, target: np.ndarray) -> Samples:
    there = {name: np.ones(len(notes), bool) for name in ("title", "body")}
    ids = np.arange(len(notes)).astype(str).astype(object)
    return Samples({"title": notes[:, 0].copy(), "body": notes[:, 1].copy()}, there, ids, target)


def test_scores_of_words_without_meaning_are_not_believed() -> None:
    rng = np.random.default_rng(0)
    words = np.array([" ".join(f"word{i}" for i in rng.integers(0, 200, 6)) for _ in range(800)], dtype=object)
    train = noted(words.reshape(400, 2), rng.integers(0, 2, 400))
    confidence = np.abs(LightGBMConfig().build(texts(("no", "yes")), 0).fit(train).predict(train)[:, 1] - 0.5)
    assert confidence.mean() < 0.1  # scores in sample would have made it sure of every training row


def test_it_is_read_back_and_answers_without_lightgbm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, classes = data()
    config, spec = LightGBMConfig(max_rounds=20), vectors(6, TaskSpec.classification("abc"))
    estimator = config.build(spec, 0).fit(samples(matrix, classes))
    estimator.save(tmp_path)
    expected = estimator.predict(samples(matrix))
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    assert np.array_equal(config.build(spec, 0).load(tmp_path).predict(samples(matrix)), expected)


@pytest.mark.parametrize(("name", "value"), [("left", 10_000), ("right", -1), ("column", 6)])
def test_a_node_that_leads_astray_is_refused(name: str, value: int, tmp_path: Path) -> None:
    matrix, classes = data()
    config, spec = LightGBMConfig(max_rounds=3), vectors(6, TaskSpec.classification("abc"))
    config.build(spec, 0).fit(samples(matrix, classes)).save(tmp_path)
    state = read_state(tmp_path / "estimator.npz")
    state["learnt"]["trees"][name][0] = value
    write_state(tmp_path / "estimator.npz", state)
    with pytest.raises(StorageError, match="points outside"):
        config.build(spec, 0).load(tmp_path)


def test_a_tree_that_adds_to_no_output_is_refused(tmp_path: Path) -> None:
    matrix, classes = data()
    config, spec = LightGBMConfig(max_rounds=3), vectors(6, TaskSpec.classification("abc"))
    config.build(spec, 0).fit(samples(matrix, classes)).save(tmp_path)
    state = read_state(tmp_path / "estimator.npz")
    state["learnt"]["outputs"][0] = 3
    write_state(tmp_path / "estimator.npz", state)
    with pytest.raises(StorageError, match="not there"):
        config.build(spec, 0).load(tmp_path)


@pytest.mark.parametrize("config", [LightGBMConfig(max_rounds=5), HistBoostingConfig(max_rounds=5), ExtraTreesConfig()])
def test_trees_take_a_table_of_many_categories(config: Any) -> None:
    table = ModalitySpec(name="v", kind="tabular", shape=(60,), cardinalities=(12,) * 60)
    codes = np.random.default_rng(0).integers(0, 12, (80, 60)).astype(np.float64)
    rows = samples(codes, (codes[:, 0] > 5).astype(np.int64))
    spec = DataSpec(modalities=(table,), task=TaskSpec.classification(("no", "yes")))
    assert config.build(spec, 0).fit(rows).predict(rows).shape == (80, 2)


def test_its_version_decides_a_job_and_that_of_what_everything_needs_is_not_named_again() -> None:
    assert MultimodalConfig(learner=LightGBMConfig()).extras == ("lightgbm",)
    assert MultimodalConfig(learner=ExtraTreesConfig()).extras == ()
