"""The parts estimators are made of: folds, the design matrix, TF-IDF, the search for a penalty."""

import time
from typing import Any

import numpy as np
import pytest
from scipy.sparse import issparse

from training_core.learners import ExtraTreesConfig, HistBoostingConfig, LinearConfig, TfidfLinearConfig
from training_core.learners.binning import bin_edges, to_bins
from training_core.learners.boosting import all_rounds, hold_out
from training_core.learners.design_matrix import DesignMatrix, one_hot
from training_core.learners.folds import deal_folds
from training_core.learners.linear_fit import fit_linear, fit_out_of_fold, walk_down
from training_core.learners.text_features import TextFeatures, TextFeaturesConfig
from training_core.schema import DataSpec, ModalitySpec, Samples, TaskSpec

CLASSES = TaskSpec.classification(("no", "yes"))
VALUES = TaskSpec.regression()


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def samples(inputs: dict[str, np.ndarray], target: np.ndarray | None = None, **available: list[bool]) -> Samples:
    num_rows = len(next(iter(inputs.values())))
    masks = {name: np.array(available.get(name, [True] * num_rows)) for name in inputs}
    return Samples(inputs, masks, np.arange(num_rows).astype(str).astype(object), target)


def vectors(num_columns: int, task: TaskSpec) -> DataSpec:
    return DataSpec(modalities=(ModalitySpec(name="v", kind="vector", shape=(num_columns,)),), task=task)


def test_folds_share_out_every_class() -> None:
    classes = np.repeat([0, 1, 2], [60, 30, 9])
    folds = deal_folds(99, 3, rng(), classes)
    assert folds is not None
    assert all(np.bincount(classes[folds == fold]).tolist() == [20, 10, 3] for fold in range(3))


def test_folds_keep_groups_together() -> None:
    groups = np.array([f"g{i // 4}" for i in range(80)], dtype=object)
    folds = deal_folds(80, 3, rng(), None, groups)
    assert folds is not None
    assert all(len(np.unique(folds[groups == group])) == 1 for group in groups)
    assert set(folds) == {0, 1, 2}


def test_too_few_rows_are_not_split() -> None:
    assert deal_folds(5, 3, rng()) is None
    assert deal_folds(5, 3, rng(), None, np.arange(5)) is None
    assert deal_folds(50, 3, rng(), None, np.zeros(50)) is None


@pytest.mark.parametrize("num_groups", [2, 3, 5, 6])
def test_few_groups_make_fewer_folds_and_none_is_empty(num_groups: int) -> None:
    groups = np.arange(40) % num_groups
    folds = deal_folds(40, 5, rng(), np.arange(40) // 20, groups)
    assert folds is not None
    assert set(folds) == set(range(min(num_groups, 5)))
    assert all(len(np.unique(folds[groups == group])) == 1 for group in groups)


def test_the_fold_of_groups_that_judges_boosting_is_of_middling_size_and_no_class_is_missed() -> None:
    sizes = [500, 60, 90, 350]
    groups = np.repeat(np.arange(4), sizes)
    for seed in range(5):
        held_out = hold_out(1000, None, groups, np.random.default_rng(seed))
        assert held_out is not None and set(groups[held_out]) == {2}
        held_out = hold_out(1000, np.where(groups == 2, 1, 0), groups, np.random.default_rng(seed))
        assert held_out is not None and set(groups[held_out]) == {1}


def test_rounds_grow_with_the_rows_that_were_held_out() -> None:
    by_row, third = hold_out(1500, None, None, rng()), np.arange(1500) < 500
    assert by_row is not None and by_row.sum() == 215
    assert [all_rounds(best, by_row) for best in (0, 6, 60)] == [2, 7, 70]
    assert all_rounds(60, third) == 90 and all_rounds(60, np.arange(1500) < 75) == 70


def test_one_hot_leaves_out_what_is_unknown() -> None:
    codes = np.array([[0, 1], [1, 3], [2, 9], [np.nan, 2]])
    assert one_hot(codes, (2, 3)).toarray().tolist() == [
        [0, 0, 1, 0, 0],
        [1, 0, 0, 0, 1],
        [0, 1, 0, 0, 0],
        [0, 0, 0, 1, 0],
    ]


def test_the_design_matrix_lays_out_columns_in_order() -> None:
    table = ModalitySpec(name="t", kind="tabular", shape=(2,), cardinalities=(3,))
    vector = ModalitySpec(name="v", kind="vector", shape=(1,))
    spec = DataSpec(modalities=(table, vector), task=CLASSES)
    rows = samples({"t": np.array([[0.5, 2], [0.7, 1]]), "v": np.array([[9.0], [8.0]])}, v=[True, False])
    design = DesignMatrix(spec).fit(rows)
    assert np.asarray(design.transform(rows)).tolist() == [[0.5, 0, 1, 9, 1], [0.7, 1, 0, 0, 0]]
    assert design.num_columns == 5
    for_trees = DesignMatrix(spec, max_one_hot=1, missing_as_nan=True).fit(rows)
    np.testing.assert_equal(for_trees.transform(rows), np.array([[0.5, 2, 9], [0.7, 1, np.nan]]))
    assert for_trees.num_columns == 3


def test_many_categories_make_a_sparse_matrix() -> None:
    table = ModalitySpec(name="t", kind="tabular", shape=(1,), cardinalities=(2_000,))
    spec = DataSpec(modalities=(table,), task=CLASSES)
    codes = np.arange(100.0)[:, None] * 19
    target = np.arange(100) % 2
    rows = samples({"t": codes}, target)
    matrix = DesignMatrix(spec).fit(rows).transform(rows)
    assert issparse(matrix) and matrix.shape == (100, 1_999)
    assert (LinearConfig().build(spec, 0).fit(rows).predict(rows).argmax(axis=1) == target)[1:].all()


def test_text_features_are_the_textbook_formula() -> None:
    texts = ["red red apple", "red pear", "green"]
    features = TextFeatures(TextFeaturesConfig(min_documents=1)).fit(texts)
    row = features.transform(texts).toarray()[0]
    # "red" twice in this text and in two of three texts; "apple", "red red" and "red apple" once and in one.
    rare, common = 1 + np.log(4 / 2), 1 + np.log(4 / 3)
    weights = {"red": (1 + np.log(2)) * common, "apple": rare, "red red": rare, "red apple": rare}
    length = np.sqrt(sum(weight**2 for weight in weights.values()))
    assert {term: row[i] for i, term in enumerate(features.terms) if row[i]} == pytest.approx(
        {term: weight / length for term, weight in weights.items()}
    )


def test_text_features_come_back_from_their_state() -> None:
    texts = ["a b c", "b c d", "c d e"]
    for analyzer in ("words", "characters"):
        config = TextFeaturesConfig(analyzer=analyzer)
        features = TextFeatures(config).fit(texts)
        again = TextFeatures(config).restore(features.learnt())
        assert np.array_equal(again.transform(texts).toarray(), features.transform(texts).toarray())
        assert features.width > 0


def test_characters_see_through_misspellings() -> None:
    spec = DataSpec(modalities=(ModalitySpec(name="t", kind="text"),), task=CLASSES)
    texts = np.array(["wonderful", "terrible"] * 20, dtype=object)
    config = TfidfLinearConfig(text=TextFeaturesConfig(analyzer="characters"))
    learner = config.build(spec, 0).fit(samples({"t": texts}, np.arange(40) % 2))
    predicted = learner.predict(samples({"t": np.array(["wonderfull", "terible"], dtype=object)}))
    assert predicted.argmax(axis=1).tolist() == [0, 1]


def test_the_walk_finds_the_minimum_on_either_side() -> None:
    for best in (3.0**5, 3.0**-5, 1.0):
        tried: list[float] = []

        def loss(strength: float, best: float = best, tried: list[float] = tried) -> float:
            tried.append(strength)
            return abs(np.log(strength / best))

        assert walk_down(loss, 1.0) == pytest.approx(best)
        assert len(tried) <= 9


def test_ridge_is_the_closed_form() -> None:
    matrix, weight = rng().normal(size=(40, 3)), rng().uniform(0.5, 2, 40)
    target = matrix @ np.array([[1.0], [2.0], [0.0]]) + 3 + rng().normal(size=(40, 1))
    fitted = fit_linear("regression", matrix, target, weight, groups=None, rng=rng(), strength=2.0, start=1.0)
    centre, mean = np.average(matrix, axis=0, weights=weight), np.average(target, axis=0, weights=weight)
    deviations = matrix - centre
    gram = deviations.T @ (weight[:, None] * deviations) + 2.0 * np.eye(3)
    expected = np.linalg.solve(gram, deviations.T @ (weight[:, None] * (target - mean)))
    np.testing.assert_allclose(fitted.coefficients, expected, rtol=1e-8)
    np.testing.assert_allclose(fitted.raw(centre[None]), mean[None], rtol=1e-8)


def test_noise_is_penalised_more_than_signal() -> None:
    matrix = rng().normal(size=(200, 30))
    noise = np.random.default_rng(1).normal(size=(200, 1))
    options: dict[str, Any] = {"groups": None, "strength": None, "start": 10.0}
    clear = fit_linear("regression", matrix, matrix[:, :1], None, rng=rng(), **options)
    random = fit_linear("regression", matrix, noise, None, rng=rng(), **options)
    assert random.strength > 100 * clear.strength


@pytest.mark.parametrize("num_groups", [2, 3, 5])
def test_a_few_groups_choose_the_penalty_and_the_scores_of_texts_as_rows_do(num_groups: int) -> None:
    matrix = rng().normal(size=(200, 30))
    noise = np.random.default_rng(1).normal(size=(200, 1))
    groups = np.repeat(np.arange(num_groups), 200)[::num_groups]
    options: dict[str, Any] = {"groups": groups, "start": 10.0}
    clear = fit_linear("regression", matrix, matrix[:, :1], None, strength=None, rng=rng(), **options)
    random = fit_linear("regression", matrix, noise, None, strength=None, rng=rng(), **options)
    assert random.strength > 100 * clear.strength
    mean, raw = fit_out_of_fold("regression", matrix, matrix[:, :1], None, rng=rng(), **options)
    assert np.corrcoef(raw[:, 0], matrix[:, 0])[0, 1] > 0.99
    assert np.corrcoef(mean.raw(matrix)[:, 0], matrix[:, 0])[0, 1] > 0.99


def test_a_rating_is_predicted_within_its_scale_and_a_measurement_is_not_held_back() -> None:
    column = np.linspace(-1, 1, 50)[:, None]
    far = samples({"v": np.array([[-9.0], [9.0]])})
    rating = LinearConfig().build(vectors(1, VALUES), 0).fit(samples({"v": column}, np.round(2 * column)))
    assert rating.predict(far).tolist() == [[-2], [2]]
    measured = LinearConfig().build(vectors(1, VALUES), 0).fit(samples({"v": column}, 2 * column))
    assert measured.predict(far)[1, 0] > 10


def test_a_forest_sharpens_votes_that_are_always_right_and_flattens_noise() -> None:
    matrix = rng().normal(size=(300, 4))
    truth = (matrix[:, 0] > 0).astype(np.int64)
    config = ExtraTreesConfig(num_trees=50)
    sure = config.build(vectors(4, CLASSES), 0).fit(samples({"v": matrix}, truth))
    unsure = config.build(vectors(4, CLASSES), 0).fit(samples({"v": matrix}, rng().permutation(truth)))
    assert sure.sharpness > 1.5 and unsure.sharpness < 0.5
    values = config.build(vectors(4, VALUES), 0).fit(samples({"v": matrix}, rng().normal(size=(300, 1))))
    assert values.sharpness < 0.5


def test_boosting_stops_early_on_noise_and_goes_on_for_signal() -> None:
    matrix = rng().normal(size=(400, 3))
    signal, noise = np.sin(3 * matrix[:, :1]) * 2, np.random.default_rng(1).normal(size=(400, 1))
    boosted = [
        HistBoostingConfig().build(vectors(3, VALUES), 0).fit(samples({"v": matrix}, y)) for y in (signal, noise)
    ]
    rounds = [len(model._trees or []) for model in boosted]
    assert rounds[0] > 30 > rounds[1]


def test_bins_hold_equally_many_rows_or_one_value_each() -> None:
    many, few = np.arange(600.0), np.repeat([5.0, 7.0, 7.5], 200)
    matrix = np.stack([rng().permutation(many), few, np.full(600, np.nan), np.full(600, 3.0)], axis=1)
    edges = bin_edges(matrix, 6)
    bins = to_bins(matrix, edges)
    assert np.unique(bins[:, 0], return_counts=True)[1].tolist() == [100] * 6
    assert edges[1].tolist() == [6, 7.25, np.inf, np.inf, np.inf]
    assert np.isnan(bins[:, 2]).all() and (bins[:, 3] == 0).all()
    np.testing.assert_equal(
        to_bins(np.array([[-1, 6.9, 2, 9], [1e9, np.nan, 0, 0]]), edges)[:, :2], [[0, 1], [5, np.nan]]
    )


def test_weights_do_not_slow_boosting_down() -> None:
    matrix = rng().normal(size=(300, 40))
    data, config, spec = samples({"v": matrix}, matrix[:, :1]), HistBoostingConfig(max_rounds=5), vectors(40, VALUES)
    config.build(spec, 0).fit(data)

    def least_seconds(weight: np.ndarray | None) -> float:
        taken = []
        for _ in range(3):
            start = time.process_time()
            config.build(spec, 0).fit(data, weight)
            taken.append(time.process_time() - start)
        return min(taken)

    assert least_seconds(rng().uniform(0.5, 1.5, 300)) < 5 * least_seconds(None)  # it was 50 times


def test_leaves_grow_with_the_rows() -> None:
    assert [HistBoostingConfig().leaves(n) for n in (100, 3_000, 100_000)] == [7, 15, 31]
    assert [ExtraTreesConfig().leaf_rows(n) for n in (100, 8_000, 100_000)] == [2, 2, 25]
    assert (
        HistBoostingConfig(max_leaves=3).leaves(9_999) == 3 and ExtraTreesConfig(min_samples_leaf=1).leaf_rows(9) == 1
    )
