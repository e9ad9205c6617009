"""What a bundle reads: the same rows as the library, and a line where it cannot."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tests.training_core.export.exported_learners import MODALITIES, TASKS, samples_of
from training_core.campaigns.fitted import restricted
from training_core.data.frames import columns_by_modality, frame_from_samples, samples_from_arrays, samples_from_frame
from training_core.export.bundled.bundle_inputs import BundleError, BundleInputs, number_of, text_of
from training_core.export.parity import plain_arrays
from training_core.schema import DataSpec

SPEC = DataSpec(modalities=MODALITIES, task=TASKS["classification"])
DESCRIPTION = {
    "modalities": [
        m.model_dump(mode="json") | {"flat_columns": columns_by_modality(SPEC)[m.name]} for m in SPEC.modalities
    ],
    "inputs": [
        {"name": m.name, "modality": m.name, "holds": "values", "shape": list(m.shape), "analyzer": ""}
        for m in SPEC.modalities
        if m.kind != "text"
    ],
}


@pytest.fixture
def inputs():
    return BundleInputs(DESCRIPTION, {})


def test_rows_are_held_as_the_library_reads_them(inputs):
    samples = samples_of(SPEC.task, 30, seed=2)
    arrays = plain_arrays(samples, SPEC)
    for name in ("vec", "photo", "walk"):
        arrays[name] = arrays[name].copy()
        arrays[name][~samples.available[name]] = np.nan
    held = inputs.hold(arrays)
    expected = samples_from_arrays(
        {name: pd.DataFrame(v) if isinstance(v, dict) else v for name, v in arrays.items()}, SPEC
    )
    np.testing.assert_array_equal(held.available, expected.availability(SPEC.names))
    for m in SPEC.modalities:
        np.testing.assert_array_equal(held.values[m.name], expected.inputs[m.name], err_msg=m.name)


def test_what_is_not_shown_is_missing(inputs):
    samples = samples_of(SPEC.task, 6, seed=2)
    held = inputs.hold(plain_arrays(samples, SPEC), ["vec", "meta"])
    assert held.available[:, 0].all() and not held.available[:, 2:].any()
    mask = np.arange(6) % 2 == 0
    held = inputs.hold({"vec": samples.inputs["vec"]}, {"vec": mask})
    np.testing.assert_array_equal(held.available[:, 0], mask)
    assert not held.available[:, 1:].any()


def test_what_is_shown_means_the_same_here_and_in_the_library(inputs):
    samples = samples_of(SPEC.task, 6, seed=2)
    arrays, mask = plain_arrays(samples, SPEC), np.arange(6) % 2 == 0
    given = inputs.hold(arrays).available
    known = replace(samples, available=dict(zip(SPEC.names, given.T, strict=True)))
    for shown in (None, "vec", ["vec", "meta"], {"vec": mask}, {"vec": mask, "meta": False}, {}):
        expected = restricted(known, shown, SPEC.names).availability(SPEC.names)
        np.testing.assert_array_equal(inputs.hold(arrays, shown).available, expected, err_msg=str(shown))


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({}, "no rows"),
        ({"vec": np.zeros((0, 6))}, "no rows"),
        ({"voc": np.zeros((2, 6))}, "'voc' is no modality"),
        ({"vec": np.zeros((2, 6)), "photo": np.zeros((3, 2, 8, 8))}, "differ in length"),
        ({"vec": np.zeros((2, 5))}, r"shape \[2, 5\], expected \[N, 6\]"),
        ({"vec": [["a"] * 6]}, "not numbers"),
        ({"vec": np.full((1, 6), np.inf)}, "infinite in row 0"),
        ({"vec": np.array([[1, 2, 3, 4, 5, np.nan]])}, "partly empty in row 0"),
        ({"meta": {"agee": [1]}}, "no column 'agee'"),
        ({"meta": {"age": [1], "size": [1, 2]}}, "differ in length"),
        ({"meta": {"age": ["old"]}}, "'old' is not a number"),
        ({"meta": {"age": [1e400]}}, "infinite"),
        ({"meta": np.zeros((2, 9))}, "expected \\[N, 4\\]"),
    ],
)
def test_what_cannot_be_read_is_named(inputs, arrays, says):
    with pytest.raises(BundleError, match=says):
        inputs.hold(arrays)


def test_cells_mean_what_they_mean_to_the_library(inputs):
    cells = [None, "", " NA ", "nan", "1.5", "true", "FALSE", 3, True, np.nan, "1e3"]
    frame = pd.DataFrame({"age": pd.Series(cells, dtype=object)})
    expected = samples_from_frame(frame, SPEC).inputs["meta"][:, 0]
    np.testing.assert_array_equal([number_of(cell, "age") for cell in cells], expected)
    cities = ["Bonn", "7", 7, 7.0, None, np.nan, "", "Paris", "Ulm"]
    frame = pd.DataFrame({"city": pd.Series(cities, dtype=object)})
    expected = samples_from_frame(frame, SPEC).inputs["meta"][:, 1]
    held = inputs.hold({"meta": {"city": cities}})
    given = [i for i, city in enumerate(cities) if not isinstance(city, float)]
    np.testing.assert_array_equal(held.values["meta"][given, 1], expected[given])
    assert text_of(7.0) == "7" and text_of("  ") is None and text_of(float("nan")) is None


def test_a_frame_of_samples_reads_back(inputs):
    samples = samples_of(SPEC.task, 12, seed=5)
    frame = frame_from_samples(samples, SPEC)
    expected = samples_from_frame(frame, SPEC)
    held = inputs.hold({"meta": {name: frame[name].tolist() for name in ("age", "city", "size", "shop")}})
    np.testing.assert_array_equal(held.values["meta"], expected.inputs["meta"])
