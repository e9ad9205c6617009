"""The recommendation report, against scikit-learn and brute force."""

import itertools

import numpy as np
import pytest
from judged_world import judged
from sklearn.metrics import ndcg_score, top_k_accuracy_score

from training_core.errors import DataError
from training_core.evaluation.domains.recommendation import RecommendationConfig, recommendation_report
from training_core.schema import TaskSpec

DRAWS = np.random.default_rng(0)
TARGET = (DRAWS.random((60, 12)) > 0.8).astype(np.float32)
VALUES = 0.3 * TARGET + DRAWS.random((60, 12))
TASK = TaskSpec.multilabel(12)


@pytest.mark.parametrize("k", [1, 3, 10])
def test_lists_are_judged_as_scikit_learn_does(k: int) -> None:
    report = recommendation_report(judged(TASK, TARGET, VALUES), RecommendationConfig(k=k))
    asked = TARGET.any(axis=1)
    assert report.overall is not None
    assert report.overall.num_rows == asked.sum()
    assert report.overall.ndcg == pytest.approx(ndcg_score(TARGET[asked], VALUES[asked], k=k))
    lists = [set(np.argsort(-row)[:k]) for row in VALUES[asked]]
    right = [set(np.flatnonzero(row)) for row in TARGET[asked]]
    hits = [len(one & other) for one, other in zip(lists, right, strict=True)]
    assert report.overall.precision == pytest.approx(np.mean(hits) / k)
    assert report.overall.recall == pytest.approx(np.mean([h / len(r) for h, r in zip(hits, right, strict=True)]))
    assert report.overall.hit_rate == pytest.approx(np.mean([h > 0 for h in hits]))


def test_of_classes_recall_is_the_top_k_accuracy() -> None:
    draws = np.random.default_rng(1)
    target, values = draws.integers(0, 5, 200), draws.dirichlet(np.ones(5), 200)
    report = recommendation_report(judged(TaskSpec.classification(5), target, values), RecommendationConfig(k=2))
    assert report.overall is not None
    assert report.overall.recall == pytest.approx(top_k_accuracy_score(target, values, k=2))


def test_diversity_is_that_of_all_pairs() -> None:
    report = recommendation_report(judged(TASK, TARGET, VALUES), RecommendationConfig(k=4))
    lists = [set(np.argsort(-row)[:4]) for row in VALUES]
    pairs = [1 - len(one & other) / 4 for one, other in itertools.combinations(lists, 2)]
    assert report.diversity == pytest.approx(np.mean(pairs))


def test_everybody_gets_the_same() -> None:
    same = np.tile(np.linspace(1, 0, 12), (60, 1))
    report = recommendation_report(judged(TASK, TARGET, same), RecommendationConfig(k=3))
    assert (report.diversity, report.coverage) == (0.0, 0.25)
    assert report.evenness == pytest.approx(np.log(3) / np.log(12))


def test_recommending_the_popular_is_not_personal() -> None:
    popular = np.tile(TARGET.sum(axis=0) - 1e-6 * np.arange(12), (60, 1))
    report = recommendation_report(judged(TASK, TARGET, popular), RecommendationConfig(k=3))
    assert report.popularity_lift == pytest.approx(1.0)


def test_new_users_are_judged_by_themselves() -> None:
    cold = np.arange(60) < 20
    values = np.where(cold[:, None], -TARGET, TARGET).astype(float)
    config = RecommendationConfig(k=2, cold="new")
    report = recommendation_report(judged(TASK, TARGET, values, new=cold), config)
    assert report.cold_start is not None and report.warm is not None
    assert (report.cold_start.hit_rate, report.warm.hit_rate) == (0.0, 1.0)
    assert report.cold_start.num_rows == TARGET[cold].any(axis=1).sum()


@pytest.mark.parametrize(
    "cells",
    [["Yes", "no", " NO "], ["True", "False", "false"], [1, 0, 0], [1.0, 0.0, 0.0], [True, "no", 0]],
    ids=["yes", "words", "whole", "float", "mixed"],
)
def test_who_is_new_is_read_as_it_is_written(cells: list[object]) -> None:
    column = np.array(cells, object if isinstance(cells[-1], str) or cells[0] is True else None)
    rows = judged(TaskSpec.classification(3), np.array([0, 1, 2]), np.eye(3), new=column)
    report = recommendation_report(rows, RecommendationConfig(cold="new"))
    assert report.cold_start is not None and report.cold_start.num_rows == 1


@pytest.mark.parametrize("cell", [np.nan, 2, "perhaps", None, ""])
def test_a_cell_that_does_not_say_who_is_new_is_refused(cell: object) -> None:
    column = np.array([True, cell], object)
    rows = judged(TaskSpec.classification(2), np.array([0, 1]), np.eye(2), new=column)
    with pytest.raises(DataError, match=r"column 'new' says who is new, and is .* in row 1; give true or false"):
        recommendation_report(rows, RecommendationConfig(cold="new"))


def test_edges() -> None:
    nothing = recommendation_report(judged(TASK, np.zeros_like(TARGET), VALUES))
    assert nothing.overall is None and nothing.cold_start is None and nothing.popularity_lift is None
    one = recommendation_report(judged(TASK, TARGET[:1], VALUES[:1]), RecommendationConfig(k=50))
    assert (one.k, one.diversity, one.coverage, one.evenness) == (12, None, 1.0, pytest.approx(1.0))
    with pytest.raises(DataError, match="regression"):
        recommendation_report(judged(TaskSpec.regression(), np.zeros((3, 1)), np.zeros((3, 1))))
    with pytest.raises(DataError, match="no column 'new'"):
        recommendation_report(judged(TASK, TARGET, VALUES), RecommendationConfig(cold="new"))
