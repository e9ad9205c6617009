from typing import Any

import numpy as np
import pytest

from training_core.data.splitting.bags import Bag
from training_core.data.splitting.folds import fold_of_rows
from training_core.data.splitting.row_draws import draw_rows, in_bag_rows, out_of_bag_rows, units_of_rows
from training_core.errors import ConfigError
from training_core.seeding import derive_seed

ROWS = np.arange(100, 300)
CLASSES = np.repeat([0, 1, 2], [120, 60, 20])


def a_bag(**changes: Any) -> Bag:
    values: dict[str, Any] = {
        "name": "bag-03",
        "modalities": ("m0",),
        "sampling": "subsample",
        "seed": 1,
        "row_seed": 1,
    }
    return Bag.model_validate(values | {"row_fraction": 0.8, "feature_fraction": 1.0} | changes)


@pytest.mark.parametrize("sampling", ["subsample", "bootstrap"])
@pytest.mark.parametrize("grouped", [False, True])
def test_in_and_out_of_bag_share_the_rows_out(sampling, grouped):
    groups = np.asarray([f"g{i // 7}" for i in range(200)], object) if grouped else None
    bag = a_bag(sampling=sampling)
    inside, outside = (draw(bag, ROWS, CLASSES, groups) for draw in (in_bag_rows, out_of_bag_rows))
    assert inside.dtype == outside.dtype == np.int64
    assert set(inside) | set(outside) == set(ROWS)
    assert not set(inside) & set(outside)
    assert (np.diff(outside) > 0).all()
    if grouped:
        assert not {(row - 100) // 7 for row in inside} & {(row - 100) // 7 for row in outside}


def test_a_subsample_has_no_repeats_and_the_wanted_size():
    inside = in_bag_rows(a_bag(), ROWS, CLASSES, None)
    assert len(inside) == len(set(inside)) == 160
    assert np.bincount(CLASSES[inside - 100]).tolist() == [96, 48, 16]


def test_a_bootstrap_repeats_rows_class_by_class():
    inside = in_bag_rows(a_bag(sampling="bootstrap", row_fraction=1.0), ROWS, CLASSES, None)
    assert np.bincount(CLASSES[inside - 100]).tolist() == [120, 60, 20]
    assert 0.55 < len(set(inside)) / 200 < 0.72  # 1 - 1/e = .632 of the rows are drawn at least once


def test_a_bootstrap_of_groups_repeats_whole_groups():
    groups = np.asarray([f"g{i // 10}" for i in range(200)], object)
    inside = in_bag_rows(a_bag(sampling="bootstrap", row_fraction=1.0), ROWS, None, groups)
    times_drawn = np.bincount(inside - 100, minlength=200).reshape(20, 10)
    assert (times_drawn == times_drawn[:, :1]).all()
    assert times_drawn.max() > 1


def test_every_class_stays_in_the_bag_however_small_the_fraction():
    inside = in_bag_rows(a_bag(row_fraction=0.01), ROWS, CLASSES, None)
    assert set(CLASSES[inside - 100]) == {0, 1, 2}


def test_regression_and_multilabel_targets_are_drawn_without_strata():
    real = np.random.default_rng(0).normal(size=(200, 1))
    labels = (real > 0).astype(np.float32)
    plain = in_bag_rows(a_bag(), ROWS, None, None)
    assert (in_bag_rows(a_bag(), ROWS, real, None) == plain).all()
    assert (in_bag_rows(a_bag(), ROWS, labels, None) == plain).all()


def test_nothing_in_the_bag_is_refused():
    with pytest.raises(ConfigError, match=r"bag-03: 0 rows left of 0; widen `row_fraction`"):
        in_bag_rows(a_bag(), ROWS[:0], CLASSES[:0], None)


@pytest.mark.parametrize("target", [None, CLASSES])
def test_nothing_out_of_the_bag_is_refused(target):
    with pytest.raises(ConfigError, match=r"bag-03: 0 rows left out of the bag .* lower `row_fraction`"):
        out_of_bag_rows(a_bag(row_fraction=1.0), ROWS, target, None)
    with pytest.raises(ConfigError, match=r"\(1 groups, all drawn\)"):
        out_of_bag_rows(a_bag(), ROWS, target, np.full(200, "one", object))


def test_a_fraction_below_one_always_leaves_a_row_out():
    assert len(out_of_bag_rows(a_bag(row_fraction=0.99), ROWS[:3], None, None)) == 1


@pytest.mark.parametrize("sampling", ["subsample", "bootstrap"])
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("dates", [False, True])
def test_with_times_whole_blocks_of_neighbours_are_left_out(sampling, grouped, dates):
    order = np.random.default_rng(0).permutation(200)
    times = np.datetime64("2026-01-01", "us") + order * np.timedelta64(1, "h") if dates else order.astype(float)
    groups = np.asarray([f"g{when // 4}" for when in order], object) if grouped else None
    bag = a_bag(sampling=sampling)
    inside, outside = (draw(bag, ROWS, CLASSES, groups, times) for draw in (in_bag_rows, out_of_bag_rows))
    assert set(inside) | set(outside) == set(ROWS)
    assert not set(inside) & set(outside)
    left_out = np.sort(order[outside - 100])
    runs = np.split(left_out, np.flatnonzero(np.diff(left_out) > 1) + 1)
    assert all(len(run) % (4 if grouped else 10) == 0 for run in runs)  # a twentieth of the rows, whole groups
    if sampling == "subsample":
        assert len(inside) == pytest.approx(160, abs=8)
        assert len(runs) <= 4
    if grouped:
        assert groups is not None
        assert not set(groups[inside - 100]) & set(groups[outside - 100])


def test_a_learner_s_own_rows_are_split_by_groups_else_by_the_blocks_of_bags():
    times = np.random.default_rng(0).permutation(200).astype(float)
    groups = np.asarray([f"g{i // 7}" for i in range(200)], object)
    assert units_of_rows(None, None) is None and units_of_rows(None, np.zeros(200)) is None
    assert units_of_rows(None, times[:0]) is None
    assert units_of_rows(groups, times) is groups
    units = units_of_rows(None, times)
    assert units is not None and units.dtype == object
    finer = units_of_rows(None, times, 100)
    assert finer is not None and np.unique(finer.astype(str), return_counts=True)[1].tolist() == [5] * 40
    for seed in range(5):
        inside, outside = (units[rows - 100] for rows in draw_rows(a_bag(row_seed=seed), ROWS, CLASSES, None, times))
        assert len(set(inside)) == 16 and len(set(outside)) == 4 and not set(inside) & set(outside)


def test_neighbours_that_are_copies_do_not_flatter_a_learner_judged_by_time():
    draws = np.random.default_rng(0)
    level = np.cumsum(draws.normal(size=200))  # a random walk: neighbours are alike, far ones are not
    times = np.arange(200.0)

    def error_of_the_nearest(drawn: tuple) -> float:
        inside, outside = in_bag_rows(*drawn) - 100, out_of_bag_rows(*drawn) - 100
        nearest = inside[np.abs(inside[None] - outside[:, None]).argmin(axis=1)]
        return float(np.abs(level[nearest] - level[outside]).mean())

    by_row = np.mean([error_of_the_nearest((a_bag(row_seed=s), ROWS, None, None)) for s in range(10)])
    in_time = np.mean([error_of_the_nearest((a_bag(row_seed=s), ROWS, None, None, times)) for s in range(10)])
    assert in_time > 1.3 * by_row


def test_few_rows_and_few_times_still_leave_some_out():
    for times in (np.arange(6.0), np.asarray([0.0] * 199 + [1.0]), np.asarray([0.0] + [1.0] * 199)):
        rows = np.arange(len(times))
        drawn = (a_bag(), rows, None, None, times)
        assert sorted([*in_bag_rows(*drawn), *out_of_bag_rows(*drawn)]) == list(rows)


def folds_of(num_folds: int, target: np.ndarray | None, groups=None, times=None, rows: np.ndarray = ROWS) -> np.ndarray:
    """The fold that leaves each row out, checked to be exactly one."""
    fold = np.full(len(rows), -1)
    for number in range(num_folds):
        bag = a_bag(sampling="folds", num_folds=num_folds, fold=number)
        inside, outside = draw_rows(bag, rows, target, groups, times)
        assert len(np.unique(inside)) == len(inside)
        assert sorted([*inside, *outside]) == sorted(rows)
        place = np.searchsorted(rows, outside)
        assert (fold[place] == -1).all()
        fold[place] = number
    assert (fold >= 0).all()
    return fold


@pytest.mark.parametrize("num_folds", [2, 3, 5])
def test_folds_leave_every_row_out_once_with_its_share_of_every_class(num_folds):
    fold = folds_of(num_folds, CLASSES)
    for code in range(3):
        of_class = np.bincount(fold[code == CLASSES], minlength=num_folds)
        assert of_class.max() - of_class.min() <= 1


def test_folds_are_those_of_the_function_they_are_made_by():
    fold = folds_of(4, CLASSES)
    seed = derive_seed(a_bag().row_seed, "folds")
    assert (fold == fold_of_rows(200, 4, CLASSES, None, seed)).all()


def test_folds_of_other_rows_or_classes_are_dealt_anew():
    first = folds_of(4, CLASSES)
    assert (folds_of(4, CLASSES) == first).all()
    other = folds_of(4, CLASSES[::-1].copy())
    assert not (other == first).all()
    assert np.ptp(np.bincount(other[:20], minlength=4)) <= 1
    assert (folds_of(4, CLASSES) == first).all()


def test_folds_never_split_a_group():
    groups = np.asarray([f"g{i // 7}" for i in range(200)], object)
    fold = folds_of(4, CLASSES, groups)
    assert all(len(set(fold[groups == name])) == 1 for name in set(groups))
    assert np.bincount(fold).max() < 80


def test_labels_are_shared_out_over_folds_too():
    labels = np.zeros((200, 2), np.float32)
    labels[:10, 0] = 1
    labels[5:105, 1] = 1
    fold = folds_of(5, labels)
    assert np.bincount(fold[:10], minlength=5).tolist() == [2, 2, 2, 2, 2]
    assert np.ptp(np.bincount(fold[5:105], minlength=5)) <= 1
    assert np.ptp(np.bincount(fold, minlength=5)) <= 2


def test_values_are_shared_out_over_folds_at_random():
    fold = folds_of(5, np.random.default_rng(0).normal(size=(200, 1)))
    assert np.bincount(fold).tolist() == [40] * 5


@pytest.mark.parametrize("grouped", [False, True])
def test_folds_in_time_leave_whole_spans_out(grouped):
    order = np.random.default_rng(0).permutation(200)
    groups = np.asarray([f"g{when // 4}" for when in order], object) if grouped else None
    fold = folds_of(5, CLASSES, groups, order.astype(float))
    in_time = fold[np.argsort(order)]
    spans = np.split(in_time, np.flatnonzero(np.diff(in_time)) + 1)
    assert len(spans) <= 20
    assert all(len(span) % (4 if grouped else 10) == 0 for span in spans)
    assert np.bincount(fold, minlength=5) == pytest.approx(40, abs=8 if grouped else 0)


@pytest.mark.parametrize(
    "counts", [[100, 3], [100, 3, 2, 1], [100, 1], [2, 2, 2, 2], [50, 50, 4, 4, 4]], ids=lambda counts: str(counts)
)
@pytest.mark.parametrize("grouped", [False, True])
def test_classes_with_fewer_rows_than_folds_are_spread_over_several(counts, grouped):
    codes = np.repeat(np.arange(len(counts)), counts)
    rows = np.arange(len(codes))
    groups = np.asarray([f"g{i}" for i in rows], object) if grouped else None
    fold = folds_of(5, codes, groups, rows=rows)
    for code, count in enumerate(counts):
        assert len(set(fold[codes == code])) >= min(count, 2), "learnt from in at least one fold when there are several"


def test_fewer_units_than_folds_are_refused_with_what_to_do():
    bag = a_bag(sampling="folds", num_folds=5)
    three = np.asarray(["a", "b", "c"] * 66 + ["a", "b"], object)
    with pytest.raises(ConfigError, match=r"bag-03: 3 groups cannot make 5 folds; lower `bags.num_row_draws`"):
        draw_rows(bag, ROWS, CLASSES, three)
    with pytest.raises(ConfigError, match="4 rows cannot make 5 folds"):
        draw_rows(bag, ROWS[:4], CLASSES[:4], None)
    with pytest.raises(ConfigError, match="2 blocks of time cannot make 5 folds"):
        draw_rows(bag, ROWS, CLASSES, None, np.repeat([0.0, 1.0], 100))


def test_a_balanced_bootstrap_has_as_many_draws_of_every_class():
    bag = a_bag(sampling="bootstrap", row_fraction=1.0, class_balanced=True)
    inside, outside = draw_rows(bag, ROWS, CLASSES, None)
    assert np.bincount(CLASSES[inside - 100]).tolist() == [67, 67, 66]
    assert set(inside) | set(outside) == set(ROWS)
    assert not set(inside) & set(outside)


def test_a_balanced_bootstrap_keeps_rows_of_rare_classes_to_judge_a_learner_on():
    codes = np.repeat([0, 1], [950, 50])
    rows = np.arange(1000)
    kept, plain = [], []
    for seed in range(50):
        balanced = a_bag(sampling="bootstrap", row_fraction=1.0, class_balanced=True, row_seed=seed)
        outside = draw_rows(balanced, rows, codes, None).outside
        alone = draw_rows(balanced.model_copy(update={"class_balanced": False}), rows, codes, None).outside
        assert set(alone) <= set(outside)
        kept.append((codes[outside] == 1).mean())
        plain.append((codes[outside] == 1).sum())
    assert np.mean(plain) == pytest.approx(50 / np.e, abs=1.5)
    assert np.mean(kept) > 0.025, "half of their share at least; drawn at once there would be none: 50 e^-10 rows"


def test_a_balanced_bootstrap_of_groups_repeats_whole_groups():
    groups = np.asarray([f"g{i // 10}" for i in range(200)], object)
    bag = a_bag(sampling="bootstrap", row_fraction=1.0, class_balanced=True)
    inside, outside = draw_rows(bag, ROWS, CLASSES, groups)
    times_drawn = np.bincount(inside - 100, minlength=200).reshape(20, 10)
    assert (times_drawn == times_drawn[:, :1]).all()
    per_class = [times_drawn[:12, 0].sum(), times_drawn[12:18, 0].sum(), times_drawn[18:, 0].sum()]
    assert sorted(per_class) == [6, 7, 7]
    assert not set(groups[inside - 100]) & set(groups[outside - 100])


def test_a_balanced_bootstrap_of_one_class_is_a_bootstrap():
    bag = a_bag(sampling="bootstrap", row_fraction=0.5, class_balanced=True)
    inside, outside = draw_rows(bag, ROWS, np.zeros(200, np.int64), None)
    assert len(inside) == 100
    assert len(outside) > 100


def test_classes_cannot_be_balanced_in_spans_of_time():
    bag = a_bag(sampling="bootstrap", class_balanced=True)
    with pytest.raises(ConfigError, match="drawn as whole spans of time, in which classes cannot be balanced"):
        draw_rows(bag, ROWS, CLASSES, None, np.arange(200.0))


@pytest.mark.parametrize("sampling", ["subsample", "bootstrap"])
def test_both_halves_are_those_that_are_drawn_together(sampling):
    drawn = (a_bag(sampling=sampling), ROWS, CLASSES, None)
    inside, outside = draw_rows(*drawn)
    assert (inside == in_bag_rows(*drawn)).all()
    assert (outside == out_of_bag_rows(*drawn)).all()


def test_without_a_second_time_rows_are_drawn_as_if_there_were_none():
    drawn = (a_bag(), ROWS, CLASSES, None)
    assert (in_bag_rows(*drawn, np.zeros(200)) == in_bag_rows(*drawn)).all()


def test_what_bags_without_times_draw_has_not_changed():
    groups = np.asarray([f"g{i // 7}" for i in range(200)], object)
    assert in_bag_rows(a_bag(row_fraction=0.05), ROWS, CLASSES, None).tolist() == [
        122,
        130,
        132,
        152,
        178,
        191,
        221,
        242,
        279,
        282,
    ]
    assert in_bag_rows(a_bag(row_fraction=0.05), ROWS, CLASSES, groups).tolist() == [
        177,
        178,
        179,
        180,
        181,
        182,
        183,
        233,
        234,
        235,
        236,
        237,
        238,
        239,
        289,
        290,
        291,
        292,
        293,
        294,
        295,
    ]
