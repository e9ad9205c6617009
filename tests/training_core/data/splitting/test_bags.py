from collections import Counter
from typing import Any

import numpy as np
import pytest

from training_core.data.splitting.bags import (
    Bag,
    BagsConfig,
    bag_features,
    make_bags,
    single_modality_bags,
    without_fold,
)
from training_core.data.splitting.row_draws import draw_rows, in_bag_rows
from training_core.errors import ConfigError
from training_core.schema import ColumnSpec, DataSpec, ModalitySpec, TaskSpec

ROWS = np.arange(100, 300)
CLASSES = np.repeat([0, 1, 2], [120, 60, 20])


def a_spec(num_modalities: int = 3) -> DataSpec:
    modalities = tuple(ModalitySpec(name=f"m{i}", kind="vector", shape=(10,)) for i in range(num_modalities))
    return DataSpec(modalities=modalities, task=TaskSpec.classification("abc"))


def a_bag(**changes: Any) -> Bag:
    values: dict[str, Any] = {
        "name": "bag-03",
        "modalities": ("m0",),
        "sampling": "subsample",
        "seed": 1,
        "row_seed": 1,
    }
    return Bag.model_validate(values | {"row_fraction": 0.8, "feature_fraction": 1.0} | changes)


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


def test_same_seed_same_bags_and_another_seed_others():
    first, again, other = (make_bags(BagsConfig(), a_spec(3), seed) for seed in (0, 0, 1))
    assert first == again
    assert [bag.seed for bag in first] != [bag.seed for bag in other]


@pytest.mark.parametrize("sampling", ["subsample", "bootstrap", "folds"])
def test_a_bag_survives_json(sampling):
    bag = make_bags(BagsConfig(feature_fraction=0.5, sampling=sampling), a_spec(3), seed=0)[5]
    assert Bag.model_validate_json(bag.to_json()) == bag


@pytest.mark.parametrize(("num_bags", "num_masks"), [(12, 4), (20, 4), (25, 5), (38, 7), (60, 12)])
def test_every_mask_has_a_bag_for_every_fold(num_bags, num_masks):
    bags = make_bags(BagsConfig(num_bags=num_bags, sampling="folds"), a_spec(3), seed=0)
    assert len(bags) == 5 * num_masks
    for start in range(0, len(bags), 5):
        of_mask = bags[start : start + 5]
        assert [bag.fold for bag in of_mask] == [0, 1, 2, 3, 4]
        assert len({(bag.modalities, bag.seed) for bag in of_mask}) == 1
    assert len({bag.seed for bag in bags}) == num_masks
    assert len({bag.name for bag in bags}) == len(bags)
    assert len({bag.row_seed for bag in bags}) == 1


def test_the_names_of_a_mask_differ_in_their_fold_only():
    in_folds, plain = (make_bags(BagsConfig(sampling=s), a_spec(3), seed=0) for s in ("folds", "subsample"))
    assert [bag.name for bag in in_folds[4:6]] == ["bag-00-fold-4", "bag-01-fold-0"]
    assert len({without_fold(bag.name) for bag in in_folds}) == len({bag.seed for bag in in_folds}) == 4
    assert [without_fold(bag.name) for bag in plain] == [bag.name for bag in plain]
    assert without_fold("bag-03-fold-1/linear#2") == "bag-03/linear#2"
    assert without_fold("bag-03/my-fold-net") == "bag-03/my-fold-net"


def test_every_row_is_outside_exactly_one_bag_of_each_mask():
    bags = make_bags(BagsConfig(num_bags=28, sampling="folds", num_row_draws=4), a_spec(3), seed=0)
    for mask in {bag.seed for bag in bags}:
        outside = [draw_rows(bag, ROWS, CLASSES, None).outside for bag in bags if bag.seed == mask]
        assert sorted(np.concatenate(outside)) == list(ROWS)


def test_the_folds_of_a_mask_share_their_columns():
    config = BagsConfig(num_bags=20, sampling="folds", feature_fraction=0.5)
    bags = make_bags(config, a_spec(3), seed=0)
    columns = [bag_features(bag, a_spec(3)) for bag in bags]
    assert columns[0] == columns[4] != {}
    assert columns[0]["m0"] != columns[5]["m0"]


def test_without_modality_bags_every_bag_has_all_modalities():
    bags = make_bags(BagsConfig(modality_bags=False, strategy="adaptive"), a_spec(3), seed=0)
    assert [bag.modalities for bag in bags] == [("m0", "m1", "m2")] * 12
    assert len({bag.seed for bag in bags}) == 12
    assert len({bag.row_seed for bag in bags}) == 2
    in_folds = make_bags(BagsConfig(modality_bags=False, sampling="folds"), a_spec(3), seed=0)
    assert len(in_folds) == 10


@pytest.mark.parametrize("sampling", ["subsample", "folds"])
def test_the_bags_of_single_modalities_do_not_depend_on_utilities(sampling):
    utilities = {"m0": 0.1, "m1": 0.5, "m2": 0.0, "m3": 0.9, "m4": 0.2}
    adaptive = BagsConfig(num_bags=40, strategy="adaptive", sampling=sampling, max_dropout=1.0)
    linear = adaptive.model_copy(update={"strategy": "linear"})
    singles = single_modality_bags(make_bags(adaptive, a_spec(5), 0, utilities))
    assert singles == single_modality_bags(make_bags(linear, a_spec(5), 0))
    assert [bag.modalities[0] for bag in singles if bag.fold == 0] == [f"m{i}" for i in range(5)]
    assert len(singles) == (25 if sampling == "folds" else 5)


def test_balanced_classes_need_classes():
    regression = a_spec(2).model_copy(update={"task": TaskSpec.regression()})
    config = BagsConfig(sampling="bootstrap", class_balanced=True)
    with pytest.raises(ConfigError, match="one class per row, and this task is regression per sample"):
        make_bags(config, regression, seed=0)
    assert all(bag.class_balanced for bag in make_bags(config, a_spec(2), seed=0))


def test_copies_take_the_rows_of_another_bag_and_keep_their_mask():
    first, second = make_bags(BagsConfig(num_bags=20, sampling="folds"), a_spec(3), seed=0)[:2]
    copy = first.with_rows_of(second.row_draw, seed=7)
    assert copy == first.model_copy(update={"fold": 1, "seed": 7})


def test_five_folds_are_made_unless_another_number_is_given():
    assert BagsConfig(sampling="folds").num_row_draws == 5
    assert BagsConfig.parse({"sampling": "folds", "num_row_draws": 3}, "bags").num_row_draws == 3
    assert BagsConfig().num_row_draws == 2


def test_a_bag_has_about_as_many_rows_as_the_configuration_says():
    for config in (BagsConfig(row_fraction=0.7), BagsConfig(sampling="folds"), BagsConfig(sampling="bootstrap")):
        bag = make_bags(config, a_spec(2), seed=0)[0]
        assert len(in_bag_rows(bag, ROWS, CLASSES, None)) == pytest.approx(config.share_in_bag * 200, abs=1)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sampling": "folds", "num_row_draws": 1}, "one fold leaves no rows"),
        ({"class_balanced": True}, "sampling is subsample; set it to bootstrap"),
        ({"row_fraction": 1.0}, "leaves no rows to judge learners on"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        BagsConfig.parse(settings, "bags")


@pytest.mark.parametrize("changes", [{"num_folds": 3}, {"sampling": "folds"}, {"sampling": "folds", "num_folds": 1}])
def test_a_bag_has_folds_only_when_it_is_drawn_by_them(changes):
    with pytest.raises(ValueError, match="does not go with sampling"):
        a_bag(**changes)
    with pytest.raises(ValueError, match="fold 3 of 3"):
        a_bag(sampling="folds", num_folds=3, fold=3)


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


@pytest.mark.parametrize("num_modalities", [1, 2, 3])
def test_a_mask_that_comes_again_is_given_other_rows(num_modalities: int) -> None:
    for num_row_draws in (2, 3, 4):
        bags = make_bags(BagsConfig(num_bags=24, num_row_draws=num_row_draws), a_spec(num_modalities), seed=0)
        drawn = Counter((bag.modalities, bag.row_seed) for bag in bags)
        for mask in {bag.modalities for bag in bags}:
            times = [drawn[mask, row_seed] for row_seed in {bag.row_seed for bag in bags}]
            assert max(times) - min(times) <= 1
