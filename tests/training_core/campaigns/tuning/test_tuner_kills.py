"""Tuning in processes that are killed: finished trials are kept, nothing is left running, the trials are the same."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

SCRIPT = Path(__file__).parent / "tuned_digits.py"
ROOT = SCRIPT.parents[4]
TRIALS = 6


def _start(store: Path, workers: int = 1, mode: str = "deterministic") -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), str(store), str(workers), mode]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def _ended(process: "subprocess.Popen[str]") -> dict[str, Any]:
    out, err = process.communicate(timeout=500)
    assert process.returncode == 0, err[-3000:]
    return json.loads(out.splitlines()[-1])


def _tell_on(process: "subprocess.Popen[str]", events: int) -> bool:
    """Let a process tell of so many events; whether it is still at work then."""
    assert process.stdout is not None
    return all('"event"' in process.stdout.readline() for _ in range(events))


def _whole(found: dict[str, Any]) -> None:
    assert found["counts"]["running"] == found["counts"]["failed"] == 0
    assert [trial[0] for trial in found["trials"]] == list(range(TRIALS))


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The study as one worker runs it, undisturbed."""
    found = _ended(_start(tmp_path_factory.mktemp("untouched")))
    _whole(found)
    return found


@pytest.mark.slow
def test_two_workers_find_what_one_finds(untouched: dict[str, Any], tmp_path: Path) -> None:
    assert _ended(_start(tmp_path, workers=2)) == untouched


@pytest.mark.slow
def test_killed_owner(untouched: dict[str, Any], tmp_path: Path) -> None:
    process = _start(tmp_path)
    _tell_on(process, 25)
    process.kill()
    process.communicate()
    assert _ended(_start(tmp_path)) == untouched


@pytest.mark.slow
def test_killed_worker(untouched: dict[str, Any], tmp_path: Path) -> None:
    process = _start(tmp_path)
    _tell_on(process, 6)
    for child in psutil.Process(process.pid).children():
        with suppress(psutil.NoSuchProcess):
            child.kill()
    found = _ended(process)
    assert found == untouched, "its group is trained once more, from its checkpoint"


@pytest.mark.nightly
@pytest.mark.parametrize("mode", ["deterministic", "throughput"])
def test_ten_kills_of_owner_or_worker_at_random(untouched: dict[str, Any], tmp_path: Path, mode: str) -> None:
    draws = random.Random(mode)
    for attempt in range(10):
        store = tmp_path / str(attempt)
        process = _start(store, mode=mode)
        at_work = _tell_on(process, draws.randrange(1, 50))
        time.sleep(draws.random() * 0.3)
        if attempt % 2 and at_work:
            for child in psutil.Process(process.pid).children():
                with suppress(psutil.NoSuchProcess):
                    child.send_signal(signal.SIGKILL)
            found = _ended(process)
        else:
            process.kill()
            process.communicate()
            found = _ended(_start(store, mode=mode))
        _whole(found)
        if mode == "deterministic":
            assert found == untouched
