import numpy as np
import pytest
from quality_world import World, a_clean_world, codes, found

from training_core.data.quality import ProfileSummary


def base() -> ProfileSummary:
    return a_clean_world(num_rows=2000, seed=1).profile().summary()


@pytest.mark.parametrize("num_rows", [20, 600])
@pytest.mark.parametrize("seed", range(5))
def test_more_rows_like_the_base_raise_no_alarm(num_rows, seed):
    split = np.full(num_rows, "train", object)
    assert a_clean_world("regression", num_rows, 10 + seed).report(base=base(), split=split).findings == ()


def test_the_base_may_come_from_its_file():
    again = ProfileSummary.model_validate_json(base().to_json())
    assert a_clean_world(num_rows=300).report(base=again).findings == ()


def changed(column: str, cells: object) -> World:
    return a_clean_world().with_column(column, cells)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("column", "cells", "code", "severity"),
    [
        ("shop", ["north", "west", "south"] * 200, "unknown_categories", "warning"),
        ("age", np.random.default_rng(0).integers(18, 80, 600) * 12, "outside_range", "warning"),
        ("age", np.random.default_rng(0).uniform(18, 80, 600), "type_changed", "warning"),
        ("age", ["young", "old", "older"] * 200, "type_changed", "error"),
        ("shop", np.random.default_rng(0).integers(0, 3, 600), "type_changed", "error"),
        ("size", [None if i % 3 else i % 7 / 3 for i in range(600)], "missing_changed", "warning"),
        ("colour", ["red", "blue", "green"] * 200, "columns_changed", "error"),
    ],
)
def test_a_changed_column_is_named(column, cells, code, severity):
    report = changed(column, cells).report(base=base())
    (finding,) = found(report, code)
    assert (finding.subject, finding.severity) == (f"facts.{column}", severity)


def test_unknown_categories_are_spelt_out():
    (finding,) = found(changed("shop", ["north", "west", "south"] * 200).report(base=base()), "unknown_categories")
    assert "'west'" in finding.message
    assert "'north'" not in finding.message


def test_categories_of_earlier_versions_are_known():
    spec = a_clean_world().spec
    facts = next(m for m in spec.modalities if m.name == "facts")
    columns = tuple(c.model_copy(update={"categories": ("west",)}) if c.name == "shop" else c for c in facts.columns)
    changed_spec = [m.model_copy(update={"columns": columns}) if m is facts else m for m in spec.modalities]
    base_spec = spec.model_copy(update={"modalities": tuple(changed_spec)})
    world = changed("shop", ["north", "west", "south"] * 200)
    assert world.report(base=base(), base_spec=base_spec).findings == ()


def test_five_added_rows_need_not_have_every_class_nor_vary():
    world = a_clean_world(num_rows=5).having(target=np.zeros(5, int))
    world = world.with_column("shop", ["north"] * 5).with_column("age", [30] * 5)
    assert world.report(base=base()).findings == ()
    assert world.report(base_spec=world.spec).findings == ()


def test_whole_numbers_among_fractions_are_no_change_of_type():
    assert a_clean_world().with_column("size", np.arange(600) % 4 - 1).report(base=base()).findings == ()


def test_a_column_that_is_gone_is_named():
    world = a_clean_world()
    facts = {name: cells for name, cells in world.tables["facts"].items() if name != "age"}
    report = world.having(tables={"facts": facts}).report(base=base())
    assert [f.subject for f in found(report, "columns_changed")] == ["facts.age"]


def test_another_set_of_modalities_is_an_error():
    report = a_clean_world().having(texts={}).report(base=base())
    (finding,) = found(report, "modality_changed")
    assert (finding.subject, finding.severity) == ("review", "error")


def test_another_shape_of_an_array_is_an_error():
    world = a_clean_world()
    photo = np.random.default_rng(0).integers(0, 256, (600, 3, 6, 6)).astype(np.uint8)
    assert found(world.having(arrays={**world.arrays, "photo": photo}).report(base=base()), "type_changed")


def test_another_scale_of_an_array_is_named():
    world = a_clean_world()
    photo = world.arrays["photo"].astype(np.float32) * 255
    report = world.having(arrays={**world.arrays, "photo": photo}).report(base=base())
    assert {"type_changed", "outside_range"} <= codes(report)
    assert not report.errors
