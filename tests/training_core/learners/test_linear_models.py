"""Linear models of ratings, and out-of-fold scores of texts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from training_core.errors import StorageError
from training_core.learners import LinearConfig, TfidfLinearConfig
from training_core.learners.design_matrix import DesignMatrix
from training_core.learners.linear_fit import fit_out_of_fold
from training_core.learners.linear_model import expected_rating, rating_levels
from training_core.learners.saved_state import read_state, write_state
from training_core.learners.text_features import TextFeaturesConfig
from training_core.learners.text_scores import TextScores
from training_core.schema import DataSpec, ModalitySpec, Samples, TaskSpec

VALUES = TaskSpec.regression()


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def vectors(num_columns: int, task: TaskSpec = VALUES) -> DataSpec:
    return DataSpec(modalities=(ModalitySpec(name="v", kind="vector", shape=(num_columns,)),), task=task)


def samples(matrix: np.ndarray, target: np.ndarray | None = None) -> Samples:
    ids = np.arange(len(matrix)).astype(str).astype(object)
    return Samples({"v": matrix}, {"v": np.ones(len(matrix), dtype=bool)}, ids, target)


def ratings(num_rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose opinion is linear in their columns, and the stars they give: five for most."""
    draws = np.random.default_rng(seed)
    matrix = draws.normal(size=(num_rows, 6))
    opinion = matrix @ np.array([1.0, -0.8, 0.6, 0.3, 0, 0]) + 0.5 * draws.normal(size=num_rows)
    return matrix, (1.0 + np.digitize(opinion, (-2.5, -1.8, -1.0, -0.3)))[:, None]


def r2(predicted: np.ndarray, target: np.ndarray) -> float:
    return 1 - float(((predicted - target) ** 2).mean() / target.var())


def test_ratings_are_predicted_better_than_by_a_straight_line() -> None:
    train, test = ratings(1_500, 0), ratings(1_500, 1)
    predicted = LinearConfig().build(vectors(6), 0).fit(samples(*train)).predict(samples(test[0]))
    line = np.clip(np.asarray(Ridge().fit(*train).predict(test[0])).reshape(-1, 1), 1, 5)
    assert r2(predicted, test[1]) > r2(line, test[1]) + 0.03
    assert predicted.min() >= 1 and predicted.max() <= 5


def test_a_rating_is_the_mean_level_by_the_probabilities_of_a_logistic_regression() -> None:
    matrix, target = ratings(400, 0)
    predicted = LinearConfig(strength=2.0).build(vectors(6), 0).fit(samples(matrix, target)).predict(samples(matrix))
    reference = LogisticRegression(C=0.5, max_iter=300).fit(matrix, target[:, 0].astype(int))
    expected = reference.predict_proba(matrix) @ reference.classes_
    np.testing.assert_allclose(predicted[:, 0], expected, atol=1e-9)


def test_few_levels_in_enough_rows_are_ratings() -> None:
    stars = np.tile(np.arange(5.0), 60)[:, None]
    levels = rating_levels(stars)
    assert levels is not None and levels[0].tolist() == [0, 1, 2, 3, 4]
    assert rating_levels(stars[:100]) is None  # too few rows
    assert rating_levels(np.tile(np.arange(11.0), 60)[:, None]) is None  # too many levels
    assert rating_levels(np.hstack([stars, rng().normal(size=(300, 1))])) is None  # not all of them
    assert rating_levels(np.ones((300, 1))) is None  # a constant


def test_an_expected_rating_is_a_weighted_mean() -> None:
    raw = np.log([[0.5, 0.25, 0.25], [0.0001, 0.0001, 0.9998]])
    np.testing.assert_allclose(expected_rating(raw, np.array([1.0, 2.0, 4.0]))[:, 0], [2.0, 3.9995], atol=1e-3)


def two_ratings(folder: Path) -> Any:
    matrix, target = ratings(300, 0)
    both = np.hstack([target, 3 - np.minimum(target, 3)])
    spec = vectors(6, TaskSpec.regression(("stars", "faults")))
    estimator = LinearConfig(strength=1.0).build(spec, 0).fit(samples(matrix, both))
    estimator.save(folder)
    loaded = LinearConfig(strength=1.0).build(spec, 1).load(folder)
    assert np.array_equal(loaded.predict(samples(matrix)), estimator.predict(samples(matrix)))
    return spec


def test_several_ratings_are_saved_and_read_back_and_refused_when_changed(tmp_path: Path) -> None:
    spec, path = two_ratings(tmp_path), tmp_path / "estimator.npz"
    state = read_state(path)
    first = state["learnt"]["models"]["0"]
    wrong = [
        {**first, "levels": first["levels"][::-1]},
        {**first, "levels": first["levels"][:-1]},
        {name: value for name, value in first.items() if name != "levels"},
    ]
    models = state["learnt"]["models"]
    for changed in [{**models, "0": one} for one in wrong] + [{"0": first}, {}]:
        write_state(path, {**state, "learnt": {**state["learnt"], "models": changed}})
        with pytest.raises(StorageError, match="train it again"):
            LinearConfig(strength=1.0).build(spec, 0).load(tmp_path)


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_scores_are_out_of_fold_and_later_rows_get_the_mean_of_the_folds(task: Any) -> None:
    matrix = rng().normal(size=(60, 50))
    noise = np.random.default_rng(1).normal(size=(60, 1))
    target = noise if task == "regression" else (noise[:, 0] > 0).astype(np.int64)
    fit, raw = fit_out_of_fold(task, matrix, target, None, groups=None, rng=rng(), start=1.0)
    told, memorised = (np.corrcoef(values[:, -1], noise[:, 0])[0, 1] for values in (raw, fit.raw(matrix)))
    assert told < 0.35 < memorised
    assert fit.coefficients.shape == (50, 1 if task == "regression" else 2)


def test_too_few_rows_have_scores_of_zero() -> None:
    matrix = rng().normal(size=(6, 2))
    fit, raw = fit_out_of_fold("regression", matrix, matrix[:, :1], None, groups=None, rng=rng(), start=1.0)
    assert not raw.any() and not fit.raw(matrix).any()


def notes(num_rows: int) -> tuple[DataSpec, Samples]:
    spec = DataSpec(
        modalities=tuple(ModalitySpec(name=name, kind="text") for name in ("title", "body")),
        task=TaskSpec.classification(("bad", "good")),
    )
    good = rng().integers(0, 2, num_rows)
    words = np.array([["poor", "fine"][g] + f" word{i % 7}" for i, g in enumerate(good)], dtype=object)
    there = {"title": np.arange(num_rows) % 3 > 0, "body": np.ones(num_rows, bool)}
    ids = np.arange(num_rows).astype(str).astype(object)
    return spec, Samples({"title": words, "body": words[::-1].copy()}, there, ids, good.astype(np.int64))


def test_text_scores_are_missing_where_the_text_is() -> None:
    spec, rows = notes(90)
    scores = TextScores(spec, TextFeaturesConfig())
    assert rows.target is not None
    found = scores.fit(rows, rows.target, None, rng())
    assert found.shape == (90, scores.num_columns) == (90, 6)  # two texts and both together, two classes each
    assert np.array_equal(np.isnan(found[:, 0]), ~rows.available["title"])
    assert np.isfinite(found[:, 2:]).all()
    there = rows.available["title"]
    assert ((found[there, 1] > found[there, 0]) == rows.target[there]).mean() > 0.95
    again = scores.transform(rows)
    assert np.array_equal(np.isnan(again), np.isnan(found))
    nothing = scores.transform(rows.without(spec.names))
    assert np.isnan(nothing).all()


def test_texts_without_a_single_word_make_a_column_of_zeros() -> None:
    spec, rows = notes(20)
    silent = replace(rows, available={name: np.zeros(20, bool) for name in spec.names})
    for select in (["title"], ["title", "body"]):
        design = DesignMatrix(spec.select(select), text=TextFeaturesConfig()).fit(silent)
        matrix = design.transform(silent)
        assert matrix.shape == (20, design.num_columns) == (20, 1) and matrix.nnz == 0
    only = TfidfLinearConfig().build(spec.select(["title"]), 0).fit(silent.select(["title"]))
    assert np.isfinite(only.predict(silent.select(["title"]))).all()
