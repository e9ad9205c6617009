"""How much memory it takes to ingest a data set larger than that memory, and to run an epoch over it.

Writes a source of `--gigabytes` to a temporary folder, publishes it and reads one shuffled epoch of it, each in a
process of its own, and prints the peak resident memory of both (VmHWM: file pages that are mapped count in).
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

FEATURES = 2000
BATCH = 256


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--gigabytes", type=float, default=4.0)
    options.add_argument("--compression", choices=("none", "lz4"), default="none")
    options.add_argument("--folder", type=Path, default=None, help="where to work; a temporary folder by default")
    options.add_argument("--step", choices=("ingest", "epoch"), default=None, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.step:
        print(json.dumps({"ingest": ingest, "epoch": epoch}[given.step](given.folder)))
        return
    folder = Path(tempfile.mkdtemp(dir=given.folder))
    try:
        num_rows = write_source(folder, given.gigabytes, given.compression)
        print(f"{num_rows:,} rows x {FEATURES:,} float32, {num_rows * FEATURES * 4 / 1e9:.1f} GB, {given.compression}")
        for step in ("ingest", "epoch"):
            command = [sys.executable, __file__, "--step", step, "--folder", str(folder)]
            found = json.loads(
                subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
            )
            print(f"{step:7} peak {found['peak_mb']:6.0f} MB   {found['seconds']:6.1f} s   {found['what']}")
    finally:
        shutil.rmtree(folder)


def write_source(folder: Path, gigabytes: float, compression: str) -> int:
    """A classification source whose vectors are half noise, half counts; returns the number of rows."""
    num_rows = int(gigabytes * 1e9 / FEATURES / 4)
    rows_npy = np.lib.format.open_memmap(folder / "rows.npy", "w+", np.float32, (num_rows, FEATURES))
    for start in range(0, num_rows, 10_000):
        draws = np.random.default_rng(start)
        block = rows_npy[start : start + 10_000]
        block[:, : FEATURES // 2] = draws.standard_normal((len(block), FEATURES // 2), np.float32)
        block[:, FEATURES // 2 :] = draws.poisson(0.3, (len(block), FEATURES - FEATURES // 2))
    rows_npy.flush()
    labels = "\n".join(f"r{i},{'ab'[i * 7919 % 13 > 6]}" for i in range(num_rows))
    (folder / "labels.csv").write_text(f"id,label\n{labels}\n")
    (folder / "source.yaml").write_text(
        f"name: large\ncompression: {compression}\n"
        "task: {kind: classification, target: {file: labels.csv, column: label}}\n"
        "id: {file: labels.csv, column: id}\n"
        "modalities:\n  rows: {kind: vector, file: rows.npy}\n"
    )
    return num_rows


def ingest(folder: Path) -> dict[str, object]:
    """Publish the source."""
    from training_core.data.ingestion.ingest import prepare_dataset
    from training_core.data.storage.store import DatasetStore

    start = time.perf_counter()
    dataset = prepare_dataset(folder / "source.yaml", DatasetStore(folder / "store"))
    return {"peak_mb": peak_mb(), "seconds": time.perf_counter() - start, "what": dataset.ref}


def epoch(folder: Path) -> dict[str, object]:
    """One shuffled epoch over the training rows, encoded, as training reads them."""
    from training_core.data.preprocessing import Preprocessor
    from training_core.data.storage.store import DatasetStore
    from training_core.data.streams import Batching, open_stream

    dataset = DatasetStore(folder / "store").open("large")
    view = dataset.subset(rows=dataset.rows("train"))
    preprocessor = Preprocessor.fit(view, view.spec)
    start = time.perf_counter()
    stream = open_stream(view, preprocessor, Batching(BATCH), memory_bytes=256 << 20)
    num_rows = sum(len(batch) for batch in stream)
    return {
        "peak_mb": peak_mb(),
        "seconds": time.perf_counter() - start,
        "what": f"{num_rows:,} rows; {stream.describe()}",
    }


def peak_mb() -> float:
    """Peak resident memory of this process; not `ru_maxrss`, which starts from that of the parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1000


if __name__ == "__main__":
    main()
