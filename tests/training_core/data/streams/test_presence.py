"""Streams say what is really there beside what they show, and hide modalities by schedules."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from training_core.data.ingestion.in_memory import create_dataset_from_arrays
from training_core.data.preprocessing import Preprocessor
from training_core.data.streams import Batching, ChunkStream, DeviceStream, encode_to_memory
from training_core.data.streams.batching import RAMP_EPOCHS, drop_modalities
from training_core.data.views import View
from training_core.engine.cohort.stream import CohortStream
from training_core.schema import Batch

NOTED = Batching(16, seed=3, modality_dropout=0.5, notes_presence=True)
NAMES = ("left", "right", "third")


def rows(num_rows: int = 50, seed: int = 0) -> Batch:
    source = torch.Generator().manual_seed(seed)
    available = torch.rand(num_rows, 3, generator=source) > 0.2
    inputs = {name: torch.randn(num_rows, 2, generator=source) for name in NAMES}
    return Batch(inputs, available, torch.arange(num_rows), rows=torch.arange(num_rows))


def test_a_stream_notes_what_is_there_beside_what_it_shows() -> None:
    data, hidden = rows(), 0
    for batch in DeviceStream(data, NOTED):
        assert batch.present is not None and batch.rows is not None
        assert torch.equal(batch.present, data.available[batch.rows])
        assert not (batch.available & ~batch.present).any()
        hidden += int((batch.present & ~batch.available).sum())
    assert hidden > 20


def test_it_is_noted_only_where_it_is_asked_for_and_changes_nothing_else() -> None:
    plain = [batch.clone() for batch in DeviceStream(rows(), replace(NOTED, notes_presence=False))]
    noted = [batch.clone() for batch in DeviceStream(rows(), NOTED)]
    for one, other in zip(plain, noted, strict=True):
        assert one.present is None and other.present is not None
        assert torch.equal(one.available, other.available) and torch.equal(one.inputs["left"], other.inputs["left"])


def test_a_stack_notes_for_each_learner_what_its_own_stream_notes() -> None:
    data = [rows(50, seed=0), rows(41, seed=1)]
    batchings = [replace(NOTED, seed=k, dropout_schedule=("uniform", "linear")[k]) for k in range(2)]
    alone = [[batch.clone() for batch in DeviceStream(part, own)] for part, own in zip(data, batchings, strict=True)]
    for step, batch in enumerate(CohortStream(data, batchings)):
        assert batch.present is not None
        copy = batch.clone()
        assert copy.present is not None and torch.equal(copy.present, batch.present)
        for k in range(2):
            count = int(batch.counts[k])
            if count:
                own = alone[k][step]
                assert own.present is not None
                assert torch.equal(batch.present[k, :count], own.present)
                assert torch.equal(batch.available[k, :count], own.available)


def test_chunks_from_disk_note_it_too(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    arrays = {name: draws.normal(size=(60, 3)).astype("f4") for name in ("left", "right")}
    arrays["left"][::4] = np.nan
    dataset = create_dataset_from_arrays(
        "presence", arrays, [f"class {i % 3}" for i in range(60)], task="classification", store=tmp_path
    )
    view = dataset.subset(np.arange(60), ("left", "right"))
    assert isinstance(view, View)
    preprocessor = Preprocessor.fit(view, dataset.spec, "tokens")
    everything = encode_to_memory(view, preprocessor)
    for batch in ChunkStream(view, preprocessor, NOTED):
        assert batch.present is not None and batch.rows is not None
        assert torch.equal(batch.present, everything.available[batch.rows])
        assert not (batch.available & ~batch.present).any()


def shares(schedule: str, epoch: int, rate: float = 0.8) -> torch.Tensor:
    """Of six modalities, how many a row does not show: the share of each of many rows."""
    batching = Batching(8, modality_dropout=rate, dropout_schedule=schedule)  # pyright: ignore[reportArgumentType]
    shown = batching.shown(torch.ones(20_000, 6, dtype=torch.bool), epoch)
    assert shown.any(dim=1).all()
    return 1 - shown.float().mean(dim=1)


def test_a_constant_rate_hides_as_often_in_every_epoch() -> None:
    expected = 0.8 - 0.8**6 / 6  # the last one always stays
    for epoch in (0, 7):
        assert shares("constant", epoch).mean().item() == pytest.approx(expected, abs=0.01)


def test_a_growing_rate_begins_at_nothing_and_ends_at_the_highest() -> None:
    found = [shares("linear", epoch).mean().item() for epoch in (0, RAMP_EPOCHS // 2, RAMP_EPOCHS, 3 * RAMP_EPOCHS)]
    expected = [rate - rate**6 / 6 for rate in (0.0, 0.4, 0.8, 0.8)]
    assert found == pytest.approx(expected, abs=0.01)


def test_rates_drawn_for_each_sample_spread_over_all_numbers_of_absences() -> None:
    found = shares("uniform", 0)
    assert found.mean().item() == pytest.approx(0.4 - 0.8**6 / 6 / 7, abs=0.01)
    assert found.std().item() > shares("constant", 0, rate=0.4).std().item() + 0.05
    assert not torch.equal(found, shares("uniform", 1))


def test_each_row_can_have_a_rate_of_its_own() -> None:
    available = torch.ones(3, 4, dtype=torch.bool)
    draw = torch.tensor([[0.1, 0.5, 0.9, 0.3]]).expand(3, -1)
    rate = torch.tensor([[0.0], [0.4], [0.95]])
    assert drop_modalities(available, rate, draw).tolist() == [
        [True] * 4,
        [False, True, True, False],
        [False, False, True, False],
    ]
