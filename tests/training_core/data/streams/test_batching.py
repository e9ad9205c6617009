import pytest
import torch
from torch.utils.data import DistributedSampler

from training_core.data.streams.batching import Batching
from training_core.errors import DataError


@pytest.mark.parametrize("num_rows", [1, 3, 10, 16])
@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 20])
@pytest.mark.parametrize("drop_last", [False, True])
def test_without_shuffling_ranks_get_the_rows_torch_s_own_sampler_gives_them(
    num_rows: int, world_size: int, drop_last: bool
) -> None:
    for rank in range(world_size):
        sampler = DistributedSampler(range(num_rows), world_size, rank, shuffle=False, drop_last=drop_last)  # pyright: ignore[reportArgumentType]
        own = Batching(2, shuffle=False, drop_last=drop_last, rank=rank, world_size=world_size)
        if drop_last and num_rows < world_size:
            assert own.share(num_rows) == 0  # torch repeats one row here though it was told to cut
            continue
        assert own.order(num_rows, 0).tolist() == list(sampler)
        assert own.share(num_rows) == len(sampler)


@pytest.mark.parametrize("drop_last", [False, True])
def test_shuffled_ranks_take_turns_in_one_order_that_all_know(drop_last: bool) -> None:
    whole = Batching(2, seed=3).order(10, epoch=4).tolist()
    ranks = [Batching(2, 3, drop_last=drop_last, rank=rank, world_size=4).order(10, 4).tolist() for rank in range(4)]
    expected = whole[:8] if drop_last else whole + whole[:2]
    assert [ranks[i % 4][i // 4] for i in range(len(expected))] == expected


def test_the_number_of_batches_is_that_of_the_share() -> None:
    assert Batching(4).num_batches(10) == 3
    assert Batching(4, drop_last=True).num_batches(10) == 2
    assert Batching(4, rank=1, world_size=3).num_batches(10) == 1
    assert Batching(3, rank=2, world_size=3).num_batches(10) == 2
    assert Batching(3, rank=2, world_size=3, drop_last=True).num_batches(10) == 1


def test_modality_dropout_is_the_same_for_all_ranks() -> None:
    available = torch.ones(50, 3, dtype=torch.bool)
    shown = [Batching(2, 1, modality_dropout=0.5, rank=rank, world_size=2).shown(available, 3) for rank in (0, 1)]
    assert torch.equal(*shown)
    assert not shown[0].all()


@pytest.mark.parametrize(("rank", "world_size"), [(2, 2), (-1, 2), (0, 0)])
def test_a_rank_outside_its_world_is_refused(rank: int, world_size: int) -> None:
    with pytest.raises(DataError, match="ranks count from 0"):
        Batching(2, rank=rank, world_size=world_size)


def test_batches_of_no_rows_are_refused() -> None:
    with pytest.raises(DataError, match="at least one"):
        Batching(0)
