import numpy as np
import pytest

from training_core.data.recoding import recoded
from training_core.data.views import HeldSamples
from training_core.errors import DataError
from training_core.schema import ColumnSpec, DataSpec, ModalitySpec, Samples, TaskSpec


def spec(categories: tuple[str, ...], classes: tuple[str, ...] = ("no", "yes"), shape: int = 2) -> DataSpec:
    table = ModalitySpec(
        name="facts",
        kind="tabular",
        shape=(2,),
        columns=(ColumnSpec(name="size"), ColumnSpec(name="shop", categories=categories)),
    )
    vector = ModalitySpec(name="vec", kind="vector", shape=(shape,))
    return DataSpec(modalities=(table, vector), task=TaskSpec.classification(classes))


def rows(described: DataSpec) -> HeldSamples:
    table = np.array([[1.0, 0], [2.0, 1], [3.0, 2], [np.nan, np.nan]])
    samples = Samples(
        inputs={"facts": table, "vec": np.zeros((4, described["vec"].num_features), np.float32)},
        available={"facts": np.ones(4, bool), "vec": np.ones(4, bool)},
        ids=np.array(["a", "b", "c", "d"], object),
        target=np.array([0, 1, 2, -1]) if len(described.task.classes) > 2 else np.array([0, 1, 1, -1]),
    )
    return HeldSamples(samples, described, times=np.arange(4.0))


def test_rows_of_the_same_description_are_given_as_they_are():
    mine = rows(spec(("north", "south", "west")))
    assert recoded(mine, spec(("north", "south", "west"))) is mine


def test_codes_become_those_the_model_knows():
    mine = rows(spec(("north", "south", "west"), ("maybe", "no", "yes")))
    found = recoded(mine, spec(("west", "north")))
    table = found.samples().inputs["facts"]
    assert table[:, 1].tolist()[:1] == [1.0]
    assert np.isnan(table[1, 1]), "south is not known: an absent cell"
    assert table[2, 1] == 0.0
    assert np.isnan(table[3, 1])
    assert table[:3, 0].tolist() == [1.0, 2.0, 3.0]
    assert found.target().tolist() == [2, 0, 1, -1]  # pyright: ignore[reportOptionalMemberAccess]
    assert mine.samples().inputs["facts"][2, 1] == 2.0, "the rows themselves are left alone"


def test_parts_and_blocks_are_recoded_too():
    found = recoded(rows(spec(("north", "south", "west"))), spec(("west", "north")))
    part = found.subset(np.array([2, 0]))
    assert part.samples().inputs["facts"][:, 1].tolist() == [0.0, 1.0]
    assert [block.inputs["facts"][0, 1] for block in part.blocks(1)] == [0.0, 1.0]
    assert part.ids().tolist() == ["c", "a"]
    assert part.times().tolist() == [2.0, 0.0]  # pyright: ignore[reportOptionalMemberAccess]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (spec(("north",), shape=3), r"'vec' is vector \[2\] in the rows and vector \[3\] for the model"),
        (
            DataSpec(
                modalities=(ModalitySpec(name="photo", kind="vector", shape=(2,)),),
                task=TaskSpec.classification(("no", "yes")),
            ),
            "'photo' is absent in the rows",
        ),
        (
            spec(("north",)).model_copy(update={"task": TaskSpec(kind="regression", targets=("y",))}),
            "another task",
        ),
    ],
)
def test_rows_of_another_form_are_refused(model: DataSpec, said: str):
    with pytest.raises(DataError, match=said):
        recoded(rows(spec(("north", "south", "west"))), model)
