"""However large a file is, reading it keeps memory flat."""

import subprocess
import sys
from pathlib import Path

import pytest

WRITE = """
import sys
import numpy as np, pyarrow as pa, pyarrow.csv, pyarrow.parquet as pq
kind, path = sys.argv[1:]
draws = np.random.default_rng(0)
if kind == "npy":
    values = np.lib.format.open_memmap(path, "w+", "float32", (150_000, 1000))
    for start in range(0, 150_000, 10_000):
        values[start:start + 10_000] = draws.random((10_000, 1000), np.float32)
else:
    batch = pa.record_batch({f"c{i}": draws.random(100_000) for i in range(10)})
    if kind == "csv":
        with pa.csv.CSVWriter(path, batch.schema) as writer:
            for _ in range(32):
                writer.write_batch(batch)
    else:  # a single row group
        pq.write_table(pa.Table.from_batches([batch] * 75), path, row_group_size=10**8, use_dictionary=False)
"""

READ = """
import sys, resource, gc
from pathlib import Path
import numpy as np, pandas, pyarrow, pyarrow.csv, pyarrow.parquet, pyarrow.compute
from training_core.data.sources import open_array, open_table
def now():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))
path, staging = Path(sys.argv[1]), Path(sys.argv[2])
before = now()
draws = np.random.default_rng(0)
if path.suffix == ".npy":
    source = open_array(path, None, staging)
    take = lambda rows: source.take(rows).sum()
    num_rows = source.shape[0]
else:
    source = open_table(path, staging)
    take = lambda rows: source.take(source.columns, rows).nbytes
    num_rows = source.num_rows
for start in range(0, num_rows, 5000):
    take(slice(start, start + 5000))
for _ in range(20):
    take(draws.integers(-1, num_rows, 5000))
print(num_rows, now() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "parquet", "npy"])
def test_a_large_file_is_read_in_little_memory(kind, tmp_path: Path) -> None:
    path = tmp_path / f"large.{kind}"
    subprocess.run([sys.executable, "-c", WRITE, kind, str(path)], check=True)
    assert path.stat().st_size > 550e6
    command = [sys.executable, "-c", READ, str(path), str(tmp_path / "staging")]
    result = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[4])
    grown = int(result.stdout.split()[1])
    assert grown < 300, f"{grown} MB"
