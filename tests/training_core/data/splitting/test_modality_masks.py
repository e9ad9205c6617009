"""Which modalities bags have: subsets listed exactly, then drawn at the rates of the formulas."""

import math
from itertools import combinations
from typing import get_args

import numpy as np
import pytest

from training_core.data.splitting.modality_masks import DropoutStrategy, Mask, draw_mask, dropout_rate, modality_masks
from training_core.errors import ConfigError

STRATEGIES = get_args(DropoutStrategy)
DRAWS = np.random.default_rng(0)


def names_of(number: int) -> Mask:
    return tuple(f"m{i}" for i in range(number))


def masks_of(number: int, num_masks: int, strategy: DropoutStrategy = "random", **changes: object) -> list[Mask]:
    names = names_of(number)
    utilities = dict.fromkeys(names, 1.0) if strategy == "adaptive" else None
    given: dict = {"num_full": 1, "max_dropout": 0.5, "seed": 0, "utilities": utilities} | changes
    return modality_masks(names, num_masks, strategy=strategy, **given)


def rates(masks: list[Mask], number: int) -> np.ndarray:
    """Whether each mask lacks each modality, [masks, modalities]."""
    return np.array([[name not in mask for name in names_of(number)] for mask in masks], float)


def every_subset(number: int) -> set[Mask]:
    return {mask for size in range(1, number + 1) for mask in combinations(names_of(number), size)}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("number", [1, 2, 3, 4])
@pytest.mark.parametrize("more", [0, 5])
def test_with_up_to_four_modalities_and_enough_bags_every_subset_is_in(
    strategy: DropoutStrategy, number: int, more: int
) -> None:
    masks = masks_of(number, 2**number - 1 + more, strategy, num_full=3)
    assert len(masks) == 2**number - 1 + more
    assert set(masks) == every_subset(number)


def test_the_full_set_comes_first_then_singles_then_larger_subsets() -> None:
    assert masks_of(3, 7) == [
        ("m0", "m1", "m2"),
        ("m0",),
        ("m1",),
        ("m2",),
        ("m0", "m1"),
        ("m0", "m2"),
        ("m1", "m2"),
    ]
    sizes = [len(mask) for mask in masks_of(4, 15)]
    assert sizes == [4, 1, 1, 1, 1, 3, 3, 3, 3, 2, 2, 2, 2, 2, 2]


@pytest.mark.parametrize(("num_masks", "full"), [(7, 1), (8, 2), (9, 3), (20, 3)])
def test_the_full_set_is_repeated_only_where_every_subset_still_fits(num_masks: int, full: int) -> None:
    masks = masks_of(3, num_masks, num_full=3, strategy="linear", max_dropout=1.0)
    listed = masks[: 6 + full]
    assert sum(mask == names_of(3) for mask in listed) == full
    assert set(listed) == every_subset(3)


@pytest.mark.parametrize("number", [4, 5, 6, 12])
def test_with_many_modalities_every_set_that_lacks_one_follows(number: int) -> None:
    masks = masks_of(number, 2 * number + 1)
    lacking_one = every_mask_but_one(number)
    assert masks == [names_of(number), *((name,) for name in names_of(number)), *lacking_one]


def every_mask_but_one(number: int) -> list[Mask]:
    return list(combinations(names_of(number), number - 1))


def test_where_not_every_set_that_lacks_one_fits_they_are_drawn_without_preference() -> None:
    lacked: np.ndarray = np.zeros(6)
    for seed in range(300):
        masks = masks_of(6, 9, seed=seed)
        assert len(masks) == 9
        assert {len(mask) for mask in masks[7:]} == {5}
        assert len(set(masks)) == 9
        lacked += rates(masks[7:], 6).sum(axis=0)
    assert (np.abs(lacked / 300 - 1 / 3) < 4 * np.sqrt(2 / 9 / 300)).all()


def test_utilities_decide_which_of_them_come_first() -> None:
    utilities = {"m0": 0.1, "m1": 0.5, "m2": 0.0, "m3": 0.9, "m4": 0.2}
    masks = masks_of(5, 8, "adaptive", utilities=utilities)
    assert [set(names_of(5)) - set(mask) for mask in masks[6:]] == [{"m3"}, {"m1"}]


@pytest.mark.parametrize("num_masks", [1, 2, 4])
def test_the_full_set_and_every_single_modality_are_there_whatever_is_asked_for(num_masks: int) -> None:
    assert masks_of(3, num_masks, num_full=5) == [names_of(3), ("m0",), ("m1",), ("m2",)]


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("linear", [0.15, 0.3, 0.45, 0.6]),
        ("adaptive", [0.15, 0.3, 0.45, 0.6]),
        ("exponential", [0.6 * (math.exp(3 * k / 4) - 1) / (math.exp(3) - 1) for k in (1, 2, 3, 4)]),
    ],
)
def test_the_rates_are_those_of_the_formulas(strategy: DropoutStrategy, expected: list[float]) -> None:
    found = [dropout_rate(strategy, 0.6, k / 4, DRAWS) for k in (1, 2, 3, 4)]
    assert found == pytest.approx(expected, rel=1e-12)


def test_random_rates_are_uniform_up_to_the_maximum() -> None:
    found = np.array([dropout_rate("random", 0.6, 1.0, DRAWS) for _ in range(20_000)])
    assert 0 <= found.min() < 0.001
    assert 0.599 < found.max() <= 0.6
    assert found.mean() == pytest.approx(0.3, abs=0.005)
    assert found.std() == pytest.approx(0.6 / math.sqrt(12), abs=0.005)


def test_a_mask_lacks_each_modality_at_its_rate() -> None:
    given = np.linspace(0.0, 0.9, 10)
    found = rates([draw_mask(names_of(10), given, DRAWS) for _ in range(20_000)], 10).mean(axis=0)
    assert found == pytest.approx(given, abs=4 * 0.5 / math.sqrt(20_000))
    assert found[0] == 0.0


def test_where_all_would_go_one_is_kept_without_preference() -> None:
    masks = [draw_mask(names_of(4), np.ones(4), DRAWS) for _ in range(8000)]
    assert {len(mask) for mask in masks} == {1}
    assert rates(masks, 4).mean(axis=0) == pytest.approx(0.75, abs=0.02)


@pytest.mark.parametrize("strategy", ["linear", "exponential", "adaptive"])
def test_later_bags_lack_more_as_their_strategy_says(strategy: DropoutStrategy) -> None:
    number, drawn = 60, 200
    dropped = rates(masks_of(number, 121 + drawn, strategy, max_dropout=0.8)[121:], number).mean(axis=1)
    expected = np.array([dropout_rate(strategy, 0.8, k / drawn, DRAWS) for k in range(1, drawn + 1)])
    for part in np.array_split(np.arange(drawn), 4)[1:]:  # at first many are the full set and are drawn again
        assert dropped[part].mean() == pytest.approx(expected[part].mean(), abs=0.02)


def test_random_bags_lack_half_of_the_maximum_on_average() -> None:
    dropped = rates(masks_of(40, 481, "random", max_dropout=0.6)[81:], 40).mean(axis=1)
    assert 0.3 < dropped.mean() < 0.35, "a little above the half, for what is nearly full is in use and drawn again"
    assert dropped.std() > 0.6 / math.sqrt(12), "rates differ between bags, not only masks"


def test_adaptive_drops_each_modality_in_proportion_to_its_utility() -> None:
    number, drawn = 40, 2000
    utilities = {name: i / 10 for i, name in enumerate(names_of(number))}
    masks = masks_of(number, 81 + drawn, "adaptive", max_dropout=0.8, utilities=utilities)[81:]
    dropped = rates(masks, number).mean(axis=0)
    expected = 0.8 * 0.5 * np.arange(number) / (number - 1)
    assert dropped == pytest.approx(expected, abs=4 * 0.5 / math.sqrt(drawn))
    assert dropped[0] == 0.0, "what tells nothing by itself hides nothing"


def test_equal_utilities_and_none_at_all_are_linear() -> None:
    linear = masks_of(6, 60, "linear")
    assert masks_of(6, 60, "adaptive", utilities=dict.fromkeys(names_of(6), 0.3))[13:] == linear[13:]
    assert masks_of(6, 60, "adaptive", utilities=dict.fromkeys(names_of(6), 0.0))[13:] == linear[13:]
    assert masks_of(6, 60, "adaptive", utilities={})[13:] == linear[13:]


def test_a_modality_of_unknown_utility_counts_as_the_mean_of_the_others() -> None:
    known = {"m0": 0.2, "m1": 0.6, "m2": 0.4, "m3": 0.4}
    unknown = {"m0": 0.2, "m1": 0.6}
    assert masks_of(4, 60, "adaptive", utilities=unknown) == masks_of(4, 60, "adaptive", utilities=known)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("max_dropout", [0.0, 1.0])
def test_no_mask_is_ever_empty(strategy: DropoutStrategy, max_dropout: float) -> None:
    masks = masks_of(3, 60, strategy, max_dropout=max_dropout)
    assert all(masks)
    if max_dropout == 0:
        assert all(mask == names_of(3) for mask in masks[7:])


@pytest.mark.parametrize("strategy", ["random", "linear", "adaptive"])  # exponential: the first lack next to nothing
def test_masks_differ_while_different_ones_can_be_had(strategy: DropoutStrategy) -> None:
    masks = masks_of(8, 40, strategy, max_dropout=0.9)
    assert len(set(masks)) == 40


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_modalities_keep_the_order_of_the_spec(strategy: DropoutStrategy) -> None:
    for mask in masks_of(6, 40, strategy):
        assert list(mask) == sorted(mask)


@pytest.mark.parametrize(
    ("utilities", "said"),
    [
        (None, "need the utility of each modality.*choose strategy `linear`"),
        ({"m7": 0.1}, "'m7', which is no modality; there are m0, m1, m2"),
        ({"m1": -0.1}, "the utility of 'm1' is -0.1"),
        ({"m1": math.nan}, "the utility of 'm1' is nan"),
    ],
)
def test_utilities_that_cannot_be_meant_are_refused(utilities: dict[str, float] | None, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        masks_of(3, 12, "adaptive", utilities=utilities)


def test_one_modality_needs_no_utilities() -> None:
    assert modality_masks(("m0",), 3, 1, "adaptive", 0.5, 0) == [("m0",)] * 3
