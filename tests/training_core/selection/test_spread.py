import numpy as np
import pytest

from training_core.selection.pooling import pool
from training_core.selection.spread import disagreement, fit_spread


def hard_and_easy(num_rows, seed=0):
    """Errors whose size depends on how much five learners disagree, in the first column; not at all in the second."""
    draws = np.random.default_rng(seed)
    size = np.exp(draws.normal(size=num_rows) * 0.8)
    target = draws.normal(size=(num_rows, 2)) * 3
    off = draws.normal(size=(5, num_rows, 2))
    off[..., 0] *= size[:, None].T
    return target, target + off, size


def test_rows_the_learners_disagree_about_are_expected_to_be_harder():
    target, predictions, _ = hard_and_easy(1500)
    weights = np.ones(5)
    mixed = pool(predictions, weights)
    error = mixed.values - target
    error /= np.sqrt(np.mean(error**2, axis=0))
    model = fit_spread(error, mixed.values, disagreement(predictions, weights, mixed), 10.0, 0)
    assert model is not None

    target, predictions, size = hard_and_easy(6000, 1)
    mixed = pool(predictions, weights)
    factors = model.factors(mixed.values, disagreement(predictions, weights, mixed))
    for part in np.array_split(np.argsort(factors[:, 0]), 3):
        seen = np.sqrt(np.mean((mixed.values - target)[part, 0] ** 2))
        usual = np.sqrt(np.mean((mixed.values - target)[:, 0] ** 2))
        assert seen / usual == pytest.approx(np.sqrt(np.mean(factors[part, 0] ** 2)), rel=0.2)
    assert np.corrcoef(np.log(factors[:, 0]), np.log(size))[0, 1] > 0.7
    assert factors[:, 1].std() < 0.15 * factors[:, 0].std()
    assert np.mean(factors**2, axis=0) == pytest.approx([1.0, 1.0], rel=0.15)


def test_it_maximises_the_stated_likelihood():
    draws = np.random.default_rng(2)
    values, told = draws.normal(size=(300, 1)), np.exp(draws.normal(size=(300, 1)))
    error = draws.normal(size=(300, 1)) * np.exp(0.4 * values)
    model = fit_spread(error, values, told, 7.0, 0)
    assert model is not None

    def cost(intercept, slopes):
        changed = model.model_copy(update={"intercept": (intercept,), "slopes": (tuple(slopes),)})
        std = changed.factors(values, told)
        return np.sum(np.log(std) + error**2 / (2 * std**2)) + 3.5 * np.sum(np.square(slopes))

    at, slopes = model.intercept[0], np.array(model.slopes[0])
    assert slopes[0] == pytest.approx(0.8, abs=0.25)  # log of the square rises twice as fast
    for step in draws.normal(size=(40, 4)) * 0.05:
        assert cost(at + step[0], slopes + step[1:]) > cost(at, slopes) - 1e-4


def test_disagreement_does_not_grow_with_the_number_of_speakers():
    draws = np.random.default_rng(0)
    predictions = draws.normal(size=(20, 4000, 1)) * 3
    weights = draws.random(20) + 0.1
    whole = disagreement(predictions, weights, pool(predictions, weights))
    heard = np.where(draws.random((20, 4000, 1)) < 0.2, predictions, np.nan)
    mixed = pool(heard, weights)
    few = disagreement(heard, weights, mixed)
    assert whole.mean() == pytest.approx(9.0, rel=0.05)
    assert np.nanmean(few) == pytest.approx(9.0, rel=0.08)
    assert (np.isnan(few[:, 0]) == (mixed.num_learners < 2)).all()


def test_errors_that_are_all_alike_are_left_alike():
    for seed in range(5):
        draws = np.random.default_rng(seed)
        values, told = draws.normal(size=(300, 1)), np.exp(draws.normal(size=(300, 1)))
        assert fit_spread(draws.normal(size=(300, 1)), values, told, 10.0, seed) is None
        assert fit_spread(draws.normal(size=(3, 1)), values[:3], told[:3], 10.0, seed) is None


def test_rows_a_single_learner_speaks_for_have_the_usual_disagreement_and_finite_factors():
    draws = np.random.default_rng(0)
    values, alone = draws.normal(size=(300, 1)), np.full((300, 1), np.nan)
    error = draws.normal(size=(300, 1)) * np.exp(0.8 * values)
    for told in (alone, np.where(draws.random((300, 1)) < 0.5, alone, 1.0)):
        model = fit_spread(error, values, told, 10.0, 0)
        assert model is not None
        assert np.isfinite(model.factors(values, alone)).all()
        assert np.isfinite(model.factors(values * 1e6, alone)).all()
