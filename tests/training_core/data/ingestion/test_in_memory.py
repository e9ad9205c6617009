"""Data sets out of arrays, data frames, texts and Hugging Face data sets."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from training_core.data.ingestion.in_memory import create_dataset_from_arrays, create_dataset_from_huggingface
from training_core.errors import ConfigError, DataError

N = 30
DRAWS = np.random.default_rng(0)
LABEL = np.array(["yes", "no", "maybe"])[np.arange(N) % 3]
MODALITIES = {
    "vec": DRAWS.normal(size=(N, 4)),
    "photo": DRAWS.integers(0, 255, (N, 3, 5, 5)).astype(np.uint8),
    "clicks": DRAWS.normal(size=(N, 6, 2)).astype(np.float32),
    "review": [f"text {i}" if i != 4 else None for i in range(N)],
    "meta": pd.DataFrame(
        {
            "age": np.where(np.arange(N) == 2, np.nan, np.arange(N)),
            "big": np.arange(N) + 2**60,
            "city": list("abc") * 10,
        }
    ),
}


def create(tmp_path: Path, **changes):
    given = {"target": LABEL, "task": "classification", "kinds": {"clicks": "sequence"}, "modalities": MODALITIES}
    given |= changes
    return create_dataset_from_arrays("held", store=tmp_path, **given)


def test_everything_comes_back_as_it_was(tmp_path):
    dataset = create(tmp_path)
    assert [(m.name, m.kind) for m in dataset.spec.modalities] == [
        ("vec", "vector"),
        ("photo", "image"),
        ("clicks", "sequence"),
        ("review", "text"),
        ("meta", "tabular"),
    ]
    for name in ("vec", "photo", "clicks"):
        values = dataset.array(name)
        assert values.dtype == MODALITIES[name].dtype
        assert (values == MODALITIES[name]).all()
    frame = dataset.frame("meta")
    assert frame["big"].tolist() == (np.arange(N) + 2**60).tolist()
    assert frame["age"].isna().tolist() == (np.arange(N) == 2).tolist()
    assert frame["city"].tolist() == list("abc") * 10
    assert dataset.available()["review"].tolist() == [i != 4 for i in range(N)]
    assert dataset.spec.task.classes == ("maybe", "no", "yes")


def test_ids_groups_times_and_a_given_split_are_kept(tmp_path):
    split = ["test" if i >= 20 else "train" for i in range(N)]
    times = pd.date_range("2026-01-01", periods=N, freq="D", tz="Europe/Berlin")
    dataset = create(tmp_path, ids=[f"x{i}" for i in range(N)], groups=np.arange(N), times=times, split=split)
    assert dataset.ids()[3] == "x3"
    assert dataset.groups()[5] == "5"
    assert (dataset.times() == times.tz_convert("UTC").tz_localize(None).to_numpy()).all()
    assert dataset.split().tolist() == split


def test_regression_and_multilabel_targets(tmp_path):
    values = DRAWS.normal(size=(N, 2))
    dataset = create(tmp_path, target=values, task="regression")
    assert dataset.spec.task.targets == ("target_0", "target_1")
    assert (dataset.target() == values).all()
    labels = pd.DataFrame({"wet": np.arange(N) % 2, "red": np.arange(N) % 3 == 0})
    dataset = create(tmp_path, target=labels, task="multilabel")
    assert dataset.spec.task.classes == ("wet", "red")
    assert (dataset.target() == labels.to_numpy(float)).all()


def test_a_single_row_without_a_test_split_is_a_data_set(tmp_path):
    one = {name: values[:1] for name, values in MODALITIES.items()}
    dataset = create(tmp_path, modalities=one, target=[1.5], task="regression", split={"test": 0})
    assert len(dataset) == 1
    assert dataset.target().tolist() == [[1.5]]
    assert dataset.rows("test").tolist() == []


def test_what_is_unclear_is_asked_for(tmp_path):
    with pytest.raises(DataError, match=r"'clicks' is an array of shape \[30, 6, 2\]; say with `kinds`"):
        create(tmp_path, kinds={})
    with pytest.raises(DataError, match="lengths differ: target 30, id 29"):
        create(tmp_path, ids=list(range(N - 1)))
    with pytest.raises(DataError, match="20 rows"):
        create(tmp_path, modalities={"vec": MODALITIES["vec"][:20]})
    with pytest.raises(ConfigError, match="unknown key 'colour'"):
        create(tmp_path, colour="red")


def test_a_hugging_face_data_set_comes_in_by_its_features(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "size": datasets.Value("float64"),
            "emb": datasets.Sequence(datasets.Value("float32"), length=4),
            "label": datasets.ClassLabel(names=["no", "yes"]),
        }
    )
    data = datasets.Dataset.from_dict(
        {
            "text": [f"text {i}" for i in range(N)],
            "size": np.arange(N) / 7,
            "emb": MODALITIES["vec"].astype(np.float32),
            "label": np.arange(N) % 2,
        },
        features=features,
    )
    dataset = create_dataset_from_huggingface("hub", data, "label", task="classification", store=tmp_path)
    assert {m.name: m.kind for m in dataset.spec.modalities} == {"text": "text", "emb": "vector", "columns": "tabular"}
    assert dataset.spec.task.classes == ("no", "yes")
    assert (dataset.array("emb") == MODALITIES["vec"].astype(np.float32)).all()
    assert dataset.frame("columns")["size"].tolist() == (np.arange(N) / 7).tolist()


def test_series_go_by_their_place_whatever_their_index(tmp_path):
    order = np.random.default_rng(1).permutation(N)
    target, ids = pd.Series(LABEL, index=order), pd.Series([f"x{i}" for i in range(N)])
    dataset = create(tmp_path, target=target, ids=ids, split=pd.Series(["train", "test"] * 15, index=order[::-1]))
    assert np.asarray(dataset.spec.task.classes)[dataset.target()].tolist() == LABEL.tolist()
    assert dataset.ids().tolist() == ids.tolist()
    assert dataset.split().tolist() == ["train", "test"] * 15


def test_a_modality_may_be_called_rows(tmp_path):
    dataset = create(tmp_path, modalities={"rows": MODALITIES["meta"], "vec": MODALITIES["vec"]})
    assert dataset.frame("rows")["city"].tolist() == list("abc") * 10
