"""Parts are named by their values, whatever the blocks, and written in bounded memory."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from training_core.data.storage.parts import Block, PartWriter, array_layout, part_digest, part_folder
from training_core.errors import DataError, StorageError

ROOT = Path(__file__).parents[4]


def write(folder: Path, table: pa.Table, arrays: dict, *, block_rows: int = 10_000, **options) -> PartWriter:
    folder.mkdir(exist_ok=True, parents=True)
    part = PartWriter(folder, **options)
    for start in range(0, max(1, table.num_rows), block_rows):
        rows = slice(start, start + block_rows)
        part.write(Block(table[rows], {name: values[rows] for name, values in arrays.items()}))
    part.finish()
    return part


def many_types(num_rows: int = 9000) -> pa.Table:
    numbers = np.arange(num_rows)
    floats = numbers / 7
    floats[::5] = np.nan
    return pa.table(
        {
            "__id__": pa.array([f"é{i}" for i in numbers], pa.string()),
            "m.text": pa.array(
                [None if i % 7 == 0 else "" if i % 7 == 1 else f"t{i % 90}" for i in numbers], pa.string()
            ),
            "m.float": pa.array(floats, mask=numbers % 11 == 0),
            "m.int": pa.array(numbers + 2**60, mask=numbers % 3 == 0),
            "m.bool": pa.array(numbers % 2 == 0, mask=numbers % 5 == 0),
            "__time__": pa.array(numbers, pa.timestamp("us", "Europe/Berlin")),
        }
    )


@pytest.mark.parametrize("options", [{"block_rows": 1}, {"block_rows": 977}, {"block_rows": 5000},
                                     {"block_rows": 4096, "compression": "lz4"}])  # fmt: skip
def test_the_digest_depends_on_no_block_size_and_no_compression(tmp_path, options):
    table = many_types(2500 if options["block_rows"] == 1 else 9000)
    arrays = {
        "vec": np.random.default_rng(0).normal(size=(len(table), 700)).astype(np.float32),
        "pix": np.arange(len(table) * 12, dtype=np.uint8).reshape(-1, 3, 2, 2),
    }
    arrays["vec"][::9] = np.nan
    whole = write(tmp_path / "a", table, arrays, block_rows=100_000)
    cut = write(tmp_path / "b", table, arrays, **options)
    assert cut.digest == whole.digest
    for folder in (tmp_path / "a", tmp_path / "b"):
        for name, values in arrays.items():
            stored = zarr.open_array(folder / "arrays.zarr" / name, mode="r")
            assert stored.dtype == values.dtype
            assert np.array_equal(np.asarray(stored[:]), values, equal_nan=name == "vec")
        stored = pq.read_table(folder / "table.parquet")
        assert stored.drop(["m.float"]).equals(table.drop(["m.float"]))
        assert stored.to_pandas().equals(table.to_pandas())


@settings(max_examples=60, deadline=None)
@given(
    cells=st.lists(st.none() | st.floats(width=32) | st.integers(-3, 3).map(float), min_size=1, max_size=30),
    texts=st.lists(st.none() | st.text(max_size=3), min_size=1, max_size=30),
    cut=st.integers(1, 30),
)
def test_any_cells_have_one_digest_however_they_are_cut(tmp_path_factory, cells, texts, cut):
    size = min(len(cells), len(texts))
    table = pa.table({"x": pa.array(cells[:size], pa.float64()), "t": pa.array(texts[:size], pa.string())})
    folder = tmp_path_factory.mktemp("part")
    whole = write(folder / "a", table, {}, block_rows=1000)
    other = pa.table({"t": table["t"].cast(pa.large_string()), "x": table["x"]})
    assert write(folder / "b", other, {}, block_rows=cut).digest == whole.digest
    changed = texts[:size]
    changed[0] = "" if changed[0] is None else None
    other = pa.table({"x": table["x"], "t": pa.array(changed, pa.string())})
    assert write(folder / "c", other, {}).digest != whole.digest


def digest_of(tmp_path_factory, column: pa.Array) -> str:
    return write(tmp_path_factory.mktemp("part"), pa.table({"x": column}), {}).digest


def test_all_nan_are_one_and_zero_has_no_sign_and_null_is_neither(tmp_path_factory):
    odd = np.asarray([0x7FF8000000000001, 0x8000000000000000], np.uint64).view(np.float64)
    digests = [
        digest_of(tmp_path_factory, column)
        for column in (
            pa.array([np.nan, 0.0]),
            pa.array(odd),
            pa.array([None, 0.0]),
            pa.array([0.0, np.nan]),
            pa.array(["", "0"]),
            pa.array([None, "0"]),
            pa.array([0, 0]),
            pa.array([False, False]),
            pa.array([0, 0], pa.int32()),
            pa.array(["a", "b"]),
            pa.array(["ab", ""]),
        )
    ]
    assert digests[0] == digests[1]
    assert len(set(digests[1:])) == len(digests) - 1


def test_cells_hidden_under_a_null_make_no_difference(tmp_path_factory):
    hidden = pa.array([1.0, 2.0], mask=np.asarray([True, False]))
    assert digest_of(tmp_path_factory, hidden) == digest_of(tmp_path_factory, pa.array([None, 2.0]))


@pytest.mark.parametrize("num_rows", [0, 1])
def test_a_part_may_have_one_row_or_none(tmp_path, num_rows):
    part = write(tmp_path, many_types(num_rows), {"vec": np.ones((num_rows, 3), np.float32)})
    assert part.num_rows == num_rows
    assert zarr.open_array(tmp_path / "arrays.zarr" / "vec", mode="r").shape == (num_rows, 3)
    assert pq.read_metadata(tmp_path / "table.parquet").num_rows == num_rows
    assert part_digest(json.loads((tmp_path / "part.json").read_text())) == part.digest


@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (5, 3), (17, 3, 224, 224), (10**6, 16), (100, 3, 2048, 2048),
                                   (10**6, 300), (10**9, 1)])  # fmt: skip
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_chunks_and_shards_are_of_a_size_that_reads_fast(shape, dtype):
    chunk, shard = array_layout(shape, np.dtype(dtype))
    row = int(np.prod(shape[1:])) * np.dtype(dtype).itemsize
    assert 1 <= chunk <= 1024
    assert chunk & (chunk - 1) == 0
    assert shard % chunk == 0
    assert shard <= 16 * chunk
    assert chunk * row <= 2 << 20 or chunk == 1
    assert shard * row <= 32 << 20 or shard == 1
    assert shard < 2 * max(1, shape[0])


def test_every_shard_is_one_file_with_its_checksum(tmp_path):
    values = np.random.default_rng(0).normal(size=(9000, 1000)).astype(np.float32)
    part = write(tmp_path, pa.table({"x": np.arange(9000)}), {"vec": values}, block_rows=700)
    shard = array_layout(values.shape, values.dtype)[1]
    files = sorted(path.relative_to(tmp_path).as_posix() for path in (tmp_path / "arrays.zarr/vec/c").rglob("*/0"))
    assert len(files) == -(-9000 // shard) > 1
    assert sorted(part.checksums) == files


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (Block(pa.table({"x": [1, 2]}), {"vec": np.ones((1, 3), np.float32)}), "has 1 rows, its table 2"),
        (Block(pa.table({"y": [1]}), {"vec": np.ones((1, 3), np.float32)}), "other columns than those before: x, y"),
        (Block(pa.table({"x": ["a"]}), {"vec": np.ones((1, 3), np.float32)}), "other types than before"),
        (Block(pa.table({"x": [1]}), {"vec": np.ones((1, 4), np.float32)}), r"float32 \[4\], those before"),
        (Block(pa.table({"x": [1]}), {"vec": np.ones((1, 3))}), r"float64 \[3\], those before"),
        (Block(pa.table({"x": [1]}), {}), r"has the arrays \[\]"),
    ],
)
def test_a_block_that_differs_from_those_before_is_refused(tmp_path, block, message):
    part = PartWriter(tmp_path)
    part.write(Block(pa.table({"x": [1]}), {"vec": np.ones((1, 3), np.float32)}))
    with pytest.raises(DataError, match=message):
        part.write(block)


@pytest.mark.parametrize(
    ("table", "arrays", "message"),
    [
        ({"x": pa.array([[1]])}, {}, "column 'x' is of type list"),
        ({"x": [1]}, {"../up": np.ones((1, 3))}, "'../up' cannot name an array"),
        ({"x": [1]}, {"vec": np.asarray([["a"]])}, "only numbers can be stored"),
        ({"x": [1]}, {"vec": np.ones(1)}, "has the shape"),
    ],
)
def test_what_cannot_be_stored_is_refused(tmp_path, table, arrays, message):
    with pytest.raises(DataError, match=message):
        PartWriter(tmp_path).write(Block(pa.table(table), arrays))


def test_a_finished_part_takes_no_more_and_one_without_a_block_cannot_be_finished(tmp_path):
    part = write(tmp_path / "a", pa.table({"x": [1]}), {})
    part.finish()
    with pytest.raises(DataError, match="finished already"):
        part.write(Block(pa.table({"x": [1]})))
    with pytest.raises(DataError, match="without a block"):
        PartWriter(tmp_path / "b").finish()


@pytest.mark.parametrize("digest", ["../" * 20 + "etc", "a" * 63, "A" * 64, "", "/" * 64])
def test_what_is_no_digest_leads_nowhere(tmp_path, digest):
    with pytest.raises(StorageError, match="is not the digest of a part"):
        part_folder(tmp_path / "parts", digest)


def test_a_part_much_larger_than_memory_use_is_written(tmp_path):
    code = """
        import resource, sys
        from pathlib import Path
        import numpy as np, pyarrow as pa
        import pyarrow.parquet, zarr
        from training_core.data.storage.parts import Block, PartWriter
        def blocks(num_blocks):
            for i in range(num_blocks):
                table = pa.table({"__id__": [f"{i} {j} " + "x" * 200 for j in range(2000)], "m.x": np.arange(2000.0)})
                yield Block(table, {"pix": np.full((2000, 3, 32, 32), i % 250, np.uint8)})
        def write(folder, num_blocks):
            Path(folder).mkdir()
            part = PartWriter(Path(folder))
            for block in blocks(num_blocks):
                part.write(block)
            part.finish()
        write(sys.argv[1] + "/warm", 24)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        write(sys.argv[1] + "/large", 72)
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT)})
    assert int(ended.stdout) < 60, "MB more for a part of 430 MB than for one of 150 MB"
