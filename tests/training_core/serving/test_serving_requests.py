import base64
import io
import json
import time
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training_core.export.small_ensemble import small_spec
from training_core.schema import ColumnSpec, DataSpec, ModalitySpec, TaskSpec
from training_core.serving.interface import example_sample
from training_core.serving.requests import RefusedError, read_request

SPEC = small_spec()
PICTURES = DataSpec(
    modalities=(ModalitySpec(name="photo", kind="image", shape=(1, 2, 2)),), task=TaskSpec.classification(2)
)


def read(asked: Any, spec: DataSpec = SPEC, max_rows: int = 10):
    return read_request(asked if isinstance(asked, bytes) else json.dumps(asked).encode(), spec, max_rows)


def npy(array: np.ndarray, **how: Any) -> dict[str, str]:
    file = io.BytesIO()
    np.save(file, array, **how)
    return {"npy": base64.b64encode(file.getvalue()).decode()}


def header_only(text: str) -> dict[str, str]:
    """An .npy file that promises what `text` says, and holds eight bytes."""
    header = text.encode().ljust(117) + b"\n"
    raw = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 8
    return {"npy": base64.b64encode(raw).decode()}


def test_the_three_forms_of_a_request_say_the_same():
    row = {"vec": [1, 2.5, -3, 4], "meta": {"age": 31, "city": "Köln"}, "review": "good"}
    columns = {"vec": [row["vec"]], "meta": {"age": [31], "city": ["Köln"]}, "review": ["good"]}
    one, several, by_modality = read({"sample": row}), read({"samples": [row]}), read({"inputs": columns})
    for other in (several, by_modality):
        for name in SPEC.names:
            np.testing.assert_array_equal(one.inputs[name], other.inputs[name])
            assert one.available[name].tolist() == other.available[name].tolist() == [True]
    assert one.inputs["vec"].dtype == np.float32 and one.inputs["vec"].tolist() == [[1, 2.5, -3, 4]]
    age, size, city = one.inputs["meta"][0]
    assert age == 31 and np.isnan(size) and city == 1
    assert one.inputs["review"].tolist() == ["good"]


def test_what_is_left_out_or_null_is_missing_row_by_row():
    samples = read({"samples": [{"vec": [1, 2, 3, 4]}, {"review": "x", "meta": None}, {"meta": {"age": 3}}, {}]})
    assert samples.available["vec"].tolist() == [True, False, False, False]
    assert samples.available["meta"].tolist() == [False, False, True, False]
    assert samples.available["review"].tolist() == [False, True, False, False]
    by_modality = read({"inputs": {"vec": [None, [1, 2, 3, 4]], "review": ["x", None], "meta": None}})
    assert by_modality.available["vec"].tolist() == [False, True]
    assert by_modality.available["review"].tolist() == [True, False]
    assert not by_modality.available["meta"].any()


def test_arrays_may_be_npy_files_whole_or_row_by_row():
    values = np.arange(8, dtype=np.float64).reshape(2, 4)
    values[0] = np.nan
    whole = read({"inputs": {"vec": npy(values)}})
    rows = read({"samples": [{"review": "x"}, {"vec": npy(values[1])}]})
    for samples in (whole, rows):
        assert samples.available["vec"].tolist() == [False, True]
        assert samples.inputs["vec"][1].tolist() == [4, 5, 6, 7]
    turned = read({"inputs": {"vec": npy(np.asfortranarray(values[1:].astype(np.int16)))}})
    assert turned.inputs["vec"].tolist() == [[4, 5, 6, 7]]


def test_an_image_of_one_channel_may_come_without_it():
    assert read({"sample": {"photo": [[1, 2], [3, 4]]}}, PICTURES).inputs["photo"].shape == (1, 1, 2, 2)


def test_ids_are_given_back_as_text_and_are_row_numbers_otherwise():
    rows = [{"review": "a"}, {"review": "b"}]
    assert read({"samples": rows, "ids": ["x", 7]}).ids.tolist() == ["x", "7"]
    assert read({"samples": rows}).ids.tolist() == ["0", "1"]


@pytest.mark.parametrize("asked", [{"sample": {}}, {"samples": [{}]}, {"sample": {"vec": None}}])
def test_a_sample_may_lack_everything_alone_as_among_others(asked: Any):
    samples = read(asked)
    assert samples.ids.tolist() == ["0"]
    assert [samples.available[name].tolist() for name in SPEC.names] == [[False]] * len(SPEC.names)


def test_an_unknown_category_is_an_absent_cell_and_a_number_may_name_one():
    samples = read({"inputs": {"meta": {"city": ["Paris", 7, "7", None], "age": [1, 2, 3, 4]}}})
    np.testing.assert_array_equal(samples.inputs["meta"][:, 2], [np.nan, 2, 2, np.nan])


@pytest.mark.parametrize(
    ("asked", "status", "says"),
    [
        (b"", 400, "not JSON"),
        (b"\xff\xfe", 400, "not JSON"),
        (b'{"sample": {"vec": [NaN, 1, 2, 3]}}', 400, "NaN is no number of JSON"),
        (b'{"sample": {"vec": [-Infinity, 1, 2, 3]}}', 400, "-Infinity is no number"),
        (b"[" * 100_000, 400, "not JSON|nested too deeply"),
        ([1], 422, "the body is a list; expected an object with one of sample, samples, inputs"),
        ({}, 422, "has none of sample, samples, inputs"),
        ({"sample": {"review": "x"}, "samples": [{}]}, 422, "has sample and samples of"),
        ({"sampel": {}}, 422, "'sampel' is no key.*did you mean 'sample'"),
        ({"samples": {}}, 422, "samples is an object; expected a list"),
        ({"samples": []}, 422, "there are no rows"),
        ({"inputs": {}}, 422, "no rows of any modality"),
        ({"inputs": {"vec": []}}, 422, "no rows of any modality"),
        ({"samples": [{"review": "x"}, 3]}, 422, "sample 1 is a number; expected an object"),
        ({"sample": {"phto": 1}}, 422, "'phto' is no modality; expected some of vec, meta, review"),
        ({"samples": [{"review": "x"}] * 11}, 413, "there are 11 rows; at most 10"),
        ({"inputs": {"review": ["x"] * 11}}, 413, "there are 11 rows"),
        ({"inputs": {"meta": {"age": [1] * 11}}}, 413, "there are 11 rows"),
        ({"inputs": {"vec": npy(np.zeros((11, 4)))}}, 413, "there are 11 rows"),
        ({"inputs": {"vec": [[1, 2, 3]]}}, 422, r"expected numbers \[N, 4\]"),
        ({"inputs": {"vec": [[1, 2, 3, 4], [1, 2]]}}, 422, r"'vec', row 1 has shape \[2\]; expected numbers of shape"),
        ({"inputs": {"vec": [[1, 2, 3, "4"]]}}, 422, "'vec', row 0 holds something that is no number"),
        ({"inputs": {"vec": [[1, 2, 3, None]]}}, 422, "or null for the whole row"),
        ({"inputs": {"vec": [[1, 2, 3, {"a": 1}]]}}, 422, "'vec', row 0 holds something that is no number"),
        ({"inputs": {"vec": [[[1, 2], [3]]]}}, 422, "'vec', row 0 is ragged"),
        ({"inputs": {"vec": [[1, 2, 3, 10**400]]}}, 422, "'vec', row 0 holds something that is no number"),
        ({"inputs": {"vec": [[1, 2, 3, 1e39]]}}, 422, "infinite"),
        ({"inputs": {"vec": "abc"}}, 422, "'vec' is a text; expected a list"),
        ({"inputs": {"vec": [[1, 2, 3, 4]], "review": ["a", "b"]}}, 422, "differ in length"),
        ({"inputs": {"review": [3]}}, 422, "'review' holds 3; expected text or null"),
        ({"inputs": {"review": [["a"]]}}, 422, "'review' holds a list"),
        (b'{"inputs": {"review": ["\\ud800"]}}', 422, "half of a character"),
        (b'{"inputs": {"meta": {"city": ["\\udfff"]}}}', 422, "half of a character"),
        ({"inputs": {"meta": [[1, 2, "Bonn"]]}}, 422, "table 'meta' is a list; expected an object"),
        ({"inputs": {"meta": {}}}, 422, "table 'meta' has no columns"),
        (
            {"inputs": {"meta": {"Age": [1]}}},
            422,
            "'Age' is no column of table 'meta'; expected some of age, size, city",
        ),
        ({"sample": {"meta": {"height": 1}}}, 422, "'height' is no column of table 'meta'"),
        ({"inputs": {"meta": {"age": ["31"]}}}, 422, "column 'age' holds '31'; expected a number or null"),
        ({"inputs": {"meta": {"age": [10**400]}}}, 422, "column 'age' is infinite"),
        ({"inputs": {"meta": {"age": [[1]]}}}, 422, "column 'age' holds a list"),
        ({"inputs": {"meta": {"age": [1, 2], "city": ["Bonn"]}}}, 422, "differ in length: age 2, city 1"),
        ({"inputs": {"meta": {"city": [{"a": 1}]}}}, 422, "column 'city' holds an object"),
        ({"inputs": {"vec": {"npy": "%%%"}}}, 422, "no .npy file in base64"),
        ({"inputs": {"vec": {"npy": "AAAA"}}}, 422, "no .npy file in base64"),
        ({"inputs": {"vec": {"npz": "AAAA"}}}, 422, "expected a list, or"),
        ({"inputs": {"vec": npy(np.array(["a"]))}}, 422, "expected numbers"),
        ({"inputs": {"vec": npy(np.array([print], object), allow_pickle=True)}}, 422, "holds object; expected numbers"),
        ({"inputs": {"vec": npy(np.zeros((0, 4)))}}, 422, "is empty"),
        ({"inputs": {"vec": npy(np.zeros(()))}}, 422, "is a single number"),
        ({"inputs": {"review": npy(np.zeros(3))}}, 422, "'review' is an object; expected a list"),
        (
            {"inputs": {"vec": header_only("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 4)}")}},
            422,
            "which 8 bytes are not",
        ),
        (
            {"inputs": {"vec": header_only("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -1)}")}},
            422,
            "bytes are not",
        ),
        ({"inputs": {"vec": header_only("__import__('os').abort()")}}, 422, "no .npy file"),
        ({"sample": {"review": "x"}, "ids": "ab"}, 422, "ids is a text"),
        ({"sample": {"review": "x"}, "ids": [True]}, 422, "ids hold True"),
        ({"sample": {"review": "x"}, "ids": ["a", "b"]}, 422, "there are 2 ids; expected one for each of 1 rows"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(asked: Any, status: int, says: str):
    with pytest.raises(RefusedError, match=says) as refused:
        read(asked)
    assert refused.value.status == status
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 300


@pytest.mark.parametrize("form", ["inputs", "sample"])
def test_a_long_text_among_numbers_costs_no_more_than_its_length(form: str):
    row = [1] * 10_000 + ["x" * 100_000]
    body = json.dumps({"inputs": {"vec": [row]}} if form == "inputs" else {"sample": {"vec": row}}).encode()
    tracemalloc.start()
    try:
        with pytest.raises(RefusedError, match="row 0 holds something that is no number"):
            read(body)
        assert tracemalloc.get_traced_memory()[1] < 20 * len(body)  # as an array of texts: 30,000 times
    finally:
        tracemalloc.stop()


def test_names_of_many_columns_are_known_in_no_time():
    columns = tuple(ColumnSpec(name=f"c{i}") for i in range(4000))
    table = ModalitySpec(name="t", kind="tabular", shape=(4000,), columns=columns)
    spec = DataSpec(modalities=(table,), task=TaskSpec.regression())
    row = {column.name: 1.0 for column in columns}
    began = time.process_time()
    with pytest.raises(RefusedError, match=r"'c4000' is no column of table 't'.*and 3992 more"):
        read({"samples": [{"t": row}] * 30 + [{"t": row | {"c4000": 1}}]}, spec, max_rows=40)
    assert time.process_time() - began < 2  # a list searched for each name: thirty times 8,000,000 comparisons


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["npy", "age", "city", "x"]), inner),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["sample", "inputs"]), st.dictionaries(st.sampled_from(SPEC.names), JSON), min_size=1
    )
)
def test_whatever_json_comes_is_read_or_refused(asked: dict[str, Any]):
    try:
        samples = read(asked)
    except RefusedError as error:
        assert error.status in {400, 413, 422}
    else:
        assert np.isfinite(samples.inputs["vec"]).all()


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        PICTURES,
        DataSpec(
            modalities=(
                ModalitySpec(name="film", kind="sequence", shape=(40, 3)),
                ModalitySpec(name="t", kind="tabular", shape=(1,), columns=(ColumnSpec(name="c", categories=()),)),
            ),
            task=TaskSpec.regression(),
        ),
    ],
)
def test_the_example_in_the_schema_can_be_sent(spec: DataSpec):
    samples = read({"sample": example_sample(spec)}, spec)
    assert len(samples) == 1
