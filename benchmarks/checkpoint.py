"""What a durable, checksummed checkpoint costs beside a plain `torch.save`, and what training waits for.

`python benchmarks/checkpoint.py` takes about a minute and writes into a temporary folder of `--folder` that is removed.
A plain `torch.save` neither waits for the disk nor can tell whether what it wrote reads back. Ours writes, hashes,
waits for the disk, and renames. All write to a new name and keep the last two, as trainings do; to write over an older
file would be cheaper for any. Every round times every way once, in an order of its own, since who comes first pays for
memory that the kernel has to find; ratios are to the plain one of the same round. The fastest of all rounds stand
beside them, because neighbours on the machine only ever add time; so does process CPU time, which counts the hashing
that goes on beside.
"""

import argparse
import itertools
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from training_core.engine.checkpoints.manager import CheckpointManager
from training_core.engine.checkpoints.state import PlainState
from training_core.quantities import format_bytes

NUM_TENSORS = 36
PLAIN_SAVE, PLAIN_LOAD = "torch.save", "torch.load"


class Cost(NamedTuple):
    """Of one save or load."""

    seconds: float
    cpu_seconds: float


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--megabytes", type=float, default=150.0)
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--folder", type=Path, default=None, help="on the disk to measure; a temporary one by default")
    given = options.parse_args()
    torch.set_num_threads(1)
    state = make_state(int(given.megabytes * 1e6))
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        ways = make_ways(state, Path(folder))
        found: dict[str, list[Cost]] = {name: [] for name in ways}
        for turn in range(given.rounds + 1):
            for name in random.Random(turn).sample(list(ways), len(ways)) if turn else ways:
                cost = measure(ways[name])
                if turn:  # the first round makes the directories and touches the memory
                    found[name].append(cost)
    Console(width=120).print(tabulate(found, given.megabytes))


def make_state(num_bytes: int) -> dict[str, Any]:
    """Weights and both moments of Adam, in tensors of one size, beside the plain values of a snapshot."""
    size = num_bytes // 4 // NUM_TENSORS
    tensors = [torch.randn(size) for _ in range(NUM_TENSORS)]
    third = NUM_TENSORS // 3
    return {
        "model": {f"layer{i}.weight": tensor for i, tensor in enumerate(tensors[:third])},
        "update": {"optimizer": {"exp_avg": tensors[third : 2 * third], "exp_avg_sq": tensors[2 * third :]}},
        "state": {"epoch": 3, "step": 1200, "history": [{"training/loss": 0.5}] * 3},
    }


def make_ways(state: dict[str, Any], folder: Path) -> dict[str, Callable[[], object]]:
    """Ways to save and to load the state."""
    manager = CheckpointManager(folder / "ours", keep_best_k=0, keep_last_n=2)
    copies = PlainState(own=True)
    numbers = itertools.count()

    def save_plainly(durable: bool) -> None:
        kind, number = "durable" if durable else "plain", next(numbers)
        with (folder / f"{number:04d}.{kind}").open("wb") as file:
            torch.save(state, file)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        for old in sorted(folder.glob(f"*.{kind}"))[:-2]:
            old.unlink()

    return {
        PLAIN_SAVE: lambda: save_plainly(durable=False),
        "torch.save + fsync": lambda: save_plainly(durable=True),
        "ours": lambda: manager.save_checkpoint(state, 1, {}),
        "ours, asynchronous: what training waits for": lambda: copies.of(state),
        PLAIN_LOAD: lambda: torch.load(max(folder.glob("*.plain")), weights_only=True),
        "ours, verified": manager.load_checkpoint,
    }


def measure(way: Callable[[], object]) -> Cost:
    seconds, cpu_seconds = time.perf_counter(), time.process_time()
    way()
    return Cost(time.perf_counter() - seconds, time.process_time() - cpu_seconds)


def tabulate(found: dict[str, list[Cost]], megabytes: float) -> Table:
    """One row per way; ratios to the plain way above it."""
    table = Table(title=f"{format_bytes(megabytes * 1e6)}, {len(found[PLAIN_SAVE])} rounds")
    for name in ("", "fastest ms", "MB/s", "ratio (rounds)", "ratio (fastest)", "ratio (CPU)"):
        table.add_column(name, justify="right" if name else "left")
    base = PLAIN_SAVE
    for name, costs in found.items():
        base = name if name in (PLAIN_SAVE, PLAIN_LOAD) else base
        plain = found[base]
        fastest = min(cost.seconds for cost in costs)
        rounds = statistics.median(cost.seconds / other.seconds for cost, other in zip(costs, plain, strict=True))
        cpu = statistics.median(cost.cpu_seconds / other.cpu_seconds for cost, other in zip(costs, plain, strict=True))
        table.add_row(
            name,
            f"{fastest * 1000:.0f}",
            f"{megabytes / fastest:.0f}",
            f"{rounds:.2f}",
            f"{fastest / min(cost.seconds for cost in plain):.2f}",
            f"{cpu:.2f}",
        )
    return table


if __name__ == "__main__":
    main()
