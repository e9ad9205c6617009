import gc
import itertools
import json
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from stream_world import assert_rows_are_encoded, encoding, row_numbers, some_dataset

from training_core.artifacts import unshared
from training_core.data.preprocessing import Preprocessor
from training_core.data.storage.dataset import Dataset
from training_core.data.streams.batching import Batching
from training_core.data.streams.chunked import ChunkStream
from training_core.data.streams.encoded import encode_to_memory
from training_core.data.streams.resident import DeviceStream
from training_core.data.views import HeldSamples, RowSource
from training_core.errors import DataError, StorageError

SMALL_RING = 3 * 150 * 8500  # windows of about 150 rows


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return some_dataset(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return some_dataset(tmp_path_factory.mktemp("packed"), compression="lz4")


@pytest.fixture(scope="module")
def preprocessor(dataset: Dataset) -> Preprocessor:
    return encoding(dataset.subset())


def chunked(source: RowSource, preprocessor: Preprocessor, batching: Batching, **options) -> ChunkStream:
    return ChunkStream(source, preprocessor, batching, **{"ring_bytes": SMALL_RING, "block_rows": 16, **options})


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("polychoir-read")]


def selections(dataset: Dataset) -> dict[str, RowSource]:
    draws = np.random.default_rng(0)
    return {
        "all": dataset.subset(),
        "few": dataset.subset(np.sort(draws.choice(900, 40, replace=False))),
        "most": dataset.subset(np.flatnonzero(draws.random(900) < 0.8)),
        "bootstrap": dataset.subset(draws.integers(0, 900, 700)),
        "any order": dataset.subset(draws.permutation(900)),
        "the second part": dataset.subset(np.arange(600, 900)),
    }


@pytest.mark.parametrize("name", ["all", "few", "most", "bootstrap", "any order", "the second part"])
@pytest.mark.parametrize("compression", ["none", "lz4"])
def test_every_row_comes_once_encoded_like_in_memory(
    name: str, compression: str, dataset: Dataset, packed: Dataset, preprocessor: Preprocessor
) -> None:
    source = selections(dataset if compression == "none" else packed)[name]
    seen: list[int] = []
    for batch in chunked(source, preprocessor, Batching(32, seed=1)):
        assert_rows_are_encoded(batch, source, preprocessor)
        seen += row_numbers(batch)
    assert sorted(seen) == list(range(len(source)))
    assert seen != list(range(len(source)))


@pytest.mark.parametrize("name", ["all", "bootstrap", "any order"])
def test_in_order_it_gives_the_batches_of_a_resident_stream(
    name: str, dataset: Dataset, preprocessor: Preprocessor
) -> None:
    source, batching = selections(dataset)[name], Batching(64, shuffle=False)
    weight = np.random.default_rng(0).random(len(source))
    resident = DeviceStream(encode_to_memory(source, preprocessor, weight=weight), batching)
    for mine, theirs in zip(chunked(source, preprocessor, batching, weight=weight), resident, strict=True):
        assert row_numbers(mine) == row_numbers(theirs)
        assert mine.weight is not None
        assert theirs.weight is not None
        assert torch.equal(mine.weight, theirs.weight)
        assert torch.equal(mine.available, theirs.available)
        for values, expected in zip(mine.inputs.values(), theirs.inputs.values(), strict=True):
            torch.testing.assert_close(values, expected, atol=2e-6, rtol=1e-6)
            assert values.dtype == expected.dtype


def test_modality_dropout_is_that_of_a_resident_stream(dataset: Dataset, preprocessor: Preprocessor) -> None:
    source, batching = dataset.subset(), Batching(64, seed=5, modality_dropout=0.5)
    shown = {}
    for stream in (
        chunked(source, preprocessor, batching),
        DeviceStream(encode_to_memory(source, preprocessor), batching),
    ):
        rows = [(row, mask) for b in stream for row, mask in zip(row_numbers(b), b.available.tolist(), strict=True)]
        shown[type(stream)] = sorted(rows)
    assert shown[ChunkStream] == shown[DeviceStream]


def test_only_the_chosen_columns_and_modalities_are_served(dataset: Dataset) -> None:
    source = dataset.subset(np.arange(0, 900, 2), ["vec", "note"], {"vec": (5, 0, 1999)})
    own = encoding(source)
    for batch in chunked(source, own, Batching(50)):
        assert batch.inputs["vec"].shape[1:] == (3,)
        assert_rows_are_encoded(batch, source, own)


@pytest.mark.parametrize("names", [["facts", "note"], ["photo"]])
def test_data_without_large_arrays_are_served_too(names: list[str], dataset: Dataset) -> None:
    source = dataset.subset(None, names)
    own = encoding(source)
    for batch in chunked(source, own, Batching(64)):
        assert_rows_are_encoded(batch, source, own)


def test_samples_in_memory_are_served_too(dataset: Dataset, preprocessor: Preprocessor) -> None:
    source = HeldSamples(dataset.samples(np.arange(100)), dataset.spec)
    stream = chunked(source, preprocessor, Batching(30))
    seen = [row for batch in stream for row in row_numbers(batch)]
    assert sorted(seen) == list(range(100))


def test_a_mean_far_from_zero_loses_nothing(tmp_path: Path) -> None:
    """The series lie around 5000 with a deviation of 100, and further out once cut down to few rows."""
    source = some_dataset(tmp_path, (64,), missing=0.0).subset(None, ["series"])
    own = encoding(source)
    state = own.states["series"]
    tight = state.model_copy(update={"scale": tuple(50 * scale for scale in state.scale)})
    near = own.model_copy(update={"states": {"series": tight}})
    for fitted in (own, near):
        for batch in chunked(source, fitted, Batching(64)):
            expected = torch.from_numpy(fitted.encode(source.samples(batch.rows.numpy())).inputs["series"])
            torch.testing.assert_close(batch.inputs["series"], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("consumed", [0, 1, 7, 14, 15, 20])
def test_a_loaded_position_goes_on_with_the_first_batch_not_yet_handed_out(
    consumed: int, dataset: Dataset, preprocessor: Preprocessor
) -> None:
    source = dataset.subset(None, ["photo"])
    own, batching = encoding(source), Batching(64, seed=7, modality_dropout=0.0)
    straight = chunked(source, own, batching, ring_bytes=3 * 24 * 100)
    batches = itertools.chain.from_iterable(iter(straight) for _ in range(4))
    for _ in range(consumed):
        next(batches)
    state = json.loads(json.dumps(straight.state_dict()))
    resumed = chunked(source, own, Batching(64), ring_bytes=3 * 24 * 100)
    resumed.load_state_dict(state)
    rest = itertools.chain.from_iterable(iter(resumed) for _ in range(4))
    for mine, theirs in itertools.islice(zip(rest, batches, strict=False), 20):
        assert row_numbers(mine) == row_numbers(theirs)
        assert torch.equal(mine.inputs["photo"], theirs.inputs["photo"])


def test_a_fresh_process_goes_on_bit_for_bit(tmp_path: Path) -> None:
    code = """
import hashlib, json, sys
from pathlib import Path
from training_core.data.preprocessing import Preprocessor
from training_core.data.storage.store import DatasetStore
from training_core.data.streams.batching import Batching
from training_core.data.streams.chunked import ChunkStream
source = DatasetStore(Path(sys.argv[1])).open("world").subset()
stream = ChunkStream(source, Preprocessor.fit(source, source.spec), Batching(32, 3, modality_dropout=0.3),
                     ring_bytes=3 * 100 * 8500, block_rows=8)
stream.load_state_dict(json.loads(sys.argv[2]))
for batch in stream:
    whole = b"".join(v.numpy().tobytes() for v in (*batch.inputs.values(), batch.available, batch.rows, batch.target))
    print(hashlib.sha256(whole).hexdigest(), stream.state_dict()["position"])
"""
    some_dataset(tmp_path, (300, 100))

    def run(position: int) -> list[str]:
        state = json.dumps({"seed": 3, "epoch": 1, "position": position})
        command = [sys.executable, "-c", code, str(tmp_path), state]
        result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[4])
        assert result.returncode == 0, result.stderr
        return result.stdout.split("\n")

    assert run(5) == run(0)[5:]


def test_an_epoch_left_halfway_can_be_started_again_even_while_somebody_holds_it(
    dataset: Dataset, preprocessor: Preprocessor
) -> None:
    source = dataset.subset()
    stream = chunked(source, preprocessor, Batching(32, seed=2))
    whole = [row_numbers(batch) for batch in chunked(source, preprocessor, Batching(32, seed=2))]
    held = iter(stream)
    for expected in whole[:5]:
        assert row_numbers(next(held)) == expected
    again = []
    for batch in stream:
        assert_rows_are_encoded(batch, source, preprocessor)
        again.append(row_numbers(batch))
    assert again == whole
    assert list(held) == [], "the iteration that was left halfway is over"


@pytest.mark.parametrize("how", ["break", "close", "forget the stream"])
def test_no_thread_outlives_an_iteration(how: str, dataset: Dataset, preprocessor: Preprocessor) -> None:
    stream = chunked(dataset.subset(), preprocessor, Batching(32))
    if how == "break":
        for _ in stream:
            break
    else:
        batches = iter(stream)
        next(batches)
        assert readers()
        if how == "close":
            batches.close()  # pyright: ignore[reportAttributeAccessIssue]
        del stream, batches
    gc.collect()
    assert not readers()


def test_a_broken_shard_is_an_error_of_its_own_type_where_it_is_used(tmp_path: Path) -> None:
    dataset = some_dataset(tmp_path)
    source = dataset.subset(None, ["vec"])
    stream = chunked(source, encoding(source), Batching(32, shuffle=False))
    shard = next((dataset.array_stores("vec")[1][0] / "c").rglob("0/0"))
    shard.chmod(0o644)
    shard.write_bytes(shard.read_bytes()[:1000])
    seen = 0
    with pytest.raises(StorageError, match="does not read back"):
        for batch in stream:
            seen += len(batch)
    assert 300 < seen <= 600, "rows of the whole part come first"
    assert not readers()


def test_memory_is_the_same_for_every_batch_and_nothing_new_is_needed(
    dataset: Dataset, preprocessor: Preprocessor
) -> None:
    source = dataset.subset(None, ["vec", "photo"])
    stream = chunked(source, encoding(source), Batching(32, drop_last=True))
    places = {name: set() for name in ("vec", "photo")}
    for _ in range(2):
        for batch in stream:
            for name, found in places.items():
                found.add(batch.inputs[name].data_ptr())
    assert {len(found) for found in places.values()} == {1}
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    for _ in stream:
        pass
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    assert peak < 32 * 8000 / 2, "less than half a batch: plans and indices, no rows"


def test_ranks_get_different_rows_and_equally_many(dataset: Dataset, preprocessor: Preprocessor) -> None:
    source = dataset.subset()
    shares = []
    for rank in range(4):
        stream = chunked(source, preprocessor, Batching(32, rank=rank, world_size=4))
        shares.append([row for batch in stream for row in row_numbers(batch)])
    assert [len(share) for share in shares] == [225] * 4
    assert sorted(itertools.chain.from_iterable(shares)) == list(range(900))


def test_it_says_how_it_shuffles(dataset: Dataset, preprocessor: Preprocessor) -> None:
    stream = chunked(dataset.subset(), preprocessor, Batching(32))
    assert stream.describe().startswith(
        "900 rows read from disk in chunks, 3.8 MB read ahead, shuffled in blocks of 16"
    )
    assert "a batch of 32 meets" in stream.describe()
    assert chunked(dataset.subset(), preprocessor, Batching(32, shuffle=False)).describe().endswith("in order")


def test_blocks_are_as_large_as_chunks_that_cannot_be_read_in_parts(
    dataset: Dataset, packed: Dataset, preprocessor: Preprocessor
) -> None:
    roomy, tight = 3 * 20_000 * 8200, 3 * 16 * 64 * 8200
    assert (
        ChunkStream(packed.subset(None, ["vec"]), preprocessor_of(packed), Batching(8), ring_bytes=tight).block_rows
        <= 64
    )
    for source, rows in ((dataset, 64), (packed, 32)):
        stream = ChunkStream(source.subset(None, ["vec"]), preprocessor_of(source), Batching(8), ring_bytes=roomy)
        assert stream.block_rows == min(rows, 32), "at least 16 blocks of 900 rows"


def preprocessor_of(dataset: Dataset) -> Preprocessor:
    return encoding(dataset.subset(np.arange(20), ["vec"]))


def test_a_stream_without_a_batch_is_refused(dataset: Dataset, preprocessor: Preprocessor) -> None:
    with pytest.raises(DataError, match="20 rows make no batch of 32"):
        chunked(dataset.subset(np.arange(20)), preprocessor, Batching(32, drop_last=True))


def test_the_data_set_stays_in_use_as_long_as_the_stream(tmp_path: Path) -> None:
    data = some_dataset(tmp_path, (64,))
    view = data.subset()
    stream = chunked(view, encoding(view), Batching(16))
    manifest = data.path / "manifest.json"
    del data, view
    gc.collect()
    with unshared(manifest) as is_free:
        assert not is_free
    assert sum(len(batch) for batch in stream) == 64


def test_a_shard_that_vanishes_is_an_error_and_not_zeros(tmp_path: Path) -> None:
    data = some_dataset(tmp_path, (64,))
    view = data.subset()
    stream = chunked(view, encoding(view), Batching(16))
    (data.parts[0].array_path("vec") / "c" / "0" / "0").unlink()
    with pytest.raises(StorageError, match="vec does not read back"):
        list(stream)
