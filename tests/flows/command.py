"""Running the command as a user does, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def polychoir(*arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does, in a process of its own."""
    command = [sys.executable, "-m", "flows.cli", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)


def answer(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The JSON object a command printed."""
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


SMALL = (
    "--preset=quick",
    "--set=learners.include=[linear, tabular_mlp]",
    "--set=training.epochs=20",
    "--set=training.lr=0.01",
    "--set=tabular_mlp.width=16",
    "--set=budget.group_size=2",
)
"""Settings of a run that takes seconds."""
