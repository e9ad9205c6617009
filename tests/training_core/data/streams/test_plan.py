import re

import numpy as np
import pytest

from training_core.data.streams.batching import Batching
from training_core.data.streams.plan import ShufflePlan

NUM_ROWS = 10_000


def order_of(plan: ShufflePlan, batching: Batching, epoch: int = 0) -> np.ndarray:
    return np.concatenate([window.positions for window in plan.windows(batching, epoch)])


def plans() -> list[tuple[str, ShufflePlan, int]]:
    draws = np.random.default_rng(0)
    some = np.sort(draws.choice(NUM_ROWS, 3000, replace=False))
    return [
        ("all rows", ShufflePlan(np.arange(NUM_ROWS), [NUM_ROWS], 64, 1000), NUM_ROWS),
        ("a subset of three parts", ShufflePlan(some, [5000, 10, 4990], 64, 1000), 3000),
        ("a bootstrap", ShufflePlan(draws.integers(0, NUM_ROWS, 4000), [NUM_ROWS], 64, 1000), 4000),
        ("any order", ShufflePlan(draws.permutation(NUM_ROWS), [NUM_ROWS], 64, 1000), NUM_ROWS),
        ("blocks larger than windows", ShufflePlan(np.arange(NUM_ROWS), [NUM_ROWS], 3000, 1000), NUM_ROWS),
        ("one window", ShufflePlan(np.arange(100), [NUM_ROWS], 64, 1000), 100),
    ]


@pytest.mark.parametrize(
    ("name", "plan", "num_rows"), plans(), ids=lambda value: value if isinstance(value, str) else ""
)
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_row_comes_once_and_its_slot_holds_it(name: str, plan: ShufflePlan, num_rows: int, shuffle: bool) -> None:
    batching = Batching(256, seed=1, shuffle=shuffle)
    start = 0
    for window in plan.windows(batching, 0):
        assert window.start == start
        assert len(window.positions) <= plan.window_rows
        assert (np.diff(window.rows) > 0).all()
        assert np.array_equal(window.rows[window.slots], plan._rows[window.positions])
        start += len(window.positions)
    order = order_of(plan, batching)
    assert np.array_equal(np.sort(order), np.arange(num_rows))
    assert np.array_equal(order, np.arange(num_rows)) != shuffle


def test_without_need_no_block_is_read_twice() -> None:
    plan = ShufflePlan(np.arange(NUM_ROWS), [4990, 5010], 64, 1000)
    blocks = [
        set((np.where(w.rows < 4990, w.rows, w.rows - 4990 + 10_048) // 64).tolist())
        for w in plan.windows(Batching(256), 0)
    ]
    assert sum(map(len, blocks)) == len(set.union(*blocks)) == plan.num_blocks == 78 + 79


def test_epochs_and_seeds_differ_and_repeat() -> None:
    plan = plans()[0][1]
    first, second = order_of(plan, Batching(256, seed=1)), order_of(plan, Batching(256, seed=1), epoch=1)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, order_of(plan, Batching(256, seed=2)))
    assert np.array_equal(first, order_of(plan, Batching(256, seed=1)))


def test_an_epoch_can_be_entered_at_any_row() -> None:
    plan, batching = plans()[2][1], Batching(256, seed=1)
    whole = order_of(plan, batching)
    for first in (0, 1, 999, 1000, 2777, 3999):
        windows = list(plan.windows(batching, 0, first))
        assert windows[0].start <= first < windows[0].start + len(windows[0].positions)
        assert np.array_equal(np.concatenate([w.positions for w in windows]), whole[windows[0].start :])


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("shuffle", [True, False])
def test_ranks_share_the_rows_equally(drop_last: bool, shuffle: bool) -> None:
    plan, num_rows = ShufflePlan(np.arange(1000), [1000], 64, 200), 1000
    shares = [
        order_of(plan, Batching(16, seed=3, shuffle=shuffle, drop_last=drop_last, rank=rank, world_size=3))
        for rank in range(3)
    ]
    assert {len(share) for share in shares} == {333 if drop_last else 334}
    counts = np.bincount(np.concatenate(shares), minlength=num_rows)
    assert (counts == 0).sum() == (1 if drop_last else 0)
    assert (counts > 1).sum() == (0 if drop_last else 2)


def test_shuffled_ranks_read_different_blocks() -> None:
    plan = ShufflePlan(np.arange(6400), [6400], 64, 640)
    blocks = [
        {row // 64 for w in plan.windows(Batching(16, rank=rank, world_size=4), 0) for row in w.rows.tolist()}
        for rank in range(4)
    ]
    assert [len(own) for own in blocks] == [25] * 4
    assert len(set.union(*blocks)) == 100


def test_the_stated_quality_is_what_batches_of_sorted_data_show() -> None:
    """Rows sorted by class, a class as long as a block: blocks in a batch, and the spread of a class's share."""
    num_rows, block, batch, num_blocks = 64 * 800, 64, 128, 800
    plan, batching = ShufflePlan(np.arange(num_rows), [num_rows], block, 64 * 40), Batching(batch, drop_last=True)
    quality = plan.quality(batching)
    assert quality.window_rows == pytest.approx(64 * 40, rel=0.1)  # the first two are smaller
    assert quality.window_blocks == pytest.approx(40, rel=0.1)
    assert quality.exact_batch_blocks == pytest.approx(num_blocks * (1 - (1 - 1 / num_blocks) ** 128), rel=0.02)
    assert quality.effective_batch == pytest.approx(1 / (1 / 128 + (1 - 1 / 128) * (1 / 40 - 1 / num_blocks)), rel=0.1)
    distinct, spread = [], []
    # Half of the classes, drawn anew, are called positive: their share in a batch is a mean over the blocks it meets.
    draws = np.random.default_rng(0)
    for epoch in range(8):
        positive = draws.permutation(np.arange(num_blocks) < num_blocks // 2)
        for rows in order_of(plan, batching, epoch).reshape(-1, batch):
            distinct.append(len(np.unique(rows // block)))
            spread.append((positive[rows // block].mean() - 0.5) ** 2)
    assert np.mean(distinct) == pytest.approx(quality.batch_blocks, rel=0.06)  # batches may span windows
    assert 0.25 / np.mean(spread) == pytest.approx(quality.effective_batch, rel=0.15)
    assert re.match(r"windows of 2,\d+ rows out of about \d\d blocks; a batch of 128 meets", str(quality))


def test_rows_move_as_far_as_in_an_exact_shuffle() -> None:
    """The mean distance between two random places of n is n / 3."""
    plan = ShufflePlan(np.arange(NUM_ROWS), [NUM_ROWS], 64, 1000)
    moved = [np.abs(order_of(plan, Batching(256), epoch) - np.arange(NUM_ROWS)).mean() for epoch in range(20)]
    assert np.mean(moved) == pytest.approx(NUM_ROWS / 3, rel=0.05)


def test_all_rows_in_one_window_are_an_exact_shuffle() -> None:
    quality = ShufflePlan(np.arange(1000), [1000], 10, 1000).quality(Batching(100))
    assert quality.batch_blocks == pytest.approx(quality.exact_batch_blocks)
    assert quality.effective_batch == pytest.approx(100)
