"""Feed random batches from every place rows can be, side by side, and print a table of ratios to a plain copy.

`python benchmarks/data.py` takes about a minute; `--larger-than-memory` adds the peak memory of an epoch over a data
set several times the stated budget. Everything is written into a temporary folder that is removed. All rows are in
the page cache. What counts are the ratios within a run: every round times every reader once, one after the other.
Rates, and the first ratio, are of the fastest epochs, because neighbours only ever add time; the others are of rounds.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from training_core.data.preprocessing import Preprocessor
from training_core.data.storage.dataset import Dataset
from training_core.data.storage.parts import Block, Compression
from training_core.data.storage.store import DatasetStore, Described
from training_core.data.streams import Batching, ChunkStream, DeviceStream, encode_to_disk, encode_to_memory
from training_core.data.streams.chunked import RING_BYTES
from training_core.quantities import format_bytes
from training_core.schema import DataSpec, ModalitySpec, TaskSpec

WRITE_ROWS = 8192
Reader = Callable[[], Iterator[int]]
"""Starts an epoch; yields the number of rows of each batch."""


def write(folder: Path, num_rows: int, num_features: int, compression: Compression) -> Dataset:
    """A data set of one vector, half noise, half small counts, so that there is something to compress."""
    import pyarrow as pa

    spec = DataSpec(
        modalities=(ModalitySpec(name="x", kind="vector", shape=(num_features,)),),
        task=TaskSpec.classification(("a", "b")),
    )
    store, draws, noisy = DatasetStore(folder / compression), np.random.default_rng(0), num_features // 2
    with store.new_part("rows", compression) as part:
        for start in range(0, num_rows, WRITE_ROWS):
            rows = np.arange(start, min(num_rows, start + WRITE_ROWS))
            values = np.empty((len(rows), num_features), np.float32)
            values[:, :noisy] = draws.standard_normal((len(rows), noisy), dtype=np.float32)
            values[:, noisy:] = draws.poisson(0.3, (len(rows), num_features - noisy))
            columns = {
                "__id__": pa.array([f"row {row}" for row in rows]),
                "__target__.label": pa.array(np.array(["a", "b"])[rows % 2].tolist()),
                "__available__.x": pa.array(np.ones(len(rows), bool)),
            }
            part.write(Block(pa.table(columns), {"x": values}))
        return store.publish("rows", part, Described(spec, ("label",), np.full(num_rows, "train", object), {}))


def of_stream(stream: DeviceStream | ChunkStream) -> Reader:
    return lambda: (len(batch) for batch in stream)


def readers(folder: Path, num_rows: int, num_features: int, batch: int) -> dict[str, Reader]:
    """Every reader by name; the first is the ceiling."""
    import zarr
    from torch.utils.data import DataLoader, TensorDataset

    plain, packed = (write(folder, num_rows, num_features, compression) for compression in ("none", "lz4"))
    view = plain.subset()
    preprocessor = Preprocessor.fit(view, view.spec)
    batching = Batching(batch, drop_last=True)
    held = encode_to_memory(view, preprocessor)
    (folder / "mapped").mkdir()
    mapped = encode_to_disk(view, preprocessor, folder / "mapped")
    values, out = held.inputs["x"], torch.empty(batch, num_features)
    starts = range(0, num_rows - batch + 1, batch)

    def copy() -> Iterator[int]:
        for start in starts:
            out.copy_(values[start : start + batch])
            yield batch

    def indexed() -> Iterator[int]:
        order = torch.randperm(num_rows)
        for start in starts:
            yield len(values[order[start : start + batch]])

    def loader(num_workers: int) -> Reader:
        def read() -> Iterator[int]:
            rows = TensorDataset(values)
            for (chosen,) in DataLoader(rows, batch, shuffle=True, drop_last=True, num_workers=num_workers):
                yield len(chosen)

        return read

    def exact(dataset: Dataset) -> Reader:
        array = zarr.open_array(dataset.array_stores("x")[0][0], mode="r")

        def read() -> Iterator[int]:
            order = np.random.default_rng(0).permutation(num_rows)
            for start in starts:
                chosen: np.ndarray = np.asarray(array.oindex[np.sort(order[start : start + batch])])
                yield len(torch.from_numpy(chosen))

        return read

    def chunks(dataset: Dataset, block_rows: int | None = None) -> ChunkStream:
        return ChunkStream(dataset.subset(), preprocessor, batching, block_rows=block_rows)

    return {
        "contiguous copy into one buffer (ceiling)": copy,
        "resident, exact shuffle": of_stream(DeviceStream(held, batching)),
        "memory-mapped, exact shuffle": of_stream(DeviceStream(mapped, batching)),
        "chunk-shuffled, plain": of_stream(chunks(plain)),
        "chunk-shuffled, plain, blocks of 64": of_stream(chunks(plain, 64)),
        "chunk-shuffled, lz4": of_stream(chunks(packed)),
        "torch x[rows]": indexed,
        "DataLoader, no worker": loader(0),
        "DataLoader, 1 worker": loader(1),
        "DataLoader, 2 workers": loader(2),
        "Zarr library, exact, plain": exact(plain),
        "Zarr library, exact, lz4": exact(packed),
    }


def seconds_per_row(read: Reader, limit: float) -> float:
    """Of an epoch, or of as much of one as fits into `limit` seconds."""
    start, rows = time.perf_counter(), 0
    batches = read()
    for num_rows in batches:
        rows += num_rows
        if time.perf_counter() - start > limit:
            break
    taken = time.perf_counter() - start
    del batches
    return taken / rows


def compare(arguments: argparse.Namespace) -> Table:
    """Rounds of all readers."""
    with tempfile.TemporaryDirectory(prefix="polychoir-bench-") as name:
        found = readers(Path(name), arguments.rows, arguments.features, arguments.batch)
        if arguments.only:
            ceiling = next(iter(found))
            found = {name: read for name, read in found.items() if name == ceiling or arguments.only in name}
        for read in found.values():  # warm: pages, plans, buffers
            seconds_per_row(read, 0.5)
        times = {reader: [] for reader in found}
        for _ in range(arguments.rounds):
            for reader, read in found.items():
                times[reader].append(seconds_per_row(read, arguments.seconds))
    ceiling = next(iter(times.values()))
    shape = f"{arguments.rows:,} rows of {arguments.features:,} float32"
    title = f"{shape}, batch {arguments.batch}, torch threads: {arguments.threads}"
    table = Table("reader", "rows/s", "GB/s", "fastest of fastest", "median share", "least – most", title=title)
    for reader, taken in times.items():
        shares = [copy / own for copy, own in zip(ceiling, taken, strict=True)]
        rate = 1 / min(taken)
        table.add_row(
            escape(reader),
            f"{rate:,.0f}",
            f"{rate * arguments.features * 4 / 1e9:.2f}",
            f"{min(ceiling) / min(taken):.3f}",
            f"{statistics.median(shares):.3f}",
            f"{min(shares):.3f} – {max(shares):.3f}",
        )
    return table


def epoch_over_a_large_set(arguments: argparse.Namespace) -> str:
    """The peak memory of a process that reads a chunk-shuffled epoch, against the data's size."""
    with tempfile.TemporaryDirectory(prefix="polychoir-bench-") as name:
        write(Path(name), 4 * arguments.rows, arguments.features, "none")
        command = [sys.executable, __file__, "--epoch-over", name, "--batch", str(arguments.batch)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def measure_epoch(folder: Path, batch: int) -> str:
    """Peak memory before and after an epoch, in this process."""

    def peak() -> int:
        # Not `ru_maxrss`, which starts from the parent's.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    view = DatasetStore(folder / "none").open("rows").subset()
    preprocessor = Preprocessor.fit(view.subset(np.arange(1000)), view.spec)
    before = peak()
    stream = ChunkStream(view, preprocessor, Batching(batch))
    rows = sum(len(epoch) for epoch in stream)
    return (
        f"{format_bytes(rows * view.spec['x'].num_features * 4)} read in an epoch of {rows:,} rows; peak memory "
        f"{format_bytes(before)} before, {format_bytes(peak())} after, stated budget {format_bytes(RING_BYTES)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--features", type=int, default=2_000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="longest time of a reader in a round")
    parser.add_argument("--only", default="", help="readers whose name holds this, and the ceiling")
    parser.add_argument("--larger-than-memory", action="store_true")
    parser.add_argument("--epoch-over", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.epoch_over is not None:
        print(measure_epoch(arguments.epoch_over, arguments.batch))
        return
    console = Console(width=120)
    console.print(compare(arguments))
    if arguments.larger_than_memory:
        console.print(epoch_over_a_large_set(arguments))


if __name__ == "__main__":
    main()
