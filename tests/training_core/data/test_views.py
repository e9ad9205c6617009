import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from factories import write_source

from training_core.data.ingestion.ingest import prepare_dataset
from training_core.data.storage.store import DatasetStore
from training_core.data.views import HeldSamples, RowSource, View
from training_core.errors import DataError
from training_core.schema import ColumnSpec, DataSpec, ModalitySpec, Samples, TaskSpec

NUM_ROWS = 30
SPEC = DataSpec(
    modalities=(
        ModalitySpec(name="photo", kind="image", shape=(1, 2, 2)),
        ModalitySpec(name="vec", kind="vector", shape=(5,)),
        ModalitySpec(name="meta", kind="tabular", shape=(3,), columns=tuple(ColumnSpec(name=n) for n in "abc")),
        ModalitySpec(name="review", kind="text", columns=(ColumnSpec(name="body"),)),
    ),
    task=TaskSpec.classification("xy"),
)


def some_samples(num_rows: int = NUM_ROWS) -> Samples:
    draws = np.random.default_rng(0)
    return Samples(
        inputs={
            "photo": draws.random((num_rows, 1, 2, 2)).astype(np.float32),
            "vec": np.add.outer(np.arange(num_rows) * 10.0, np.arange(5)).astype(np.float32),
            "meta": np.add.outer(np.arange(num_rows) * 10.0, np.arange(3)),
            "review": np.asarray([f"text {i}" for i in range(num_rows)], object),
        },
        available={name: draws.random(num_rows) < 0.7 for name in SPEC.names},
        ids=np.asarray([f"s{i}" for i in range(num_rows)], object),
        target=np.arange(num_rows) % 2,
        groups=np.asarray([f"g{i // 3}" for i in range(num_rows)], object),
    )


class DataInMemory:
    """What a view asks of a data set, and a note of which rows and modalities were read."""

    def __init__(self, samples: Samples, spec: DataSpec = SPEC) -> None:
        self.whole, self.spec = samples, spec
        self.read: list[tuple[int, tuple[str, ...]]] = []

    def __len__(self) -> int:
        return len(self.whole)

    def ids(self, rows=None):
        return self.whole.ids if rows is None else self.whole.ids[rows]

    def target(self, rows=None):
        assert self.whole.target is not None
        return self.whole.target if rows is None else self.whole.target[rows]

    def groups(self, rows=None):
        return None if self.whole.groups is None else self.whole.groups[np.arange(len(self)) if rows is None else rows]

    def times(self, rows=None):
        return np.arange(float(len(self)))[slice(None) if rows is None else rows]

    def available(self, rows=None):
        return dict(self.whole.available if rows is None else self.whole.take(rows).available)

    def samples(self, rows=None, modalities=None) -> Samples:
        names = self.spec.names if modalities is None else tuple(modalities)
        self.read.append((len(self) if rows is None else len(rows), names))
        return (self.whole if rows is None else self.whole.take(rows)).select(names)

    def blocks(self, rows, num_rows, modalities=None) -> Iterator[Samples]:
        for start in range(0, len(rows), num_rows):
            yield self.samples(rows[start : start + num_rows], modalities)


def a_view(**cut) -> View:
    return View(DataInMemory(some_samples()), **cut)  # pyright: ignore[reportArgumentType]


def both(**cut) -> list[RowSource]:
    return [a_view().subset(**cut), HeldSamples(some_samples(), SPEC).subset(**cut)]


def same(one: Samples, other: Samples) -> bool:
    pairs = [(one.inputs[name], other.inputs[name]) for name in one.inputs]
    pairs += [(one.available[name], other.available[name]) for name in one.inputs]
    pairs += [(one.ids, other.ids), (one.target, other.target), (one.groups, other.groups)]
    return one.inputs.keys() == other.inputs.keys() and all(np.array_equal(a, b) for a, b in pairs)


def test_a_view_of_everything_serves_everything():
    for source in both():
        assert source.spec == SPEC
        assert len(source) == NUM_ROWS
        assert same(source.samples(), some_samples())


def test_rows_modalities_and_columns_are_cut_at_once():
    rows = np.asarray([7, 2, 2, 29])
    for source in both(rows=rows, modalities=["meta", "vec"], features={"vec": (3, 1)}):
        assert source.spec.names == ("vec", "meta")  # in the data set's order
        assert source.spec["vec"].shape == (2,)
        samples = source.samples()
        assert samples.inputs["vec"].tolist() == [[73, 71], [23, 21], [23, 21], [293, 291]]
        assert samples.inputs["meta"][:, 0].tolist() == [70, 20, 20, 290]
        assert source.ids().tolist() == ["s7", "s2", "s2", "s29"] == samples.ids.tolist()
        assert source.target().tolist() == [1, 0, 0, 1]  # pyright: ignore[reportOptionalMemberAccess]
        assert source.groups().tolist() == ["g2", "g0", "g0", "g9"]  # pyright: ignore[reportOptionalMemberAccess]
        assert list(source.available()) == ["vec", "meta"]


def test_a_part_of_a_part_counts_among_its_own_rows_and_columns():
    for whole in both():
        part = whole.subset(np.arange(10, 20), ["vec", "meta"], {"vec": (1, 2, 4)})
        part = part.subset(np.asarray([9, 0]), ["vec"], {"vec": (2, 0)})
        assert part.samples().inputs["vec"].tolist() == [[194, 191], [104, 101]]
        assert part.samples(np.asarray([1, 1])).inputs["vec"].tolist() == [[104, 101]] * 2
    view = a_view(rows=np.arange(10, 20), features={"vec": (1, 2, 4)})
    part = view.subset(np.asarray([3]), features={"vec": (2,)})
    assert part.features == {"vec": (4,)}
    assert part.rows.tolist() == [13]
    assert part.times() == [13.0]
    assert part.modalities == SPEC.names


def test_columns_of_a_table_may_be_named():
    for named, placed in zip(both(features={"meta": ("c", "a")}), both(features={"meta": (2, 0)}), strict=True):
        assert named.spec == placed.spec
        assert same(named.samples(), placed.samples())


def test_columns_of_a_table_keep_their_names():
    assert [c.name for c in a_view(features={"meta": (2, 0)}).spec["meta"].columns] == ["c", "a"]


@pytest.mark.parametrize("num_rows", [1, 4, 11, 100])
def test_blocks_put_together_are_the_samples(num_rows):
    for source in both(rows=np.arange(25)[::-1], features={"vec": (0, 2)}):
        blocks = list(source.blocks(num_rows))
        assert [len(block) for block in blocks[:-1]] == [num_rows] * (len(blocks) - 1)
        whole = source.samples()
        start = 0
        for block in blocks:
            assert same(block, whole.take(np.arange(start, start + len(block))))
            start += len(block)
        assert start == 25


def test_nothing_is_read_before_samples_are_asked_for_and_then_only_what_is_wanted():
    view = a_view()
    data: DataInMemory = view.dataset  # pyright: ignore[reportAssignmentType]
    part = view.subset(np.arange(20), ["vec", "meta"]).subset(np.arange(5), ["vec"])
    part.ids(), part.target(), part.available(), part.num_bytes, len(part)
    assert data.read == []
    part.samples(np.asarray([1]))
    list(part.blocks(3))
    assert data.read == [(1, ("vec",)), (3, ("vec",)), (2, ("vec",))]


class TenMillionRows:
    """A data set far too large to be read."""

    spec = SPEC

    def __len__(self) -> int:
        return 10_000_000


def test_a_view_of_ten_million_rows_numbers_none_of_them():
    tracemalloc.start()
    try:
        view = View(TenMillionRows())  # pyright: ignore[reportArgumentType]
        part = view.subset(np.arange(0, 10_000_000, 1000), ["photo"])
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 2e6, "the numbers of all rows are 80 MB"
    assert len(view) == 10_000_000
    assert part.rows[-1] == 9_999_000
    assert part.num_bytes < view.num_bytes / 1000


def test_the_size_is_estimated_from_the_spec():
    view, held = both(modalities=["photo", "vec", "meta"])
    assert view.num_bytes == held.num_bytes == NUM_ROWS * (96 + 4 * 4 + 5 * 4 + 3 * 8)
    assert a_view(rows=np.zeros(0, int)).num_bytes == 0


def test_no_rows_and_no_modalities_are_legal():
    for source in both(rows=np.zeros(0, int)):
        assert len(source) == len(source.ids()) == len(source.samples()) == 0
        assert list(source.blocks(4)) == []
        assert source.samples().inputs["photo"].shape == (0, 1, 2, 2)
    for source in both(modalities=[]):
        assert source.spec.names == ()
        assert len(source.samples()) == NUM_ROWS
    assert len(a_view().subset([])) == 0  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        ({"modalities": ["sound"]}, r"no modality 'sound'; this data has photo, vec, meta, review"),
        ({"features": {"sound": (0,)}}, r"no modality 'sound'; this data has photo"),
        ({"features": {"vec": (0, 5)}}, r"'vec' has no column 5; it has 0 to 4"),
        ({"features": {"meta": ("a", "d")}}, r"'meta' has no column d; it has 0 to 2 \(a, b, c\)"),
        ({"features": {"meta": (-1,)}}, r"'meta' has no column -1; it has 0 to 2 \(a, b, c\)"),
        ({"features": {"photo": (0,)}}, r"'photo' is image; only vectors and tables"),
        ({"features": {"vec": ()}}, r"no column of modality 'vec' is chosen"),
        ({"rows": np.asarray([30])}, r"there is no row 30; rows are 0 to 29"),
        ({"rows": np.asarray([-1])}, r"there is no row -1"),
        ({"rows": np.ones(NUM_ROWS, bool)}, r"rows are given by their positions.*np.flatnonzero"),
    ],
)
def test_what_does_not_exist_is_refused_naming_what_does(cut, message):
    with pytest.raises(DataError, match=message):
        a_view(**cut)
    for source in both():
        with pytest.raises(DataError, match=message):
            source.subset(**cut)


def test_a_part_knows_only_its_own_modalities_rows_and_columns():
    for part in both(rows=np.arange(5), modalities=["vec"], features={"vec": (1, 2)}):
        with pytest.raises(DataError, match="no modality 'photo'; this data has vec"):
            part.subset(modalities=["photo"])
        with pytest.raises(DataError, match="'vec' has no column 2; it has 0 to 1"):
            part.subset(features={"vec": (2,)})
        with pytest.raises(DataError, match="there is no row 5; rows are 0 to 4"):
            part.samples(np.asarray([5]))


def test_held_samples_need_every_modality_of_their_spec():
    with pytest.raises(DataError, match="the samples have no modality 'photo'; they have vec"):
        HeldSamples(some_samples().select(["vec"]), SPEC)
    assert HeldSamples(some_samples(), SPEC.select(["vec"])).samples().inputs.keys() == {"vec"}


def test_times_are_cut_with_their_rows():
    rows, times = np.asarray([7, 2, 2, 29]), np.arange(float(NUM_ROWS))
    for source in (a_view(), HeldSamples(some_samples(), SPEC, times)):
        part = source.subset(rows, ["vec"]).subset(features={"vec": (0,)})
        assert part.times().tolist() == [7, 2, 2, 29]  # pyright: ignore[reportOptionalMemberAccess]
    assert HeldSamples(some_samples(), SPEC).subset(rows).times() is None
    with pytest.raises(DataError, match="30 rows need 30 times; got 29"):
        HeldSamples(some_samples(), SPEC, times[1:])


def test_held_samples_are_served_without_a_copy():
    held = HeldSamples(some_samples(), SPEC)
    assert all(np.shares_memory(block.inputs["photo"], held.samples().inputs["photo"]) for block in held.blocks(10))


def test_a_view_of_a_published_data_set_serves_what_the_data_set_does(tmp_path: Path):
    dataset = prepare_dataset(write_source(tmp_path / "source", num_rows=60), DatasetStore(tmp_path / "store"))
    rows = np.asarray([50, 3, 3, 17])
    view = dataset.subset(rows, ["facts", "left"], {"left": (2, 0), "facts": (1,)})
    whole = dataset.samples(rows)
    assert same(view.samples(), whole.select(["left", "facts"], {"left": (2, 0), "facts": (1,)}))
    assert [column.name for column in view.spec["facts"].columns] == ["shop"]
    blocks = list(view.blocks(3))
    assert [len(block) for block in blocks] == [3, 1]
    assert same(blocks[1], view.samples(np.asarray([3])))
    assert len(dataset.subset(rows[:0]).samples()) == 0
    assert list(dataset.subset(rows[:0]).blocks(3)) == []
