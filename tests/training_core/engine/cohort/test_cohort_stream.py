"""A cohort's stream gives every learner, row for row, what a stream of its own would."""

from itertools import zip_longest

import numpy as np
import pytest
import torch
from torch import Tensor

from training_core.data.streams.batching import Batching
from training_core.data.streams.resident import DeviceStream
from training_core.engine.cohort import stream as cohort_stream
from training_core.engine.cohort.batches import CohortBatch
from training_core.engine.cohort.stream import CohortStream
from training_core.errors import DataError
from training_core.schema import Batch

SIZES = (11, 16, 3, 9)
BATCH = 4


def rows(num_rows: int, seed: int, weighted: bool = False) -> Batch:
    draws = torch.Generator().manual_seed(seed)
    return Batch(
        inputs={
            "vec": torch.randn(num_rows, 3, generator=draws),
            "words": torch.randint(0, 9, (num_rows, 2), generator=draws),
        },
        available=torch.rand(num_rows, 2, generator=draws) < 0.8,
        target=torch.randint(0, 5, (num_rows,), generator=draws),
        weight=torch.rand(num_rows, generator=draws) if weighted else None,
    )


def world(weighted: bool = False, **settings: object) -> tuple[list[Batch], list[Batching]]:
    data = [rows(size, seed, weighted) for seed, size in enumerate(SIZES)]
    batchings = [
        Batching(BATCH, seed=10 + k, modality_dropout=0.3 if k % 2 else 0.0, **settings)  # pyright: ignore[reportArgumentType]
        for k in range(len(SIZES))
    ]
    return data, batchings


def real(batch: CohortBatch, k: int) -> tuple[Tensor, ...]:
    """The rows of learner `k` that are no filling."""
    assert batch.target is not None and batch.weight is not None
    n = int(batch.counts[k])
    assert (batch.weight[k, n:] == 0).all()
    return (
        *(v[k, :n] for v in batch.inputs.values()),
        batch.available[k, :n],
        batch.target[k, :n],
        batch.weight[k, :n],
    )


def expected(batch: Batch) -> tuple[Tensor, ...]:
    assert batch.target is not None
    weight = torch.ones(len(batch)) if batch.weight is None else batch.weight
    return (*batch.inputs.values(), batch.available, batch.target, weight)


def assert_equal_epochs(cohort: CohortStream, alone: list[DeviceStream], num_epochs: int = 3) -> None:
    for _ in range(num_epochs):
        steps = 0
        for batch, own in zip(cohort, zip_longest(*alone), strict=True):
            assert batch.inputs["vec"].shape[:2] == (len(alone), len(batch))
            for k, mine in enumerate(own):
                assert int(batch.counts[k]) == (0 if mine is None else len(mine))
                if mine is not None:
                    assert all(map(torch.equal, real(batch, k), expected(mine)))
            steps += 1
        assert steps == len(cohort) == max(map(len, alone))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
def test_each_learner_sees_the_rows_of_its_own_stream(weighted: bool, shuffle: bool) -> None:
    data, batchings = world(weighted, shuffle=shuffle)
    alone = [DeviceStream(d, b) for d, b in zip(data, batchings, strict=True)]
    assert_equal_epochs(CohortStream(data, batchings), alone)


def test_a_last_batch_that_is_not_full_can_be_dropped() -> None:
    data, batchings = world(drop_last=True)
    data, batchings = [data[i] for i in (0, 1, 3)], [batchings[i] for i in (0, 1, 3)]
    alone = [DeviceStream(d, b) for d, b in zip(data, batchings, strict=True)]
    assert_equal_epochs(CohortStream(data, batchings), alone)


def test_filling_rows_are_rows_the_learner_has() -> None:
    data, batchings = world()
    for batch in CohortStream(data, batchings):
        for k, own in enumerate(data):
            held = (batch.inputs["vec"][k].unsqueeze(1) == own.inputs["vec"]).all(dim=2).any(dim=1)
            assert held.all()


@pytest.mark.parametrize("position", [1, 3, 4, 7])
def test_a_stream_goes_on_where_its_state_was_taken(position: int) -> None:
    data, batchings = world()
    straight = CohortStream(data, batchings)
    kept: dict[str, object] = {}
    rest: list[CohortBatch] = []
    for _ in range(3):
        for batch in straight:
            if kept:
                rest.append(batch.clone())
            position -= 1
            if position == 0:
                kept = straight.state_dict()
    resumed = CohortStream(data, [Batching(BATCH, seed=0, modality_dropout=b.modality_dropout) for b in batchings])
    resumed.load_state_dict(kept)
    again = [batch.clone() for _ in range(3) for batch in resumed][: len(rest)]
    assert len(again) == len(rest) > 0
    for one, other in zip(rest, again, strict=True):
        assert torch.equal(one.inputs["vec"], other.inputs["vec"])
        assert torch.equal(one.available, other.available)
        assert torch.equal(one.counts, other.counts)


def test_learners_that_are_kept_go_on_as_before_and_so_does_a_resumed_stream() -> None:
    data, batchings = world()
    cohort = CohortStream(data, batchings)
    alone = [DeviceStream(d, b) for d, b in zip(data, batchings, strict=True)]
    assert_equal_epochs(cohort, alone, num_epochs=1)
    cohort.keep([3, 0, 2])
    cohort.keep([1, 2])  # of those: learners 0 and 2
    assert cohort.num_learners == 2 and len(cohort) == 3
    resumed = CohortStream(data, batchings)
    resumed.load_state_dict(cohort.state_dict())
    states = [stream.state_dict() for stream in alone]
    assert_equal_epochs(cohort, [alone[0], alone[2]])
    for stream, state in zip(alone, states, strict=True):
        stream.load_state_dict(state)
    assert_equal_epochs(resumed, [alone[0], alone[2]])


def test_batches_reuse_their_memory_and_a_clone_does_not() -> None:
    data, batchings = world()
    places = {batch.inputs["vec"].data_ptr() for batch in CohortStream(data, batchings)}
    assert len(places) == 1
    first = next(iter(CohortStream(data, batchings)))
    assert isinstance(first.clone(), CohortBatch)
    assert first.clone().inputs["vec"].data_ptr() not in places


def test_one_learner_with_one_row_is_a_cohort() -> None:
    (batch,) = CohortStream([rows(1, 0)], [Batching(BATCH)])
    assert len(batch) == 1
    assert batch.counts.tolist() == [1]


def test_learners_whose_batches_are_cut_differently_are_refused() -> None:
    data, _ = world()
    with pytest.raises(DataError, match="batches of one size"):
        CohortStream(data[:2], [Batching(4), Batching(5)])
    with pytest.raises(DataError, match="not shared out over ranks"):
        CohortStream(data[:1], [Batching(4, world_size=2)])
    with pytest.raises(DataError, match="3 rows make no batch of 4; give every learner more rows"):
        CohortStream([data[0], data[2]], [Batching(4, drop_last=True)] * 2)


def test_the_budget_is_a_share_of_all_memory_so_that_a_repeated_job_decides_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cohort_stream, "total_memory", lambda: 1000)
    assert cohort_stream.memory_budget(torch.device("cpu")) == 250


def test_a_gathered_batch_is_a_mean_over_the_real_rows_only() -> None:
    data, batchings = world()
    for batch in CohortStream(data, batchings):
        assert batch.weight is not None
        np.testing.assert_array_equal((batch.weight > 0).sum(dim=1).numpy(), batch.counts.numpy())
