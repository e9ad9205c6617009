import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training_core.data.splitting.splits import label_split, row_split
from training_core.data.splitting.stratification import deal, share_out, spread


def many_labels(num_rows: int = 2000, seed: int = 0) -> np.ndarray:
    """Labels from rare (about 1 in 400) to common (1 in 5), some of which come together."""
    draws = np.random.default_rng(seed)
    labels = draws.random((num_rows, 12)) < np.geomspace(1 / 400, 1 / 5, 12)
    labels[:, 5] |= labels[:, 2] & (draws.random(num_rows) < 0.8)
    return labels


def pairs(labels: np.ndarray) -> np.ndarray:
    """Which rows have both of two labels, for every two that at least five rows have."""
    first, second = np.triu_indices(labels.shape[1], 1)
    both = labels[:, first] & labels[:, second]
    return both[:, both.sum(axis=0) >= 5]


def distance(labels: np.ndarray, split: np.ndarray, fractions: dict[str, float]) -> float:
    """Mean relative distance of the rows per label and part from what was wanted (Sechidis et al. 2011, LD)."""
    totals = labels.sum(axis=0)
    parts = [np.abs(labels[split == part].sum(axis=0) / (f * totals) - 1) for part, f in fractions.items()]
    return float(np.mean(parts))


@pytest.mark.parametrize("seed", range(3))
def test_labels_keep_their_shares_far_better_than_by_chance(seed):
    labels = many_labels(10_000, seed)
    split = label_split(labels, test=0.3, validation=0.1, seed=seed)
    chance = row_split(len(labels), None, test=0.3, validation=0.1, seed=seed)
    fractions = {"train": 0.6, "validation": 0.1, "test": 0.3}
    assert distance(labels, split, fractions) < 0.2 * distance(labels, chance, fractions)
    assert distance(pairs(labels), split, fractions) < 0.5 * distance(pairs(labels), chance, fractions)
    rare = labels[:, 0]
    for part, fraction in fractions.items():
        assert abs(rare[split == part].sum() - fraction * rare.sum()) <= 1
        assert (split == part).mean() == pytest.approx(fraction, abs=0.01)
    assert (split == label_split(labels.astype(np.float32), test=0.3, validation=0.1, seed=seed)).all()


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.integers(0, 10_000), st.integers(12, 80), st.integers(1, 8), st.sampled_from([0.0, 0.1]))
def test_every_label_there_is_is_trained_on(seed, num_rows, num_labels, validation):
    draws = np.random.default_rng(seed)
    labels = draws.random((num_rows, num_labels)) < draws.random(num_labels) * 0.4
    split = label_split(labels, test=0.3, validation=validation, seed=seed)
    assert (labels[split == "train"].any(axis=0) == labels.any(axis=0)).all()
    assert {"train", "test"} <= set(split) <= {"train", "validation", "test"}


def test_a_hundred_thousand_rows_of_fifty_labels_take_seconds():
    labels = np.random.default_rng(0).random((100_000, 50)) < 0.05
    start = time.perf_counter()
    split = label_split(labels, test=0.2, validation=0.1, seed=0)
    assert time.perf_counter() - start < 30  # about 3 s on one core
    assert (split == "test").mean() == pytest.approx(0.2, abs=0.01)


def test_a_table_full_of_labels_stays_within_memory():
    labels = np.random.default_rng(0).random((5_000, 200)) < 0.5  # 25 million pairs
    tracemalloc.start()
    split = label_split(labels, test=0.2, validation=0.0, seed=0)
    assert tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()
    assert (split == "test").mean() == pytest.approx(0.2, abs=0.01)


def test_pairs_are_counted_only_when_asked_for():
    labels = many_labels(5000)
    fractions = {"a": 0.5, "b": 0.5}
    parts = [
        np.asarray(["a", "b"], object)[share_out(labels, [0.5, 0.5], np.random.default_rng(0), order=order)]
        for order in (1, 2)
    ]
    singles, paired = (distance(pairs(labels), part, fractions) for part in parts)
    assert paired < 0.5 * singles


@pytest.mark.parametrize("num_labels", [0, 3])
def test_rows_without_labels_fill_what_is_left(num_labels):
    part = share_out(np.zeros((100, num_labels), bool), [0.6, 0.1, 0.3], np.random.default_rng(0))
    assert np.bincount(part).tolist() == [60, 10, 30]


def test_one_row_goes_to_each_part_as_often_as_its_fraction_says():
    draws = np.random.default_rng(0)
    one = np.asarray([[True, False]])
    parts = [share_out(one, [0.7, 0.3], draws, random_rounding=True)[0] for _ in range(2000)]
    assert np.mean(parts) == pytest.approx(0.3, abs=0.03)
    assert not any(share_out(one, [0.7, 0.3], draws)[0] for _ in range(20))


@settings(deadline=None, derandomize=True, max_examples=50)
@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 6))
def test_dealt_rows_are_within_one_of_their_fraction_class_by_class(seed, num_rows, num_classes):
    draws = np.random.default_rng(seed)
    codes = draws.integers(0, num_classes, num_rows)
    part = deal(codes, [0.5, 0.2, 0.3], draws)
    for code in range(num_classes):
        counts = np.bincount(part[codes == code], minlength=3)
        assert (np.abs(counts - (codes == code).sum() * np.asarray([0.5, 0.2, 0.3])) < 1 + 1e-9).all()


def test_a_label_that_is_in_one_part_only_is_spread_over_two():
    labels = np.asarray([[1, 0], [1, 0], [0, 1], [0, 0], [0, 0], [0, 0]])
    part = spread(np.asarray([0, 0, 0, 1, 1, 1]), labels, 2)
    assert set(part[:2]) == {0, 1}
    assert part[2] == 0  # a label of one row cannot be
    assert np.bincount(part).tolist() == [2, 4]
