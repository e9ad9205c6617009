import hashlib
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from training_core.data.ingestion.digits import write_digits_source
from training_core.data.ingestion.ingest import prepare_dataset
from training_core.data.storage.store import DatasetStore


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_the_digits_are_a_source_of_three_modalities(tmp_path):
    dataset = prepare_dataset(write_digits_source(tmp_path / "digits"), DatasetStore(tmp_path / "store"))
    assert {m.name: (m.kind, m.shape) for m in dataset.spec.modalities} == {
        "pixels": ("image", (1, 8, 8)),
        "fourier": ("vector", (34,)),
        "profile": ("tabular", (31,)),
    }
    assert dataset.spec.task.classes == tuple("0123456789")
    assert (len(dataset.rows("train")), len(dataset.rows("test"))) == (1257, 540)
    samples = dataset.samples()
    images, labels = load_digits(return_X_y=True)
    assert (samples.inputs["pixels"].reshape(-1, 64) == images).all()
    assert (samples.target == labels).all()


def test_the_views_are_what_they_are_called(tmp_path):
    dataset = prepare_dataset(write_digits_source(tmp_path / "digits"), DatasetStore(tmp_path / "store"))
    samples = dataset.samples(np.asarray([7]))
    image = samples.inputs["pixels"][0, 0]
    profile = dict(zip((c.name for c in dataset.spec["profile"].columns), samples.inputs["profile"][0], strict=True))
    assert profile["row_2"] == image[2].sum()
    assert profile["column_5"] == image[:, 5].sum()
    assert profile["diagonal_7"] == np.trace(image)
    assert samples.inputs["fourier"][0, 0] == pytest.approx(image.sum(), abs=1e-3)
    # every magnitude of the full transform occurs among the kept ones
    kept = samples.inputs["fourier"][0]
    everything = np.abs(np.fft.fft2(image)).ravel()
    assert np.abs(everything[:, None] - kept).min(axis=1).max() < 1e-3


def test_the_files_are_the_same_every_time(tmp_path):
    first, second = (write_digits_source(tmp_path / name).parent for name in ("a", "b"))
    assert digests(first) == digests(second)
    write_digits_source(first)
    assert digests(first) == digests(second)
