import itertools

import numpy as np
import pytest

from training_core.evaluation.attribution import shapley_values, shares


def brute_force(names, worth):
    found = dict.fromkeys(names, 0.0)
    orders = list(itertools.permutations(names))
    for order in orders:
        for place, name in enumerate(order):
            found[name] += worth(frozenset(order[: place + 1])) - worth(frozenset(order[:place]))
    return {name: total / len(orders) for name, total in found.items()}


def random_game(names, seed):
    draws = np.random.default_rng(seed)
    table = {frozenset(s): draws.normal() for k in range(len(names) + 1) for s in itertools.combinations(names, k)}
    return lambda pattern: table[pattern]


@pytest.mark.parametrize("num", [1, 2, 4, 5])
def test_the_value_is_the_mean_over_all_orders(num):
    names, worth = "abcde"[:num], random_game("abcde"[:num], num)
    found = shapley_values(names, lambda pattern: np.array(worth(pattern)))
    expected = brute_force(names, worth)
    assert {name: float(value) for name, value in found.items()} == pytest.approx(expected)
    assert sum(found.values()) == pytest.approx(worth(frozenset(names)) - worth(frozenset()))


def test_the_glove_game_has_its_known_solution():
    """Two left gloves and one right one; a pair is worth 1: the right one gets 2/3 (Shapley's own example)."""
    found = shapley_values("lmr", lambda s: np.array(float("r" in s and bool(s & {"l", "m"}))))
    assert {name: float(value) for name, value in found.items()} == pytest.approx({"l": 1 / 6, "m": 1 / 6, "r": 2 / 3})


def test_noise_gets_nothing_and_equals_get_the_same():
    found = shapley_values("abn", lambda s: np.array(len(s - {"n"}) ** 2.0))
    assert float(found["n"]) == 0
    assert float(found["a"]) == float(found["b"])


def test_every_draw_is_attributed_by_itself():
    games = [random_game("abc", seed) for seed in range(4)]
    found = shapley_values("abc", lambda s: np.array([game(s) for game in games]))
    for place, game in enumerate(games):
        expected = brute_force("abc", game)
        assert {name: float(value[place]) for name, value in found.items()} == pytest.approx(expected)


def test_many_modalities_are_sampled_keeping_the_sum_and_asking_once():
    names, asked = tuple("abcdefgh"), []
    weight = dict(zip(names, range(8), strict=True))

    def worth(pattern):
        asked.append(pattern)
        return np.array(sum(weight[name] for name in pattern) + 3.0 * ({"g", "h"} <= pattern))

    found = shapley_values(names, worth, num_permutations=200)
    assert sum(found.values()) == pytest.approx(28 + 3)
    assert float(found["a"]) == pytest.approx(0)
    assert float(found["f"]) == pytest.approx(5)
    assert float(found["g"]) == pytest.approx(6 + 1.5, abs=0.3)
    assert len(asked) == len(set(asked))
    again = shapley_values(names, worth, num_permutations=200)
    assert all(float(again[name]) == float(found[name]) for name in names)


def test_shares_are_parts_of_what_is_above_nothing():
    assert shares(np.array([3.0, 1.0, -2.0])) == pytest.approx([0.75, 0.25, 0.0])
    assert shares(np.array([-1.0, 0.0])).tolist() == [0.0, 0.0]
