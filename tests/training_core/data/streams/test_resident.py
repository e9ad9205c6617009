import itertools
from typing import Any

import numpy as np
import pytest
import torch

from training_core.data.streams.batching import Batching, drop_modalities
from training_core.data.streams.encoded import OneBatch, to_batch
from training_core.data.streams.resident import DeviceStream
from training_core.errors import DataError
from training_core.schema import Batch, DataSpec, ModalitySpec, Samples, TaskSpec

SPEC = DataSpec(
    modalities=(
        ModalitySpec(name="vec", kind="vector", shape=(2,)),
        ModalitySpec(name="words", kind="text", shape=(3,), vocabulary_size=50),
    ),
    task=TaskSpec.classification(["no", "yes"]),
)


def samples(num_rows: int) -> Samples:
    rows = np.arange(num_rows)
    return Samples(
        inputs={
            "words": np.stack([rows, rows + 1, rows * 0], axis=1),
            "vec": np.stack([rows, -rows], axis=1).astype(np.float64),
        },
        available={"words": rows % 3 != 0, "vec": rows % 2 == 0},
        ids=rows.astype(str).astype(object),
        target=rows % 2,
    )


def stream(num_rows: int = 10, batch_size: int = 4, weight: np.ndarray | None = None, **options: Any) -> DeviceStream:
    return DeviceStream(to_batch(samples(num_rows), SPEC, weight=weight), Batching(batch_size, **options))


def rows_of(batch: Batch) -> list[int]:
    assert batch.rows is not None
    return batch.rows.tolist()


def test_a_batch_has_the_types_and_the_order_of_the_spec() -> None:
    batch = to_batch(samples(6), SPEC)
    assert list(batch.inputs) == ["vec", "words"]
    assert batch.inputs["vec"].dtype == torch.float32
    assert batch.inputs["words"].dtype == torch.int64
    assert batch.available.tolist()[:3] == [[True, False], [False, True], [True, True]]
    assert batch.target is not None
    assert batch.target.dtype == torch.int64
    assert batch.weight is None


def test_targets_of_other_tasks_are_floats() -> None:
    regression = SPEC.model_copy(update={"task": TaskSpec.regression(["height"])})
    data = samples(4)
    target = np.arange(4.0)[:, None]
    batch = to_batch(Samples(data.inputs, data.available, data.ids, target), regression)
    assert batch.target is not None
    assert batch.target.dtype == torch.float32
    assert batch.target.shape == (4, 1)


def test_a_batch_shares_no_memory_with_read_only_arrays() -> None:
    data = samples(4)
    values = data.inputs["vec"].astype(np.float32)
    values.setflags(write=False)
    batch = to_batch(Samples({**data.inputs, "vec": values}, data.available, data.ids), SPEC)
    batch.inputs["vec"].add_(1.0)
    assert values[1, 0] == 1.0
    assert batch.target is None


def test_every_row_comes_once_per_epoch_with_its_own_values() -> None:
    data = samples(10)
    seen: list[int] = []
    for batch in stream(10, weight=np.arange(10.0)):
        rows = rows_of(batch)
        seen += rows
        assert batch.target is not None
        assert batch.weight is not None
        assert batch.inputs["vec"].tolist() == data.inputs["vec"][rows].tolist()
        assert batch.inputs["words"].tolist() == data.inputs["words"][rows].tolist()
        assert batch.available.tolist() == data.availability(["vec", "words"])[rows].tolist()
        assert batch.target.tolist() == [row % 2 for row in rows]
        assert batch.weight.tolist() == [float(row) for row in rows]
    assert sorted(seen) == list(range(10))
    assert seen != list(range(10))


def test_without_shuffling_rows_come_in_order_and_the_last_batch_is_the_rest() -> None:
    batches = stream(10, shuffle=False)
    assert len(batches) == 3
    assert [rows_of(batch) for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_drop_last_leaves_the_rest_out() -> None:
    batches = stream(10, shuffle=False, drop_last=True)
    assert len(batches) == 2
    assert [len(batch) for batch in batches] == [4, 4]
    assert len(stream(8, drop_last=True)) == len(stream(8)) == 2


def test_epochs_differ_and_the_seed_decides_them() -> None:
    def three_epochs(seed: int) -> list[list[int]]:
        one = stream(20, seed=seed)
        return [[row for batch in one for row in rows_of(batch)] for _ in range(3)]

    assert three_epochs(1) == three_epochs(1)
    assert three_epochs(1) != three_epochs(2)
    first, second, third = three_epochs(1)
    assert first != second != third


def test_the_order_ignores_and_leaves_alone_torch_s_global_generator() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    order = [rows_of(batch) for batch in stream(20, seed=3)]
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(99)
    assert [rows_of(batch) for batch in stream(20, seed=3)] == order


@pytest.mark.parametrize("consumed", range(8))
def test_a_loaded_position_goes_on_with_the_first_batch_not_yet_handed_out(consumed: int) -> None:
    """Three batches an epoch: the states lie before, between and exactly at the ends of epochs."""

    def endless(source: DeviceStream) -> itertools.chain[Batch]:
        return itertools.chain.from_iterable(iter(source) for _ in range(6))

    straight = stream(10, seed=5)
    batches = endless(straight)
    for _ in range(consumed):
        next(batches)
    state = straight.state_dict()
    resumed = stream(10, seed=0)
    resumed.load_state_dict(state)
    rest = [rows_of(batch) for batch in itertools.islice(endless(resumed), 5)]
    assert rest == [rows_of(batch) for batch in itertools.islice(batches, 5)]


def test_a_stream_without_a_batch_is_refused() -> None:
    with pytest.raises(DataError, match="0 rows make no batch of 4"):
        stream(0)
    with pytest.raises(DataError, match="3 rows make no batch of 4"):
        stream(3, drop_last=True)


def test_one_batch_hands_out_all_samples_once() -> None:
    data = samples(3)
    assert list(OneBatch(data)) == [data]


def test_a_batch_is_overwritten_by_the_next_and_a_clone_is_not() -> None:
    batches = iter(stream(12, batch_size=4, weight=np.arange(12.0)))
    first = next(batches)
    kept, place = first.clone(), first.inputs["vec"].data_ptr()
    rows = rows_of(first)
    second = next(batches)
    assert second.inputs["vec"].data_ptr() == place
    assert rows_of(kept) == rows != rows_of(second)
    assert kept.weight is not None
    assert kept.weight.tolist() == [float(row) for row in rows]
    assert kept.inputs["vec"].data_ptr() != place


def test_nothing_of_the_size_of_a_batch_is_allocated_after_the_first() -> None:
    rows = torch.arange(64.0)[:, None].expand(64, 1000).contiguous()
    one = DeviceStream(Batch({"vec": rows}, torch.ones(64, 1, dtype=torch.bool)), Batching(16, drop_last=True))
    next(iter(one))
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for _ in one:
            pass
    assert max((event.self_cpu_memory_usage for event in profile.key_averages()), default=0) < 16 * 1000 * 4


@pytest.mark.parametrize("drop_last", [False, True])
def test_ranks_take_turns_in_the_order_of_the_whole(drop_last: bool) -> None:
    whole = [row for batch in stream(11, seed=2) for row in rows_of(batch)]
    shares = []
    for rank in range(3):
        one = stream(11, batch_size=2, seed=2, rank=rank, world_size=3, drop_last=drop_last)
        shares.append([row for batch in one for row in rows_of(batch)])
    if drop_last:
        assert shares == [whole[:9][rank::3][:2] for rank in range(3)]
    else:
        assert shares == [(whole + whole[:1])[rank::3] for rank in range(3)]


def test_when_the_last_batch_was_taken_the_next_iteration_is_the_next_epoch() -> None:
    exhausted, taken = stream(12, seed=1), stream(12, seed=1)
    list(exhausted)
    batches = iter(taken)
    for _ in range(3):
        next(batches)
    assert taken.state_dict() == exhausted.state_dict() == {"seed": 1, "epoch": 1, "position": 0}
    assert [rows_of(batch) for batch in taken] == [rows_of(batch) for batch in exhausted]


def test_it_says_where_its_rows_are() -> None:
    assert stream(10).describe() == "10 encoded rows in memory (cpu), exactly shuffled"
    assert stream(10, shuffle=False).describe().endswith("in order")


def masks_of(source: DeviceStream) -> torch.Tensor:
    """What each row shows in the next epoch, in the order of the rows."""
    batches = [batch.clone() for batch in source]
    rows = torch.cat([batch.rows for batch in batches if batch.rows is not None])
    return torch.cat([batch.available for batch in batches])[rows.argsort()]


def test_modality_dropout_is_drawn_anew_each_epoch_and_follows_the_seed() -> None:
    dropping = stream(300, modality_dropout=0.5, seed=1)
    first, second = masks_of(dropping), masks_of(dropping)
    assert not torch.equal(first, second)
    assert torch.equal(first, masks_of(stream(300, modality_dropout=0.5, seed=1)))
    assert not torch.equal(first, masks_of(stream(300, modality_dropout=0.5, seed=2)))


def test_modality_dropout_hides_only_what_is_there() -> None:
    real = torch.from_numpy(samples(300).availability(["vec", "words"]))
    assert torch.equal(masks_of(stream(300)), real)
    shown = masks_of(stream(300, modality_dropout=0.5))
    assert not (shown & ~real).any()
    assert (shown != real).any()


def test_a_stream_resumed_in_the_middle_of_an_epoch_hides_the_same_modalities() -> None:
    straight = stream(300, modality_dropout=0.5, seed=4)
    batches = iter(straight)
    for _ in range(30):
        next(batches)
    resumed = stream(300, modality_dropout=0.5)
    resumed.load_state_dict(straight.state_dict())
    for one, other in zip(batches, resumed, strict=True):
        assert torch.equal(one.available, other.available)


@pytest.mark.parametrize("rate", [0.3, 0.95])
def test_dropping_never_takes_the_last_modality(rate: float) -> None:
    generator = torch.Generator().manual_seed(1)
    available = torch.rand(5000, 4, generator=generator) < 0.5
    kept = drop_modalities(available, rate, torch.rand(5000, 4, generator=generator))
    assert not (kept & ~available).any()
    assert torch.equal(kept.any(dim=1), available.any(dim=1))
    assert (kept != available).any()


def test_dropping_keeps_each_modality_at_the_expected_rate() -> None:
    """Of two, one stays if it is not dropped, or if both would go and it has the higher draw: (1 - r) + r² / 2."""
    draw = torch.rand(100_000, 2, generator=torch.Generator().manual_seed(0))
    available = torch.ones(100_000, 2, dtype=torch.bool)
    for rate in (0.0, 0.3, 0.8):
        kept = drop_modalities(available, rate, draw).float().mean(dim=0)
        torch.testing.assert_close(kept, torch.full((2,), 1 - rate + rate**2 / 2), atol=0.006, rtol=0)
