import io

import datasets
import numpy as np
import pytest
from datasets import Array2D, Array3D, ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as Pillow

from training_core.data.sources.huggingface import huggingface_modalities, huggingface_sources
from training_core.errors import DataError


def png(values: np.ndarray) -> dict[str, bytes | None]:
    stream = io.BytesIO()
    Pillow.fromarray(values).save(stream, "PNG")
    return {"bytes": stream.getvalue(), "path": None}


def some_data(num_rows: int = 10) -> Dataset:
    draws = np.random.default_rng(0)
    features = Features(
        {
            "label": ClassLabel(names=["no", "yes"]),
            "text": Value("string"),
            "n": Value("int64"),
            "wet": Value("bool"),
            "when": Value("timestamp[us, tz=UTC]"),
            "vec": List(Value("float32")),
            "fixed": List(Value("int16"), length=2),
            "clicks": List(List(Value("float64"))),
            "grid": Array2D((2, 3), "float32"),
            "cube": Array3D((1, 2, 3), "uint8"),
            "photo": Image(),
            "words": List(Value("string")),
            "raw": Value("binary"),
        }
    )
    rows = range(num_rows)
    return Dataset.from_dict(
        {
            "label": [-1 if i == 3 else i % 2 for i in rows],
            "text": [None if i == 2 else f"größe {i}" for i in rows],
            "n": [2**53 + i for i in rows],
            "wet": [i % 2 == 0 for i in rows],
            "when": [None] * num_rows,
            "vec": [None if i == 4 else draws.random(5).tolist() for i in rows],
            "fixed": [[i, -i] for i in rows],
            "clicks": draws.random((num_rows, 4, 2)).tolist(),
            "grid": draws.random((num_rows, 2, 3)),
            "cube": draws.integers(0, 255, (num_rows, 1, 2, 3)),
            "photo": [None if i == 1 else png(np.full((2, 4), i % 256, np.uint8)) for i in rows],
            "words": [["a"]] * num_rows,
            "raw": [b"x"] * num_rows,
        },
        features=features,
    )


def test_columns_become_a_table_and_arrays():
    data = some_data()
    sources = huggingface_sources(data)
    assert list(sources) == ["table", "vec", "fixed", "clicks", "grid", "cube", "photo"]
    table = sources.pop("table")
    assert table.columns == ("label", "text", "n", "wet", "when")
    taken = table.take(["n", "label", "text"], np.asarray([3, -1, 2, 9, 3]))
    assert taken["n"].to_pylist() == [2**53 + 3, None, 2**53 + 2, 2**53 + 9, 2**53 + 3]
    assert taken["label"].to_pylist() == [None, None, "no", "yes", None]
    assert taken["text"].to_pylist() == ["größe 3", None, None, "größe 9", "größe 3"]
    with pytest.raises(DataError, match="no column 'vec'"):
        table.take(["vec"], slice(0, 1))
    rows = np.asarray([9, -1, 0, 9])
    for name, source in sources.items():
        shape = {"vec": (5,), "fixed": (2,), "clicks": (4, 2), "grid": (2, 3), "cube": (1, 2, 3), "photo": (1, 2, 4)}
        assert source.shape == (10, *shape[name])
        whole = source.take(slice(None))
        assert whole.dtype == source.dtype
        taken = source.take(rows)
        assert (taken[[0, 2, 3]] == whole[[9, 0, 9]]).all()
        assert not taken[1].any()
        absent = {"vec": [4], "photo": [1]}.get(name, [])
        assert np.flatnonzero(~source.present).tolist() == absent if absent else source.present is None
        if name not in {"photo", "vec"}:
            assert (whole == np.asarray(data[name], source.dtype)).all()
    assert sources["photo"].take(slice(None))[:, 0, 0, 0].tolist() == [0, 0, *range(2, 10)]
    assert sources["vec"].take(slice(None))[[0, 9]].tolist() == [data[0]["vec"], data[9]["vec"]]


def test_rows_that_were_picked_and_shuffled_come_in_their_new_order():
    data = some_data(300)
    picked = data.select(range(100, 300)).shuffle(seed=1)
    sources = huggingface_sources(picked)
    numbers = sources["table"].take(["n"], slice(None))["n"].to_pylist()
    assert numbers == picked["n"][:]
    assert (sources["fixed"].take(slice(50, 60)) == np.asarray(picked["fixed"][50:60])).all()
    rows = np.asarray([199, 0, 150])
    assert (sources["photo"].take(rows)[:, 0, 0, 0] == (np.asarray(numbers)[rows] - 2**53) % 256).all()


def test_columns_become_modalities():
    assert huggingface_modalities(some_data(), without={"label"}) == {
        "text": {"kind": "text", "file": "table", "columns": ["text"]},
        "vec": {"kind": "vector", "file": "vec"},
        "fixed": {"kind": "vector", "file": "fixed"},
        "clicks": {"kind": "sequence", "file": "clicks"},
        "grid": {"kind": "sequence", "file": "grid"},
        "cube": {"kind": "image", "file": "cube"},
        "photo": {"kind": "image", "file": "photo"},
        "columns": {"kind": "tabular", "file": "table", "columns": ["n", "wet"], "categorical": ["wet"]},
    }


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(DataError, match=r"a DatasetDict is no datasets.Dataset; pick one split"):
        huggingface_sources(datasets.DatasetDict({"train": some_data()}))  # pyright: ignore[reportArgumentType]
    with pytest.raises(DataError, match=r"column 'vec' holds lists of different lengths, expected \[2\] in every row"):
        huggingface_sources(Dataset.from_dict({"vec": [[1, 2], [3]]}))["vec"].take(slice(None))
    with pytest.raises(DataError, match=r"column 'vec' holds lists with absent whole numbers"):
        huggingface_sources(Dataset.from_dict({"vec": [[1, 2], [3, None]]}))["vec"].take(slice(None))
    features = Features({"photo": Image()})
    mixed = {"photo": [png(np.zeros((2, 2), np.uint8)), png(np.zeros((3, 2), np.uint8))]}
    with pytest.raises(DataError, match=r"column 'photo', row 1 is 3 × 2 pixels .*, the first image is 2 × 2"):
        huggingface_sources(Dataset.from_dict(mixed, features=features))
    with pytest.raises(DataError, match=r"column 'photo', row 0 cannot be read as an image"):
        torn = {"photo": [{"bytes": b"\x89PNG torn", "path": None}]}
        huggingface_sources(Dataset.from_dict(torn, features=features))
    with pytest.raises(DataError, match=r"image 'gone.png' is not on this machine"):
        gone = {"photo": [{"bytes": None, "path": "gone.png"}]}
        huggingface_sources(Dataset.from_dict(gone, features=features))


def test_an_absent_number_in_a_list_is_nan():
    vec = huggingface_sources(Dataset.from_dict({"vec": [[1.0, None]]}))["vec"].take(slice(None))
    assert vec[0, 0] == 1
    assert np.isnan(vec[0, 1])


def test_a_data_set_without_rows_is_empty():
    data = some_data().select([])
    sources = huggingface_sources(data)
    assert sources["table"].num_rows == 0
    assert sources["vec"].shape[0] == 0
