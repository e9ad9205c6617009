"""Whether a budget of seconds is kept: whole commands, in new stores, from the start of the process to its end.

`python benchmarks/budgets.py` (the bundled cases, budgets of 30 to 120 s: a quarter of an hour); `--source` adds a
SOURCE.yaml, `--budgets` names others. Every run begins with nothing: it starts Prefect and MLflow, prepares the data,
trains what fits, combines, judges, registers and reports. `over` is how much longer than its budget it took, `usable`
when the first ensemble could answer, as a share of the budget (none: the only one was that of the end).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from quality_cases import bundled_cases
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
CASES = ("digits", "halves", "mixed")
BUDGETS = (30.0, 45.0, 60.0, 90.0, 120.0)


def timed(source: Path, seconds: float, seed: int) -> tuple[float, dict[str, Any]]:
    """Seconds that a command with a budget took, and the summary it printed."""
    with tempfile.TemporaryDirectory() as store:
        command = [sys.executable, "-m", "flows.cli", "train", str(source), "--budget", f"{seconds:g}"]
        command += ["--seed", str(seed), "--store", store, "--json"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        began = time.monotonic()
        ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        took = time.monotonic() - began
    if ended.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {ended.returncode}: {ended.stderr[-2000:]}")
    return took, json.loads(ended.stdout)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", default=CASES, choices=CASES, help="bundled data sets; all by default")
    parser.add_argument("--source", type=Path, action="append", default=[], help="a SOURCE.yaml; may be repeated")
    parser.add_argument("--budgets", type=float, nargs="+", default=BUDGETS, help="seconds")
    given = parser.parse_args()
    table = Table(title="whole commands within a budget of seconds, each in a new store")
    for name in ("case", "budget", "took", "over", "usable", "learners", "score"):
        table.add_column(name, justify="left" if name == "case" else "right")
    with tempfile.TemporaryDirectory() as folder:
        made = {
            case.name: case.write(Path(folder) / case.name, 0) for case in bundled_cases() if case.name in given.cases
        }
        sources = {**made, **{path.resolve().parent.name: path.resolve() for path in given.source}}
        for seed, (seconds, name) in enumerate((seconds, name) for seconds in given.budgets for name in sources):
            took, summary = timed(sources[name], seconds, seed)
            usable, learners = summary["budget"]["usable_seconds"], summary["learners"]
            table.add_row(
                name,
                f"{seconds:g}",
                f"{took:.1f}",
                f"{took / seconds - 1:+.1%}",
                "" if usable is None else f"{usable / seconds:.0%}",
                f"{learners['trained']} of {learners['planned']}",
                f"{summary['score']:.4f}",
            )
    Console().print(table)


if __name__ == "__main__":
    main()
