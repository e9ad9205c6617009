import numpy as np
import pytest

from training_core.data.splitting.bags import Bag, BagsConfig, bag_features, in_bag_rows, make_bags, out_of_bag_rows
from training_core.errors import ConfigError
from training_core.schema import ColumnSpec, DataSpec, ModalitySpec, TaskSpec

ROWS = np.arange(100, 300)
CLASSES = np.repeat([0, 1, 2], [120, 60, 20])


def a_spec(num_modalities: int = 3) -> DataSpec:
    modalities = tuple(ModalitySpec(name=f"m{i}", kind="vector", shape=(10,)) for i in range(num_modalities))
    return DataSpec(modalities=modalities, task=TaskSpec.classification("abc"))


def a_bag(**changes: object) -> Bag:
    values: dict = {"name": "bag-03", "modalities": ("m0",), "sampling": "subsample", "seed": 1, "row_seed": 1}
    return Bag(**(values | {"row_fraction": 0.8, "feature_fraction": 1.0} | changes))


def drop_rates(bags: tuple[Bag, ...], num_modalities: int) -> np.ndarray:
    return np.asarray([1 - len(bag.modalities) / num_modalities for bag in bags])


def test_the_full_set_comes_first_then_every_single_modality():
    bags = make_bags(BagsConfig(num_bags=6, num_row_draws=1), a_spec(3), seed=0)
    assert [bag.modalities for bag in bags[:4]] == [("m0", "m1", "m2"), ("m0",), ("m1",), ("m2",)]
    assert [bag.name for bag in bags] == [f"bag-0{i}" for i in range(6)]


def test_every_draw_of_rows_has_a_full_set_while_there_is_room():
    full = [sum(len(bag.modalities) == 3 for bag in bags) for bags in map(bags_of_three, (4, 5, 6))]
    assert full == [1, 2, 3]


def bags_of_three(num_bags: int) -> tuple[Bag, ...]:
    return make_bags(BagsConfig(num_bags=num_bags, num_row_draws=4), a_spec(3), seed=0)


def test_bags_of_one_draw_share_their_rows_and_other_draws_have_others():
    bags = make_bags(BagsConfig(num_bags=7, num_row_draws=3), a_spec(3), seed=0)
    drawn = [tuple(in_bag_rows(bag, ROWS, CLASSES, None)) for bag in bags]
    assert drawn[0] == drawn[3] == drawn[6]
    assert drawn[1] == drawn[4]
    assert len({drawn[0], drawn[1], drawn[2]}) == 3
    assert len({bag.seed for bag in bags}) == 7


def test_one_modality_makes_bags_that_differ_in_their_rows_only():
    bags = make_bags(BagsConfig(num_bags=3, num_row_draws=3), a_spec(1), seed=0)
    assert [bag.modalities for bag in bags] == [("m0",)] * 3
    assert len({tuple(in_bag_rows(bag, ROWS, None, None)) for bag in bags}) == 3


@pytest.mark.parametrize("num_bags", [1, 3])
def test_there_are_never_fewer_bags_than_the_full_set_and_every_single_modality(num_bags):
    assert [bag.modalities for bag in make_bags(BagsConfig(num_bags=num_bags), a_spec(3), seed=0)] == [
        ("m0", "m1", "m2"),
        ("m0",),
        ("m1",),
        ("m2",),
    ]


@pytest.mark.parametrize("strategy", ["random", "linear"])
def test_masks_differ_while_different_ones_can_be_had(strategy):
    bags = make_bags(BagsConfig(num_bags=7, num_row_draws=1, strategy=strategy, max_dropout=0.6), a_spec(3), seed=0)
    assert len({bag.modalities for bag in bags}) == 7


@pytest.mark.parametrize("strategy", ["random", "linear"])
@pytest.mark.parametrize("max_dropout", [0.0, 1.0])
def test_no_mask_is_ever_empty(strategy, max_dropout):
    bags = make_bags(BagsConfig(num_bags=40, strategy=strategy, max_dropout=max_dropout), a_spec(3), seed=0)
    assert all(bag.modalities for bag in bags)
    if max_dropout == 0:
        assert all(len(bag.modalities) == 3 for bag in bags[5:])


def test_the_linear_strategy_drops_more_and_more_up_to_its_maximum():
    bags = make_bags(BagsConfig(num_bags=441, num_row_draws=1, strategy="linear", max_dropout=0.6), a_spec(40), seed=0)[
        41:
    ]
    rates = drop_rates(bags, 40)
    assert rates[:40].mean() == pytest.approx(0.6 * 20 / 400, abs=0.03)  # a little more: the full set is drawn again
    assert rates[-40:].mean() == pytest.approx(0.6 * 380 / 400, abs=0.03)


def test_the_random_strategy_drops_half_of_its_maximum_on_average():
    bags = make_bags(BagsConfig(num_bags=441, num_row_draws=1, strategy="random", max_dropout=0.6), a_spec(40), seed=0)[
        41:
    ]
    rates = drop_rates(bags, 40)
    assert rates.mean() == pytest.approx(0.3, abs=0.03)
    assert rates[:200].mean() == pytest.approx(rates[200:].mean(), abs=0.05)


def test_same_seed_same_bags_and_another_seed_others():
    first, again, other = (make_bags(BagsConfig(), a_spec(3), seed) for seed in (0, 0, 1))
    assert first == again
    assert [bag.seed for bag in first] != [bag.seed for bag in other]


def test_a_bag_survives_json():
    bag = make_bags(BagsConfig(feature_fraction=0.5), a_spec(3), seed=0)[5]
    assert Bag.model_validate_json(bag.to_json()) == bag


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


def test_feature_columns_are_kept_only_of_vectors_and_tables():
    table = ModalitySpec(name="table", kind="tabular", shape=(1,), columns=(ColumnSpec(name="age"),))
    image = ModalitySpec(name="image", kind="image", shape=(1, 4, 4))
    spec = DataSpec(modalities=(*a_spec(1).modalities, table, image), task=TaskSpec.regression())
    kept = bag_features(a_bag(feature_fraction=0.3, modalities=("m0", "table", "image")), spec)
    assert {name: len(columns) for name, columns in kept.items()} == {"m0": 3, "table": 1}
    assert all(list(columns) == sorted(set(columns)) for columns in kept.values())
    assert spec.select(kept, kept)["m0"].shape == (3,)
    assert bag_features(a_bag(feature_fraction=1.0), spec) == {}


@pytest.mark.parametrize("change", [{"row_fraction": 0.0}, {"max_dropout": 1.1}, {"num_bags": 0}, {"strategy": "odd"}])
def test_settings_out_of_bounds_are_refused_by_name(change):
    (key,) = change
    with pytest.raises(ConfigError, match=key):
        BagsConfig.parse(change, "bags")


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
