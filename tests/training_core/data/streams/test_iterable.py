import itertools
from collections.abc import Sequence

import pytest
import torch

from training_core.data.streams.batching import Batching
from training_core.data.streams.iterable import IterableStream
from training_core.errors import DataError
from training_core.schema import Batch


def collate(items: Sequence[int]) -> Batch:
    values = torch.tensor(items)
    return Batch({"x": values}, torch.ones(len(items), 2, dtype=torch.bool), rows=values)


def stream(num_items: int = 20, batch_size: int = 4, buffer_rows: int = 8, **options) -> IterableStream[int]:
    return IterableStream(range(num_items), collate, Batching(batch_size, **options), buffer_rows=buffer_rows)


def epoch(source: IterableStream[int]) -> list[int]:
    return [row for batch in source for row in batch.inputs["x"].tolist()]


def test_in_order_items_come_as_they_are() -> None:
    assert epoch(stream(10, shuffle=False)) == list(range(10))
    assert [len(batch) for batch in stream(10, shuffle=False)] == [4, 4, 2]
    assert [len(batch) for batch in stream(10, shuffle=False, drop_last=True)] == [4, 4]


@pytest.mark.parametrize("num_items", [1, 7, 8, 9, 50, 3000])
def test_shuffled_every_item_comes_once(num_items: int) -> None:
    assert sorted(epoch(stream(num_items))) == list(range(num_items))


def test_epochs_and_seeds_differ_and_repeat() -> None:
    one, same = stream(50, seed=1), stream(50, seed=1)
    first, second = epoch(one), epoch(one)
    assert [first, second] == [epoch(same), epoch(same)]
    assert first != second
    assert first != epoch(stream(50, seed=2))


def test_an_item_comes_no_earlier_than_its_buffer_allows() -> None:
    order = epoch(stream(3000, buffer_rows=100))
    assert all(place >= item - 100 for place, item in enumerate(order))
    moved = [abs(place - item) for place, item in enumerate(order)]
    assert 50 < sum(moved) / len(moved) < 200


def test_a_buffer_for_all_items_is_an_exact_shuffle() -> None:
    first = [epoch(stream(10, buffer_rows=10, seed=seed))[0] for seed in range(2000)]
    counts = torch.tensor(first).bincount(minlength=10)
    assert counts.min() > 140
    assert counts.max() < 260


@pytest.mark.parametrize("num_items", [3, 10, 12])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
def test_ranks_share_items_by_position_and_get_equally_many(num_items: int, drop_last: bool, shuffle: bool) -> None:
    shares = [
        epoch(stream(num_items, 1, shuffle=shuffle, drop_last=drop_last, rank=rank, world_size=4)) for rank in range(4)
    ]
    whole = list(range(num_items))
    rounds = num_items // 4 if drop_last else -(-num_items // 4)
    expected = (whole * 4)[: rounds * 4]
    assert [sorted(share) for share in shares] == [sorted(expected[rank::4]) for rank in range(4)]


@pytest.mark.parametrize("consumed", range(12))
@pytest.mark.parametrize("drop_last", [False, True])
def test_a_loaded_position_goes_on_with_the_first_batch_not_yet_handed_out(consumed: int, drop_last: bool) -> None:
    def endless(source: IterableStream[int]):
        return itertools.chain.from_iterable(iter(source) for _ in range(6))

    options = {"seed": 5, "drop_last": drop_last, "modality_dropout": 0.5}
    straight = stream(18, **options)
    batches = endless(straight)
    for _ in range(consumed):
        next(batches)
    resumed = stream(18, **{**options, "seed": 0})
    resumed.load_state_dict(straight.state_dict())
    for mine, theirs in itertools.islice(zip(endless(resumed), batches, strict=False), 9):
        assert mine.inputs["x"].tolist() == theirs.inputs["x"].tolist()
        assert mine.available.tolist() == theirs.available.tolist()


def test_a_function_starts_anew_each_epoch_and_an_iterator_is_refused() -> None:
    anew = IterableStream(lambda: iter([1, 2, 3]), collate, Batching(2, shuffle=False))
    assert epoch(anew) == epoch(anew) == [1, 2, 3]
    with pytest.raises(DataError, match=r"generator can be read only once.*give a function"):
        IterableStream((item for item in [1, 2]), collate, Batching(2))


def test_modality_dropout_hides_some_but_never_all() -> None:
    shown = torch.cat([batch.available for batch in stream(400, modality_dropout=0.6)])
    assert not shown.all()
    assert shown.any(dim=1).all()


def test_it_says_how_it_shuffles() -> None:
    assert stream(buffer_rows=5000).describe() == "items as they come, shuffled in a buffer of 5,000"
    assert stream(shuffle=False).describe() == "items in the order in which they come"
