"""A cancelled flow: groups that train in child processes are ended, not tried again, and those that wait not begun."""

import time
from pathlib import Path
from queue import SimpleQueue
from typing import IO

import pytest
from factories import sleeping_child, small_run, unreal_cohort
from prefect import flow
from prefect.testing.utilities import prefect_test_harness

from tasks import training
from tasks.training import launching
from training_core import isolation
from training_core.jobs import Limits, Process


@pytest.mark.slow
def test_a_cancelled_flow_begins_no_group_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []

    def begin(device: str, name: str, stderr: IO[str], limits: Limits) -> Process:
        begun.append(name)
        return sleeping_child()

    monkeypatch.setattr(isolation, "_begin", begin)
    cancelled: list[float] = []

    @flow
    def train() -> None:
        with launching(small_run("world", budget={"workers": 1}), tmp_path) as (launch, _):
            for name in ("one", "waiting"):
                launch(unreal_cohort(name), Limits(), lambda outcome: None)
            while not isolation._LIVE:
                time.sleep(0.05)
            cancelled.append(time.monotonic())
            raise KeyboardInterrupt

    with prefect_test_harness(server_startup_timeout=300):
        with pytest.raises(KeyboardInterrupt):
            train()
        assert time.monotonic() - cancelled[0] < 60
    assert begun == ["one"] and not isolation._LIVE


@pytest.mark.slow
def test_a_group_whose_thread_is_told_to_end_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told_to_end(*_: object) -> None:
        raise SystemExit(1)

    monkeypatch.setattr(training, "run_isolated", told_to_end)
    outcomes: SimpleQueue[object] = SimpleQueue()

    @flow
    def train() -> object:
        with launching(small_run("world", budget={"workers": 1}), tmp_path) as (launch, _):
            launch(unreal_cohort("one"), Limits(), outcomes.put)
            return repr(outcomes.get(timeout=60))

    with prefect_test_harness(server_startup_timeout=300):
        assert "SystemExit" in str(train())
