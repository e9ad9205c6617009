from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from training_core.data.frames import frame_columns, frame_from_samples, read_samples, samples_from_frame
from training_core.errors import DataError
from training_core.schema import ColumnSpec, DataSpec, ModalitySpec, Samples, TaskSpec

SPEC = DataSpec(
    modalities=(
        ModalitySpec(name="photo", kind="image", shape=(1, 2, 2)),
        ModalitySpec(name="vec", kind="vector", shape=(3,)),
        ModalitySpec(
            name="meta",
            kind="tabular",
            shape=(3,),
            columns=(
                ColumnSpec(name="age"),
                ColumnSpec(name="city", categories=("Köln", "Ulm")),
                ColumnSpec(name="size"),
            ),
        ),
        ModalitySpec(name="review", kind="text", columns=(ColumnSpec(name="title"), ColumnSpec(name="body"))),
    ),
    task=TaskSpec.classification("ab"),
)


def some_samples() -> Samples:
    texts = np.asarray(["good, very good", "", 'says "no"\nand goes', "🙂"], object)
    return Samples(
        inputs={
            "photo": np.arange(16, dtype=np.float32).reshape(4, 1, 2, 2),
            "vec": np.linspace(0, 1, 12, dtype=np.float32).reshape(4, 3),
            "meta": np.asarray([[30, 0, 1], [np.nan, 1, 2], [40.5, np.nan, 3], [50, 1, 4]], np.float64),
            "review": texts,
        },
        available={
            "photo": np.asarray([True, False, True, True]),
            "vec": np.ones(4, bool),
            "meta": np.asarray([True, True, True, False]),
            "review": texts != "",
        },
        ids=np.asarray(["a", "b", "c", "d"], object),
    )


def assert_same(first: Samples, second: Samples) -> None:
    for name in SPEC.names:
        mask = first.available[name]
        assert (second.available[name] == mask).all(), name
        one, other = first.inputs[name][mask], second.inputs[name][mask]
        assert one.dtype == other.dtype
        assert all(str(a) == str(b) for a, b in zip(one.ravel(), other.ravel(), strict=True)), name


def test_columns_stand_modality_by_modality():
    assert frame_columns(SPEC) == [
        *(f"photo_{i}" for i in range(4)),
        *(f"vec_{i}" for i in range(3)),
        *("age", "city", "size", "title", "body"),
    ]


def test_a_name_in_two_modalities_is_prefixed_in_both():
    columns = (ColumnSpec(name="title"), ColumnSpec(name="vec_0"))
    other = ModalitySpec(name="extra", kind="tabular", shape=(2,), columns=columns)
    spec = SPEC.model_copy(update={"modalities": (*SPEC.modalities, other)})
    names = frame_columns(spec)
    assert {"review.title", "extra.title", "extra.vec_0", "vec_0", "body"} < set(names)
    assert len(set(names)) == len(names)


def test_samples_survive_being_a_table():
    samples = some_samples()
    frame = frame_from_samples(samples, SPEC)
    assert list(frame.columns) == frame_columns(SPEC)
    assert_same(samples, samples_from_frame(frame, SPEC))


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_samples_survive_being_a_file(tmp_path, suffix):
    samples = some_samples()
    frame = frame_from_samples(samples, SPEC)
    frame.insert(0, "id", samples.ids)
    path = tmp_path / f"new{suffix}"
    if suffix == ".parquet":
        frame.to_parquet(path)
    elif suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    read = read_samples(path, SPEC)
    assert_same(samples, read)
    assert read.ids.tolist() == ["a", "b", "c", "d"]


def test_samples_survive_being_arrays(tmp_path):
    samples = some_samples()
    spec = SPEC.select(["photo", "vec", "review"])
    photo = samples.inputs["photo"].copy()
    photo[1] = np.nan
    np.savez(tmp_path / "new.npz", photo=photo, review=samples.inputs["review"].astype(str), id=np.arange(4) * 10)
    read = read_samples(tmp_path / "new.npz", spec)
    assert (read.inputs["photo"][[0, 2, 3]] == photo[[0, 2, 3]]).all()
    assert read.available["photo"].tolist() == [True, False, True, True]
    assert not read.available["vec"].any()
    assert read.inputs["review"].tolist() == samples.inputs["review"].tolist()
    assert read.ids.tolist() == ["0", "10", "20", "30"]


def test_a_table_of_numbers_may_stand_in_an_array(tmp_path):
    meta = ModalitySpec(name="m", kind="tabular", shape=(2,), columns=(ColumnSpec(name="x"), ColumnSpec(name="y")))
    spec = SPEC.model_copy(update={"modalities": (meta,)})
    np.savez(tmp_path / "new.npz", m=np.asarray([[1, np.nan], [np.nan, np.nan]]))
    read = read_samples(tmp_path / "new.npz", spec)
    assert read.available["m"].tolist() == [True, False]
    assert read.inputs["m"][0, 0] == 1


@pytest.mark.parametrize("missing", [("photo",), ("vec", "meta"), ("photo", "vec", "meta")])
def test_a_modality_without_its_columns_is_missing_everywhere(missing):
    samples = some_samples().without(missing)
    frame = frame_from_samples(samples, SPEC.select([n for n in SPEC.names if n not in missing]))
    assert_same(samples, samples_from_frame(frame, SPEC))


def test_absent_cells_unknown_categories_and_left_out_table_columns_are_nan():
    frame = pd.DataFrame({"age": [30, None], "city": ["Rom", "Ulm"], "title": [None, "hm"], "other": [1, 2]})
    samples = samples_from_frame(frame, SPEC)
    assert np.isnan(samples.inputs["meta"][:, 2]).all()
    assert np.isnan(samples.inputs["meta"][0, 1])
    assert samples.inputs["meta"][1, 1] == 1
    assert samples.available["meta"].tolist() == [True, True]
    assert samples.available["review"].tolist() == [False, True]
    assert samples.target is None


def test_numbers_may_come_as_text_and_integers():
    frame = pd.DataFrame({"vec_0": ["1", "2"], "vec_1": [1, 2], "vec_2": [0.5, 1.5]})
    assert samples_from_frame(frame, SPEC).inputs["vec"].tolist() == [[1, 1, 0.5], [2, 2, 1.5]]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (
            {"vec_0": [1.0], "vec_2": [1.0]},
            r"'vec' has 2 of its 3 columns \('vec_1' is absent\); give all of them, or none",
        ),
        ({"vec_0": [1.0], "vec_1": [np.nan], "vec_2": [1.0]}, r"'vec' is partly empty in row 0"),
        ({"vec_0": [1.0], "vec_1": [np.inf], "vec_2": [1.0]}, r"'vec' is infinite"),
        ({"vec_0": [1.0], "vec_1": [1e300], "vec_2": [1.0]}, r"'vec' is infinite \(or beyond float32\) in row 0"),
        ({"vec_0": ["x"], "vec_1": ["1"], "vec_2": ["1"]}, r"column 'vec_0', row 0: 'x' is not a number"),
        ({"age": [np.inf]}, r"column 'age' is infinite"),
        ({"age": ["old"]}, r"column 'age', row 0: 'old' is not a number; correct the cell or leave it empty"),
        ({"years": [3]}, r"none of the columns of this data; it has years, expected some of photo_0"),
        ({"age": []}, r"0 rows"),
    ],
)
def test_a_wrong_table_is_refused(frame, message):
    with pytest.raises(DataError, match=message):
        samples_from_frame(pd.DataFrame(frame), SPEC)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"vec": np.ones((2, 4))}, r"array 'vec' is float64 \[2, 4\], expected numbers \[N, 3\]"),
        ({"vec": np.ones((2, 3)), "photo": np.ones((3, 1, 2, 2))}, r"arrays differ in length: vec 2, photo 3"),
        ({"vec": np.ones((2, 3)), "id": np.arange(3)}, r"arrays differ in length"),
        ({"vek": np.ones((2, 3))}, r"array 'vek' is no modality; expected some of photo, vec"),
        ({"vec": np.ones((0, 3))}, r"no rows of any modality"),
        ({"meta": np.ones((2, 2))}, r"array 'meta' has shape \[2, 2\], expected \[N, 3\]"),
        ({}, r"no rows of any modality"),
    ],
)
def test_wrong_arrays_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "new.npz", **arrays)
    with pytest.raises(DataError, match=message):
        read_samples(tmp_path / "new.npz", SPEC)


def test_ids_are_row_numbers_where_there_are_none(tmp_path):
    def ids(text: str, id_column: str | None = None) -> list[str]:
        path = tmp_path / "new.csv"
        path.write_text(text)
        return read_samples(path, SPEC, id_column).ids.tolist()

    assert ids("age,city\n1,Ulm\n2,Ulm\n") == ["0", "1"]
    assert ids("age,id\n1,x\n2,\n") == ["x", "1"]
    assert ids("age,sku\n1,x\n2,y\n", "sku") == ["x", "y"]
    with pytest.raises(DataError, match="ids in 'sku' occur more than once"):
        ids("age,sku\n1,x\n2,x\n", "sku")


def test_a_file_of_another_kind_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"predictions are made for \.csv, \.tsv, \.jsonl, \.parquet, \.npz files"):
        read_samples(Path("new.xlsx"), SPEC)
    (tmp_path / "new.csv").write_text("years\n3\n")
    with pytest.raises(DataError, match=r"new\.csv: the input has none of the columns"):
        read_samples(tmp_path / "new.csv", SPEC)


def test_a_column_that_differs_by_case_or_a_space_is_a_slip_not_a_missing_modality():
    frame = frame_from_samples(some_samples(), SPEC)
    column = frame.columns[0]
    for slip in (column.upper(), f" {column} "):
        with pytest.raises(DataError, match=f"has a column '{slip}', expected '{column}'; rename it"):
            samples_from_frame(frame.rename(columns={column: slip}), SPEC)


def test_ids_are_those_of_the_column_that_is_named(tmp_path):
    frame = frame_from_samples(some_samples(), SPEC).assign(sample_id=lambda f: [f"s{i}" for i in range(len(f))])
    frame.to_csv(tmp_path / "new.csv", index=False)
    assert read_samples(tmp_path / "new.csv", SPEC, "sample_id").ids[1] == "s1"
    with pytest.raises(DataError, match="has no column 'key' of ids"):
        read_samples(tmp_path / "new.csv", SPEC, "key")
