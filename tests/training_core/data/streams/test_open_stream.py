import gc
import threading
from pathlib import Path

import numpy as np
import pytest
from stream_world import assert_rows_are_encoded, encoding, row_numbers, some_dataset

from training_core.data.storage.dataset import Dataset
from training_core.data.streams.batching import Batching, EpochStream
from training_core.data.streams.choice import available_memory, open_stream
from training_core.data.streams.chunked import ChunkStream
from training_core.data.streams.encoded import encoded_bytes
from training_core.data.streams.resident import DeviceStream
from training_core.data.views import HeldSamples, RowSource
from training_core.errors import DataError, StorageError


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return some_dataset(tmp_path_factory.mktemp("world"), (200, 100))


def opened(source: RowSource, share: float, folder: Path, **options) -> EpochStream:
    """With so much memory that the encoded rows are `share` of it."""
    preprocessor = encoding(source)
    memory = int(encoded_bytes(preprocessor, len(source)) / share)
    return open_stream(source, preprocessor, Batching(32, **options), memory_bytes=memory, folder=folder)


@pytest.mark.parametrize(
    ("share", "kind", "words"),
    [
        (
            0.2,
            DeviceStream,
            r"300 encoded rows in memory \(2\.\d MB; a quarter of the available 12\.\d MB may be used\)",
        ),
        (0.3, DeviceStream, "300 encoded rows in memory-mapped files .* exactly shuffled"),
        (0.45, DeviceStream, "memory-mapped"),
        (0.6, ChunkStream, "read from disk in chunks .* more than half of the memory of 4.* windows of"),
        (5.0, ChunkStream, "read from disk in chunks"),
    ],
)
def test_the_fastest_stream_that_memory_allows_is_chosen_and_says_so(
    share: float, kind: type, words: str, dataset: Dataset, tmp_path: Path
) -> None:
    source = dataset.subset()
    stream = opened(source, share, tmp_path)
    assert isinstance(stream, kind)
    assert list(tmp_path.iterdir()) == [], "temporary files have no name any more"
    preprocessor, seen = encoding(source), []
    for batch in stream:
        assert_rows_are_encoded(batch, source, preprocessor)
        seen += row_numbers(batch)
    assert sorted(seen) == list(range(300))
    import re

    assert re.search(words, stream.describe()), stream.describe()


@pytest.mark.parametrize("share", [0.2, 0.45, 2.0])
def test_every_stream_goes_on_where_another_of_its_kind_stood(share: float, dataset: Dataset, tmp_path: Path) -> None:
    source, options = dataset.subset(), {"seed": 4, "modality_dropout": 0.4}
    straight, resumed = (opened(source, share, tmp_path, **options) for _ in range(2))
    batches = iter(straight)
    for _ in range(3):
        next(batches)
    resumed.load_state_dict(straight.state_dict())
    for mine, theirs in zip(resumed, batches, strict=True):
        assert row_numbers(mine) == row_numbers(theirs)
        assert mine.available.tolist() == theirs.available.tolist()


def test_samples_in_memory_are_mapped_however_little_memory_there_is(dataset: Dataset, tmp_path: Path) -> None:
    source = HeldSamples(dataset.samples(), dataset.spec)
    assert "memory-mapped" in opened(source, 10.0, tmp_path).describe()


def test_tables_are_mapped_however_little_memory_there_is(dataset: Dataset, tmp_path: Path) -> None:
    assert "memory-mapped" in opened(dataset.subset(None, ["facts"]), 10.0, tmp_path).describe()


def test_without_room_on_the_disk_arrays_are_read_in_chunks_and_tables_refused(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    full = shutil._ntuple_diskusage(10**12, 10**12, 1000)  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: full)
    stream = opened(dataset.subset(), 0.5, tmp_path)
    assert isinstance(stream, ChunkStream)
    assert "more than the disk of" in stream.describe()
    with pytest.raises(StorageError, match=r"fit neither into memory .* nor on the disk of .*make room there"):
        opened(dataset.subset(None, ["facts"]), 0.5, tmp_path)


def test_no_rows_are_refused_whatever_the_stream(dataset: Dataset, tmp_path: Path) -> None:
    preprocessor = encoding(dataset.subset())
    for memory in (10**9, 1):
        with pytest.raises(DataError, match="0 rows make no batch"):
            open_stream(dataset.subset(np.arange(0)), preprocessor, Batching(4), memory_bytes=memory, folder=tmp_path)


def test_the_available_memory_is_a_sensible_number() -> None:
    assert 10**8 < available_memory() < 10**14


def test_nothing_runs_before_the_first_batch(dataset: Dataset, tmp_path: Path) -> None:
    gc.collect()
    before = threading.active_count()
    stream = opened(dataset.subset(), 5.0, tmp_path)
    iter(stream)
    assert threading.active_count() == before
