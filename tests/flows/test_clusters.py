"""The same run on the workers of a cluster: the same answer, though one of them is killed on the way."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from command import ROOT, SMALL, answer, polychoir

ONE_BY_ONE = (*SMALL, "--set=budget.group_size=1", "--set=budget.workers=2", "--json")


def start(source: Path, store: Path, *more: str) -> subprocess.Popen[str]:
    """The command in the background."""
    command = [sys.executable, "-m", "flows.cli", "train", str(source), *ONE_BY_ONE, *more, "--store", str(store)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)


def teachers(command: subprocess.Popen[str]) -> Iterator[psutil.Process]:
    """Processes below the command, not the command itself, that have a group training below them."""
    for process in psutil.Process(command.pid).children(recursive=True):
        try:
            loads = "training_core.isolation" in process.cmdline() and process.parent().pid != command.pid
            if loads and any("training_core.isolation" in child.cmdline() for child in process.children()):
                yield process.parent()
        except (psutil.Error, AttributeError):
            continue  # it ended meanwhile


def killed_worker(command: subprocess.Popen[str], seconds: float = 500) -> int:
    """Kill the first worker that trains something; its process id."""
    deadline = time.monotonic() + seconds
    while command.poll() is None and time.monotonic() < deadline:
        for worker in teachers(command):
            worker.kill()
            return worker.pid
        time.sleep(0.05)
    pytest.fail(f"no worker trained anything: {command.communicate()[1]}")


def ended(command: subprocess.Popen[str]) -> dict[str, Any]:
    """The JSON object that the command prints in the end."""
    out, err = command.communicate(timeout=500)
    assert command.returncode == 0, err
    return json.loads(out)


def alike(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Whether two runs trained the same learners and give the same answers."""
    return found["predictions_sha256"] == expected["predictions_sha256"] and found["learners"] == expected["learners"]


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("executor", ["dask", "ray"])
def test_a_worker_killed_on_the_way_changes_nothing(source: Path, tmp_path: Path, executor: str) -> None:
    pytest.importorskip(f"prefect_{executor}")
    expected = answer(polychoir("train", source, *ONE_BY_ONE, "--store", tmp_path / "alone"))
    command = start(source, tmp_path / executor, f"--set=executor={executor}")
    assert killed_worker(command)
    found = ended(command)
    assert alike(found, expected)
    assert found["learners"]["trained"] == 6
