from collections.abc import Mapping

import numpy as np
import pytest
from quality_world import World, a_clean_world, codes, found

from training_core.schema import TaskSpec

COPIES = {"repeated_rows", "copied_across_splits", "conflicting_targets", "shared_content"}


def copying(world: World, onto: np.ndarray, rows: np.ndarray, with_target: bool = True) -> World:
    """The same with the inputs of `rows` written over those of the rows `onto`."""
    source = np.arange(len(world))
    source[onto] = rows

    def of(tables: Mapping[str, Mapping[str, object]]) -> dict[str, dict[str, list]]:
        return {t: {c: [v[i] for i in source] for c, v in of.items()} for t, of in tables.items()}  # type: ignore[index]

    return world.having(
        tables=of(world.tables),
        texts=of(world.texts),
        arrays={name: values[source] for name, values in world.arrays.items()},
        target=world.target[source] if with_target else world.target,
    )


TRAIN = np.arange(0, 400, 4)
TEST = np.arange(3, 400, 4)


@pytest.mark.parametrize("kind", ["classification", "multilabel", "regression"])
def test_clean_rows_are_no_copies(kind):
    assert not COPIES & codes(a_clean_world(kind).report())


def test_copies_within_training_are_a_warning():
    (finding,) = found(copying(a_clean_world(), TRAIN[50:70], TRAIN[:20]).report(), "repeated_rows")
    assert finding.severity == "warning"
    assert "20 training rows" in finding.message
    assert len(finding.rows) == 10


def test_many_test_rows_copied_from_training_are_an_error():
    report = copying(a_clean_world(), TEST[:30], TRAIN[:30]).report()
    (finding,) = found(report, "copied_across_splits")
    assert (finding.severity, finding.subject, finding.value) == ("error", "test", 30 / 150)
    assert finding.rows[0] == "id-3"
    assert not found(report, "shared_content")


def test_a_few_test_rows_copied_from_training_are_a_warning():
    (finding,) = found(copying(a_clean_world(), TEST[:3], TRAIN[:3]).report(), "copied_across_splits")
    assert finding.severity == "warning"


def test_copies_with_another_target_are_noise():
    world = copying(a_clean_world("regression"), TRAIN[100 - 20 : 100], TRAIN[:20], with_target=False)
    (finding,) = found(world.report(), "conflicting_targets")
    assert "40 rows" in finding.message


def test_one_picture_in_both_splits_is_named():
    world = a_clean_world()
    photo = world.arrays["photo"].copy()
    photo[TEST] = photo[TRAIN]
    report = world.having(arrays={**world.arrays, "photo": photo}).report()
    (finding,) = found(report, "shared_content")
    assert finding.subject == "photo"
    assert "group" in finding.advice
    assert not found(report, "copied_across_splits")


def test_equal_rows_of_a_few_small_cells_are_chance():
    draws = np.random.default_rng(0)
    world = World(
        TaskSpec.classification(("a", "b")),
        draws.integers(0, 2, 2000),
        tables={
            "t": {"size": draws.integers(0, 5, 2000), "colour": np.asarray(list("rgb"))[draws.integers(0, 3, 2000)]}
        },
    )
    assert not COPIES & codes(world.report())


def test_equal_rows_of_many_continuous_cells_are_copies():
    draws = np.random.default_rng(0)
    cells = draws.normal(size=(2000, 6))
    cells[3::4] = cells[::4]
    world = World(
        TaskSpec.regression(), draws.normal(size=(2000, 1)), tables={"t": {f"c{i}": cells[:, i] for i in range(6)}}
    )
    assert found(world.report(), "copied_across_splits")[0].severity == "error"


def test_blank_pictures_and_short_texts_are_no_copies():
    target = np.arange(400) % 2
    world = World(
        TaskSpec.classification(("a", "b")),
        target,
        texts={"title": {"t": ["very nice"] * 400}},
        arrays={"photo": np.zeros((400, 1, 8, 8), np.uint8)},
    )
    assert not COPIES & codes(world.report())


def test_rows_that_are_set_aside_are_not_compared():
    world = copying(a_clean_world(), TEST[:30], TRAIN[:30])
    split = np.where(np.arange(len(world)) % 4 == 3, "test", "train").astype(object)
    split[TEST[:30]] = "quarantined"
    assert not COPIES & codes(world.report(split=split))
