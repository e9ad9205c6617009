import numpy as np
import pytest
from scipy import stats

from training_core.errors import DataError
from training_core.evaluation.comparison import compare_on_datasets, compare_on_splits, mean_ranks
from training_core.evaluation.metrics import score
from training_core.evaluation.statistics import (
    compare,
    corrected_resampled_t,
    corrected_standard_error,
    holm,
    percentile_interval,
    resample,
    resampled_scores,
    score_interval,
    wilcoxon,
)
from training_core.schema import TaskSpec

CLASSES = TaskSpec.classification("abc")
LABELS = TaskSpec.multilabel("uvw")
VALUES = TaskSpec.regression(["x", "y"])


def a_world(task, num_rows=60, seed=0, sharpness=2.0):
    draws = np.random.default_rng(seed)
    if task.kind == "classification":
        target = draws.integers(0, 3, num_rows)
        logits = draws.normal(size=(num_rows, 3)) + sharpness * np.eye(3)[target]
        return target, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    if task.kind == "multilabel":
        target = (draws.random((num_rows, 3)) < 0.4).astype(np.float32)
        return target, np.round(1 / (1 + np.exp(-draws.normal(size=(num_rows, 3)) - sharpness * (target - 0.5))), 1)
    target = 1e4 + draws.normal(size=(num_rows, 2))
    return target, target + draws.normal(size=(num_rows, 2)) / sharpness


@pytest.mark.parametrize("task", [CLASSES, LABELS, VALUES], ids=lambda task: task.kind)
def test_a_resampled_score_is_the_score_of_the_resampled_rows(task):
    target, prediction = a_world(task)
    drawn = resample(len(target), 70)
    found = resampled_scores(task, target, prediction, drawn)
    for counts, one in zip(drawn.counts, found, strict=True):
        rows = np.repeat(np.arange(len(target)), counts)
        assert one == pytest.approx(score(task, target[rows], prediction[rows]), abs=1e-9)


def test_a_constant_target_and_a_draw_without_positives_have_a_score_all_the_same():
    drawn = resample(4, 50)
    constant = np.ones((4, 2))
    assert (resampled_scores(VALUES, constant, constant, drawn) == 1).all()
    assert (resampled_scores(VALUES, constant, constant + 1, drawn) == 0).all()
    rare = np.zeros((4, 3), np.float32)
    rare[0, 0] = 1
    found = resampled_scores(LABELS, rare, np.full((4, 3), 0.5), drawn)
    assert np.isfinite(found).all()
    assert (resampled_scores(LABELS, np.zeros((4, 3)), np.full((4, 3), 0.5), drawn) == 0).all()


def test_rows_are_drawn_with_replacement_and_the_same_seed_draws_the_same():
    drawn = resample(50, 400, seed=3)
    assert drawn.unit == "row"
    assert drawn.num_units == 50
    assert (drawn.counts.sum(axis=1) == 50).all()
    assert (resample(50, 400, seed=3).counts == drawn.counts).all()
    assert (resample(50, 400, seed=4).counts != drawn.counts).any()
    assert (drawn.counts == 0).mean() == pytest.approx((1 - 1 / 50) ** 50, abs=0.02)


def test_groups_are_drawn_as_a_whole():
    groups = np.array(list("aabbbcdd"), object)
    drawn = resample(8, 100, groups=groups)
    assert drawn.unit == "group"
    assert drawn.num_units == 4
    for name in "abcd":
        assert (np.ptp(drawn.counts[:, groups == name], axis=1) == 0).all()
    assert len(set(drawn.counts.sum(axis=1))) > 1


def test_rows_with_times_are_drawn_in_blocks_of_time():
    times = np.random.default_rng(0).permutation(27)
    drawn = resample(27, 200, times=times)
    assert (drawn.unit, drawn.num_units) == ("block", 9)
    in_time = drawn.counts[:, np.argsort(times)].astype(int)
    changes = (np.diff(np.column_stack([in_time, in_time[:, :1]]), axis=1) != 0).sum(axis=1)
    assert (drawn.counts.sum(axis=1) == 27).all()
    assert changes.max() <= 2 * 9
    single = resample(27, 200)
    apart = (np.diff(single.counts.astype(int), axis=1) != 0).sum(axis=1)
    assert changes.mean() < apart.mean()


def test_blocks_see_the_doubt_that_rows_hide():
    """Errors that come in runs: the interval from blocks is wider, as it has to be."""
    right = np.repeat(np.random.default_rng(1).random(100) < 0.8, 10)
    target = np.zeros(1000, int)
    prediction = np.eye(3)[np.where(right, 0, 1)]
    rows = score_interval(CLASSES, target, prediction, resample(1000))
    blocks = score_interval(CLASSES, target, prediction, resample(1000, times=np.arange(1000)))
    assert blocks.high - blocks.low > 1.8 * (rows.high - rows.low)


def test_no_rows_are_refused():
    with pytest.raises(DataError, match="no rows"):
        resample(0)


def test_very_many_rows_get_fewer_resamples():
    assert len(resample(150_000, 1000).counts) == 40_000_000 // 150_000
    assert len(resample(10, 7).counts) == 7


def test_the_interval_holds_the_true_accuracy_about_as_often_as_it_says():
    draws = np.random.default_rng(0)
    drawn = resample(200, 300)
    held = 0
    for _ in range(300):
        right = draws.random(200) < 0.85
        found = score_interval(CLASSES, np.zeros(200, int), np.eye(3)[np.where(right, 0, 1)], drawn)
        held += found.low <= 0.85 <= found.high
    assert 0.90 <= held / 300 <= 0.985


@pytest.mark.parametrize("right", [True, False])
def test_without_a_single_error_the_interval_is_the_exact_binomial_one(right):
    target = np.zeros(40, int)
    found = score_interval(CLASSES, target, np.eye(3)[np.full(40, 0 if right else 1)], resample(40))
    exact = stats.binomtest(40 if right else 0, 40).proportion_ci(0.95, method="exact")
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=1e-12)


def test_the_percentile_interval_is_that_of_scipy():
    values = np.random.default_rng(0).normal(size=80)
    drawn = resample(80, 4000)
    mine = percentile_interval((drawn.counts @ values) / 80)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=0).confidence_interval
    assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_a_better_predictor_leads_and_the_order_only_changes_the_sign():
    target, good = a_world(CLASSES, 300, sharpness=4.0)
    bad = a_world(CLASSES, 300, sharpness=0.5)[1]
    drawn = resample(300)
    lead, lag = compare(CLASSES, target, good, bad, drawn), compare(CLASSES, target, bad, good, drawn)
    assert lead.difference > 0
    assert lead.p_value < 0.01
    assert lead.wilcoxon_p_value < 1e-6
    assert lead.interval.low > 0
    assert lag.difference == pytest.approx(-lead.difference)
    assert (lag.interval.low, lag.interval.high) == pytest.approx((-lead.interval.high, -lead.interval.low))
    same = compare(CLASSES, target, good, good, drawn)
    assert (same.difference, same.p_value, same.wilcoxon_p_value) == (0.0, 1.0, 1.0)


def test_two_predictors_of_equal_worth_are_seldom_told_apart():
    found = []
    for seed in range(100):
        draws = np.random.default_rng(seed)
        values = [np.eye(3)[(draws.random(150) > 0.8).astype(int)] for _ in range(2)]
        found.append(compare(CLASSES, np.zeros(150, int), values[0], values[1], resample(150, 200, seed)).p_value)
    assert np.mean(np.array(found) < 0.05) <= 0.12


def test_a_test_on_groups_has_as_many_units_as_groups():
    target, values = a_world(CLASSES, 60)
    other = a_world(CLASSES, 60, seed=5)[1]
    found = compare(CLASSES, target, values, other, resample(60, groups=np.repeat(np.arange(6), 10).astype(str)))
    assert (found.num_units, found.num_rows) == (6, 60)
    assert found.wilcoxon_p_value >= 2 / 2**6  # the least that six units can show


def test_the_corrected_t_is_nadeau_and_bengios():
    found = np.array([0.02, 0.01, 0.03, 0.00, 0.04])
    t, p_value = corrected_resampled_t(found, 3 / 7)
    expected = 0.02 / np.sqrt((1 / 5 + 3 / 7) * 0.00025)
    assert t == pytest.approx(expected)
    assert p_value == pytest.approx(2 * stats.t.sf(expected, 4))
    assert corrected_standard_error(found, 3 / 7) == pytest.approx(0.02 / expected)


def test_without_shared_rows_the_corrected_t_is_the_plain_one():
    found = np.random.default_rng(0).normal(0.3, 1, 12)
    assert corrected_resampled_t(found, 0.0) == pytest.approx(tuple(stats.ttest_1samp(found, 0.0)))


def test_differences_that_are_all_equal_have_a_t_all_the_same():
    assert corrected_resampled_t(np.zeros(4), 0.5) == (0.0, 1.0)
    assert corrected_resampled_t(np.full(4, -0.5), 0.5) == (-np.inf, 0.0)
    with pytest.raises(DataError, match="at least 2 splits"):
        corrected_resampled_t(np.ones(1), 0.5)


def test_wilcoxon_is_scipys_and_knows_what_no_difference_is():
    found = np.array([0.3, -0.1, 0.2, 0.5, 0.4, 0.6, -0.05])
    assert wilcoxon(found) == pytest.approx(stats.wilcoxon(found).pvalue)
    assert wilcoxon(np.zeros(5)) == 1.0


def test_holm_steps_down_and_never_falls():
    assert holm(np.array([0.01, 0.04, 0.03])) == pytest.approx([0.03, 0.06, 0.06])
    assert holm(np.array([0.9, 0.8])) == pytest.approx([1.0, 1.0])
    assert len(holm(np.zeros(0))) == 0


def test_methods_on_splits_are_ranked_and_tested_against_the_best():
    draws = np.random.default_rng(0)
    base = draws.normal(0.8, 0.02, 10)
    scores = {"worse": base - 0.05, "best": base + draws.normal(0, 0.002, 10), "near": base - 0.0005}
    found = compare_on_splits({name: list(values) for name, values in scores.items()}, 3 / 7)
    assert [one.name for one in found.methods][-1] == "worse"
    first, last = found.methods[0], found.methods[-1]
    assert first.p_value is None
    assert first.behind_best == 0
    assert last.p_value is not None
    assert last.p_value < 0.001
    assert last.mean_rank == 3
    assert found.friedman_p_value == pytest.approx(stats.friedmanchisquare(*scores.values()).pvalue)
    assert first.interval.low < first.mean < first.interval.high


def test_ties_share_their_ranks():
    table = np.array([[0.9, 0.8], [0.9, 0.7], [0.1, 0.8]])
    assert mean_ranks(table) == pytest.approx([(1.5 + 1.5) / 2, (1.5 + 3) / 2, (3 + 1.5) / 2])


def test_over_data_sets_a_method_that_always_wins_is_told_from_its_rivals():
    rival = list(np.linspace(0.6, 0.9, 8))
    found = compare_on_datasets({"ours": [v + 0.01 for v in rival], "rival": rival, "twin": rival}, "ours")
    assert found == {"rival": pytest.approx(2 * 2 / 2**8), "twin": pytest.approx(2 * 2 / 2**8)}
    with pytest.raises(DataError, match="no method 'nobody'"):
        compare_on_datasets({"a": [1.0, 2.0]}, "nobody")


@pytest.mark.parametrize("scores", [{}, {"a": [1.0]}, {"a": [1.0, 2.0], "b": [1.0]}])
def test_scores_of_different_splits_are_refused(scores):
    with pytest.raises(DataError, match="same splits"):
        compare_on_splits(scores, 0.4)
