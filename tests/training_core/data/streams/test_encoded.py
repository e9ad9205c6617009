from pathlib import Path

import numpy as np
import pytest
import torch
from stream_world import encoding, some_dataset

from training_core.data.storage.dataset import Dataset
from training_core.data.streams import encoded
from training_core.data.streams.batching import Batching
from training_core.data.streams.encoded import encode_to_disk, encode_to_memory, encoded_bytes, part_of, to_batch
from training_core.data.streams.resident import DeviceStream
from training_core.data.views import HeldSamples
from training_core.errors import DataError, StorageError
from training_core.schema import Batch


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return some_dataset(tmp_path_factory.mktemp("world"), (200, 100))


def assert_same(one: Batch, other: Batch) -> None:
    assert list(one.inputs) == list(other.inputs)
    for name, values in one.inputs.items():
        assert values.dtype == other.inputs[name].dtype
        assert torch.equal(values, other.inputs[name])
    for mine, theirs in ((one.available, other.available), (one.target, other.target), (one.weight, other.weight)):
        assert (mine is None) == (theirs is None)
        assert mine is None or theirs is None or torch.equal(mine, theirs)


@pytest.mark.parametrize("block_bytes", [1, 100_000, 1 << 25])
def test_block_by_block_is_the_same_as_all_at_once(
    block_bytes: int, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoded, "_BLOCK_BYTES", block_bytes)
    source = dataset.subset(np.r_[0:50, 3:5, 250:300])
    preprocessor, weight = encoding(source), np.random.default_rng(0).random(102)
    expected = to_batch(preprocessor.encode(source.samples()), preprocessor.spec, weight=weight)
    for rows in (source, HeldSamples(dataset.samples(source.rows), dataset.spec)):
        assert_same(encode_to_memory(rows, preprocessor, weight=weight), expected)
        assert_same(encode_to_disk(rows, preprocessor, tmp_path, weight), expected)


def test_mapped_rows_outlive_the_names_of_their_files(dataset: Dataset, tmp_path: Path) -> None:
    source = dataset.subset()
    preprocessor = encoding(source)
    data = encode_to_disk(source, preprocessor, tmp_path)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == sorted(preprocessor.spec.names)
    for file in files:
        file.unlink()
    assert_same(data, encode_to_memory(source, preprocessor))
    batching = Batching(32, seed=1)
    for mine, theirs in zip(
        DeviceStream(data, batching), DeviceStream(encode_to_memory(source, preprocessor), batching), strict=True
    ):
        assert_same(mine, theirs)


def test_writing_to_mapped_rows_does_not_change_the_files(dataset: Dataset, tmp_path: Path) -> None:
    source = dataset.subset(None, ["vec"])
    before = encode_to_disk(source, encoding(source), tmp_path)
    whole = (tmp_path / "vec").read_bytes()
    before.inputs["vec"].zero_()
    assert (tmp_path / "vec").read_bytes() == whole


def test_the_size_is_known_beforehand(dataset: Dataset) -> None:
    source = dataset.subset()
    preprocessor = encoding(source)
    data = encode_to_memory(source, preprocessor, weight=np.ones(300))
    assert data.target is not None
    assert data.weight is not None
    assert data.rows is not None
    tensors = [*data.inputs.values(), data.available, data.target, data.weight, data.rows]
    found = sum(tensor.nbytes for tensor in tensors)
    assert found <= encoded_bytes(preprocessor, 300) <= 1.01 * found


def test_a_part_of_an_encoding_encodes_like_the_whole(dataset: Dataset) -> None:
    source = dataset.subset()
    whole = encoding(source)
    part = part_of(whole, ["note", "series"])
    assert part.spec.names == ("series", "note")
    data = encode_to_memory(source, part)
    expected = encode_to_memory(source, whole)
    assert torch.equal(data.inputs["note"], expected.inputs["note"])
    assert torch.equal(data.available, expected.available[:, [2, 4]])


def test_rows_without_a_modality_the_learner_takes_are_refused(dataset: Dataset) -> None:
    preprocessor = encoding(dataset.subset())
    with pytest.raises(DataError, match="the rows have no modality 'photo'; they have vec"):
        encode_to_memory(dataset.subset(None, ["vec"]), preprocessor)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_an_error_that_says_where(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "vec").symlink_to("/dev/full")
    source = dataset.subset(None, ["vec"])
    with pytest.raises(StorageError, match=r"encoded rows cannot be written to .*No space left.*make room there"):
        encode_to_disk(source, encoding(source), tmp_path)
