"""Run by `test_chaos`: writers that are killed at random moments while readers check every row they read.

    python chaos.py <store> <kills> <seed>

Each row's values follow from its id, so a torn or mixed-up read shows. Prints what happened as JSON.
"""

import json
import multiprocessing
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import zarr

from training_core.data.storage.dataset import Dataset
from training_core.data.storage.parts import Block
from training_core.data.storage.store import DatasetStore, Described, StaleBaseError
from training_core.errors import DataError, StorageError
from training_core.schema import ColumnSpec, DataSpec, ModalitySpec, TaskSpec

NUM_WRITERS = 2
NUM_READERS = 3
WIDTH = 64
SPEC = DataSpec(
    modalities=(
        ModalitySpec(name="vec", kind="vector", shape=(WIDTH,)),
        ModalitySpec(name="meta", kind="tabular", shape=(1,), columns=(ColumnSpec(name="age"),)),
    ),
    task=TaskSpec.classification(("even", "odd")),
)
assert pyarrow.parquet and zarr  # imported before the processes are forked


def vectors(numbers: np.ndarray) -> np.ndarray:
    return (numbers[:, None] * 0.5 + np.arange(WIDTH)).astype(np.float32)


def write_part(store: DatasetStore, numbers: np.ndarray, base: Dataset | None) -> None:
    table = pa.table(
        {
            "__id__": [f"row {n}" for n in numbers],
            "__target__.parity": [("even", "odd")[n % 2] for n in numbers],
            "__available__.vec": np.ones(len(numbers), bool),
            "__available__.meta": np.ones(len(numbers), bool),
            "meta.age": numbers * 2.0,
        }
    )
    with store.new_part("shoes") as part:
        for start in range(0, len(numbers), 500):
            rows = slice(start, start + 500)
            part.write(Block(table[rows], {"vec": vectors(numbers[rows])}))
        split = np.full(len(numbers), "train", object)
        if base is not None:
            split = np.concatenate([base.split(), split])
        store.publish("shoes", part, Described(SPEC, ("parity",), split, {"action": "append"}), base=base)


def write_for_ever(root: Path, seed: int) -> None:
    draws = random.Random(seed)
    store = DatasetStore(root)
    while True:
        first = draws.randrange(10**9)
        numbers = np.arange(first, first + draws.choice([1, 300, 2000]))
        action = draws.choice(["publish", "append", "append", "append", "gc", "gc"])
        if action == "gc":
            store.gc("shoes", keep=draws.choice([1, 1, 3]))
            continue
        base = None if action == "publish" else store.open("shoes")
        if base is not None and base.num_rows > 20_000:
            base = None
        try:
            write_part(store, numbers, base)
        except StaleBaseError:
            continue


def check(dataset: Dataset, draws: random.Random) -> None:
    """Read some rows in every way and compare them with what their ids say."""
    chosen = sorted(draws.randrange(dataset.num_rows) for _ in range(50))
    for rows in (np.asarray(chosen, np.int64), np.arange(dataset.num_rows)):
        samples = dataset.samples(rows)
        numbers = np.asarray([int(name.split()[1]) for name in samples.ids])
        assert samples.target is not None
        assert (samples.inputs["vec"] == vectors(numbers)).all(), "vec"
        assert (samples.inputs["meta"][:, 0] == numbers * 2.0).all(), "meta"
        assert (samples.target == numbers % 2).all(), "target"
        assert samples.available["vec"].all(), "available"
        assert len(rows) < dataset.num_rows or len(set(numbers)) == dataset.num_rows, "ids"


def read_for_ever(root: Path, seed: int, results: Path) -> None:
    draws = random.Random(seed)
    store = DatasetStore(root)
    found: dict[str, Any] = {"reads": 0, "gone": 0, "torn": [], "errors": []}
    while not (root / "stop").exists():
        try:
            ref = "shoes"
            if draws.random() < 0.5:
                ref = f"shoes@{draws.choice(store.versions('shoes'))}"
            dataset = store.open(ref)
            time.sleep(draws.choice([0, 0, 0.1, 0.4]))  # time for others to collect what is being read
            check(dataset, draws)
            found["reads"] += 1
        except AssertionError as error:
            found["torn"].append(repr(error))
        except (DataError, StorageError) as error:
            if isinstance(error, DataError) and "fits none" in str(error):  # collected between listing and opening
                found["gone"] += 1
            else:
                found["errors"].append(traceback.format_exc())
        except Exception:
            found["errors"].append(traceback.format_exc())
    results.write_text(json.dumps(found))


def unfinished_of(root: Path, pid: int | None) -> list[Path]:
    """What a writer is at."""
    pattern = f".unfinished-*-{pid}.*"
    return [*(root / "shoes").glob(pattern), *(root / "shoes" / "parts").glob(pattern)]


def main(root: Path, num_kills: int, seed: int) -> None:
    draws = random.Random(seed)
    context = multiprocessing.get_context("fork")
    first = context.Process(target=write_part, args=(DatasetStore(root), np.arange(100), None))
    first.start()
    first.join()
    results = [root / f"reader-{i}.json" for i in range(NUM_READERS)]
    readers = [context.Process(target=read_for_ever, args=(root, seed + i, r)) for i, r in enumerate(results)]
    for reader in readers:
        reader.start()
    writers = [context.Process(target=write_for_ever, args=(root, draws.random())) for _ in range(NUM_WRITERS)]
    for writer in writers:
        writer.start()
    failed: list[int | None] = []
    mid_way = 0
    for _ in range(num_kills):
        time.sleep(draws.uniform(0.02, 0.2))
        number = draws.randrange(NUM_WRITERS)
        writer = writers[number]
        if draws.random() < 0.8:  # while it writes, not while it waits for the other one
            give_up = time.monotonic() + 5
            while time.monotonic() < give_up and not unfinished_of(root, writer.pid):
                time.sleep(0.0005)
            time.sleep(draws.uniform(0, 0.03))
        if not writer.is_alive():
            failed.append(writer.exitcode)
        elif writer.pid is not None:
            os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        mid_way += bool(unfinished_of(root, writer.pid))
        writers[number] = context.Process(target=write_for_ever, args=(root, draws.random()))
        writers[number].start()
    for writer in writers:
        writer.kill()
        writer.join()
    (root / "stop").touch()
    for reader in readers:
        reader.join()
    found = [json.loads(path.read_text()) for path in results]
    print(
        json.dumps(
            {
                "reads": sum(f["reads"] for f in found),
                "gone": sum(f["gone"] for f in found),
                "torn": [text for f in found for text in f["torn"]],
                "errors": [text for f in found for text in f["errors"]],
                "failed_writers": failed,
                "killed_mid_way": mid_way,
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
