"""Groups of a run that is interrupted: their processes are ended, and nobody begins them again or waits for them."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import psutil
import pytest
from ended import wait_until_gone
from factories import sleeping_child, small_run, unreal_cohort, write_source

from training_core import isolation
from training_core.campaigns.library import launching
from training_core.errors import StoppedError, TransientError
from training_core.isolation import ended_together, run_isolated
from training_core.jobs import Event, Limits, Process
from training_core.jobs.watchdog import Watchdog

ROOT = Path(__file__).parents[3]
SOON = 20.0
"""Seconds in which what is interrupted has to end, on a machine that has much else to do."""


def ignore(event: Event) -> None:
    pass


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Children that train for ever; the names of the groups they were begun for."""
    begun: list[str] = []

    def begin(device: str, name: str, stderr: IO[str], limits: Limits) -> Process:
        begun.append(name)
        return sleeping_child()

    monkeypatch.setattr(isolation, "_begin", begin)
    yield begun
    for child in list(isolation._LIVE):
        child.kill()


def wait_until_live(count: int) -> None:
    until = time.monotonic() + SOON
    while len(isolation._LIVE) < count:
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_run_begins_no_group_again(
    tmp_path: Path, endless: list[str], error: type[BaseException]
) -> None:
    outcomes: list[object] = []
    begun = time.monotonic()
    with (
        pytest.raises(error),
        launching(small_run("world", budget={"workers": 2}), tmp_path, ignore, True) as launch,
    ):
        for name in ("one", "two", "waiting"):
            launch(unreal_cohort(name), Limits(), outcomes.append)
        wait_until_live(2)
        raise error
    assert time.monotonic() - begun < SOON
    assert sorted(endless) == ["one", "two"] and not isolation._LIVE
    assert sum(isinstance(outcome, StoppedError) for outcome in outcomes) == 2


def test_a_call_after_an_interrupted_one_and_one_beside_it_are_left_alone(tmp_path: Path, endless: list[str]) -> None:
    found: list[Exception] = []

    def beside() -> None:
        try:
            run_isolated(unreal_cohort("beside"), tmp_path, ignore)
        except TransientError as error:
            found.append(error)

    def kill_the_next() -> None:
        wait_until_live(1)
        for child in list(isolation._LIVE):
            child.kill()

    other = threading.Thread(target=beside)
    other.start()
    wait_until_live(1)
    (child,) = isolation._LIVE
    with pytest.raises(KeyboardInterrupt), ended_together():
        raise KeyboardInterrupt
    assert psutil.pid_exists(child.pid), "it is somebody else's"
    assert psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE
    child.kill()
    other.join(SOON)
    assert "was killed by SIGKILL" in str(found[0]), "which may be tried again"
    with pytest.raises(ZeroDivisionError), ended_together():
        threading.Thread(target=kill_the_next).start()
        with pytest.raises(TransientError):
            run_isolated(unreal_cohort("later"), tmp_path, ignore)
        raise ZeroDivisionError
    assert endless == ["beside", "later"]


def test_a_stack_keeps_its_time_while_its_members_report() -> None:
    jobs = [unreal_cohort(name).jobs[0] for name in "abc"]
    child = subprocess.Popen(["sleep", "1000"], text=True)
    watch = Watchdog(child, Limits(learner_seconds=2.0))
    try:
        watch.start()
        for job in jobs:
            watch.started(job)
        watch.settled("a")
        watch.settled("b")
        time.sleep(2.5)
        assert not watch.ended, "three began together, and 6 s are not over"
        watch.settled("c")
        watch.started(jobs[0])
        watch.join(SOON)
        assert watch.ended == {"a": "took longer than its limit of 2 s"}, "alone it has its own time"
    finally:
        watch.stop()
        child.kill()
        child.wait()


@pytest.mark.slow
def test_ctrl_c_during_a_long_training_surfaces_within_seconds(tmp_path: Path) -> None:
    source = write_source(tmp_path / "world", num_rows=160)
    code = f"""
        import json, signal, sys
        sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
        from factories import small_run
        import training_core as pc
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is born deaf to it
        long = {{"epochs": 1000000, "patience": 1000000, "patience_steps": 1000000000}}
        run = small_run({str(source)!r}, budget={{"group_size": 2, "workers": 2}}, training=long)
        pc.fit_ensemble(run, {str(tmp_path / "store")!r}, lambda event: print(json.dumps(event), flush=True))
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout
    while json.loads(process.stdout.readline())["event"] != "epoch":
        pass
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    _, said = process.communicate(timeout=120)
    assert time.monotonic() - begun < SOON
    assert process.returncode and "KeyboardInterrupt" in said
    assert children
    wait_until_gone(*(child.pid for child in children))
