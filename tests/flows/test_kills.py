"""kill -9, of the flow and of learners' processes: nothing is trained twice, and the answer is the same."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from command import ROOT, SMALL, answer, polychoir


def start(source: Path, store: Path, *more: str) -> subprocess.Popen[str]:
    """The command in the background, printing a line per stage and per learner."""
    command = [sys.executable, "-u", "-m", "flows.cli", "train", str(source), *SMALL, *more, "--store", str(store)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def kill_when(process: subprocess.Popen[str], moment: str) -> list[str]:
    """Read lines until one holds `moment`, kill the process, and return the lines."""
    assert process.stdout
    seen: list[str] = []
    for line in process.stdout:
        seen.append(line)
        if moment in line:
            break
    else:
        pytest.fail(f"'{moment}' never came: {''.join(seen)}")
    process.send_signal(signal.SIGKILL)
    process.wait()
    return seen


@pytest.mark.nightly
@pytest.mark.slow
def test_a_run_killed_five_times_ends_as_if_it_never_was(source: Path, tmp_path: Path) -> None:
    expected = answer(polychoir("train", source, *SMALL, "--store", tmp_path / "whole", "--json"))
    store = tmp_path / "killed"
    finished: list[str] = []
    for moment in ("opening the tracker", "training 6 learners", "1/6", "3/6", "5/6"):
        lines = kill_when(start(source, store), moment)
        finished += [line.split()[1] for line in lines if "/6 " in line and "reused" not in line]
    assert len(finished) == len(set(finished)), "no learner was trained twice"
    last = answer(polychoir("train", source, *SMALL, "--store", store, "--json"))
    assert last["predictions_sha256"] == expected["predictions_sha256"]
    assert last["learners"]["reused"] >= len(finished)
    assert last["learners"]["trained"] + last["learners"]["reused"] == 6
    with sqlite3.connect(store / "prefect" / "prefect.db") as database:
        states = [state for (state,) in database.execute("select state_type from flow_run")]
    assert sorted(states) == ["COMPLETED"] + ["CRASHED"] * (len(states) - 1), "killed runs are not left running"
    with sqlite3.connect(store / "mlflow.db") as database:
        running = database.execute("select count(*) from runs where status = 'RUNNING'").fetchone()
    assert running == (0,)
    assert not list((store / "jobs").glob(".unfinished-*"))


def children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that train learners now: those that were forked from the one that loaded the libraries."""
    nurseries: set[int] = set()
    above: list[tuple[psutil.Process, int]] = []
    with suppress(psutil.NoSuchProcess):  # the command itself
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.Error):  # it ended while it was looked at
                above.append((child, child.ppid()))
                if "training_core.isolation" in child.cmdline():
                    nurseries.add(child.pid)
    return [child for child, parent in above if parent in nurseries]


@pytest.mark.nightly
@pytest.mark.slow
def test_a_group_whose_process_dies_twice_costs_its_learners_not_the_run(source: Path, tmp_path: Path) -> None:
    slow = ("--set=training.epochs=2000", "--set=training.patience=2000", "--set=budget.group_size=3", "--json")
    command = start(source, tmp_path, *slow)
    killed: set[int] = set()
    victim: str | None = None
    deadline = time.monotonic() + 200
    while command.poll() is None and time.monotonic() < deadline and len(killed) < 2:
        for child in children(command):
            group = victim_of(child)
            if group and victim in (None, group) and child.pid not in killed:
                victim = group
                child.kill()
                killed.add(child.pid)
                break
        time.sleep(0.2)
    output, _ = command.communicate(timeout=240)
    assert command.returncode == 0, output
    summary: dict[str, Any] = json.loads(output)
    assert len(killed) == 2
    assert summary["learners"]["failed"] >= 1
    assert summary["learners"]["trained"] >= 3
    assert all("was killed by SIGKILL" in reason for reason in summary["failures"].values())
    assert 0.5 < summary["score"] <= 1


def victim_of(child: psutil.Process) -> str | None:
    """Which group a learner process trains: it bears its name."""
    try:
        return Path(f"/proc/{child.pid}/comm").read_text().strip()
    except OSError:
        return None


@pytest.mark.nightly
@pytest.mark.slow
def test_two_runs_at_once_share_a_store(source: Path, tmp_path: Path) -> None:
    both = [start(source, tmp_path, "--json"), start(source, tmp_path, "--json")]
    outputs = [process.communicate(timeout=280)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    summaries = [json.loads(output) for output in outputs]
    assert summaries[0]["predictions_sha256"] == summaries[1]["predictions_sha256"]
    assert sum(summary["learners"]["trained"] for summary in summaries) == 6


@pytest.mark.slow
def test_no_server_is_left_when_its_run_was_killed(source: Path, tmp_path: Path) -> None:
    kill_when(start(source, tmp_path), "opening the tracker")
    deadline = time.monotonic() + 30
    while servers := [
        p for p in psutil.process_iter(["cmdline"]) if str(tmp_path / "prefect") in (p.info["cmdline"] or [])
    ]:
        assert time.monotonic() < deadline, servers
        time.sleep(0.5)
