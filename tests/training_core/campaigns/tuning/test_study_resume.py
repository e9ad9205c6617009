"""A study is the same study whether it runs in one go, or is killed and resumed wherever one likes."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from training_core.campaigns.tuning.outcome import TrialOutcome
from training_core.campaigns.tuning.storage import JOURNAL
from training_core.campaigns.tuning.study import Study
from training_core.errors import ConfigError, StorageError

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from toy_study import essence, open_study, run_study, worked  # noqa: E402

DEAD_PID = "4194305"  # above the largest a kernel gives out


def _killed_after(journal: bytes, folder: Path) -> Path:
    """A study folder with a journal whose writer is dead."""
    folder.mkdir(parents=True)
    mine = f'"polychoir.pid":"{os.getpid()}"'.encode()
    assert mine in journal
    (folder / JOURNAL).write_bytes(journal.replace(mine, f'"polychoir.pid":"{DEAD_PID}"'.encode()))
    return folder


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "nsga2"])
def test_same_seed_gives_the_same_study_and_another_seed_another_one(tmp_path: Path, sampler: str) -> None:
    found = [essence(run_study(tmp_path / str(i) / "s", trials=15, batch=3, sampler=sampler)) for i in range(3)]
    assert found[0] == found[1] == found[2]
    assert essence(run_study(tmp_path / "other" / "s", seed=1, trials=15, batch=3, sampler=sampler)) != found[0]


def test_killed_after_any_write_it_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    settings = {"trials": 12, "batch": 3}
    expected = essence(run_study(tmp_path / "whole" / "s", **settings))
    assert any(state == "pruned" for _, state, *_ in expected), "pruning has to be part of what is compared"
    lines = (tmp_path / "whole" / "s" / JOURNAL).read_bytes().splitlines(keepends=True)
    own = next(i for i, line in enumerate(lines) if b"polychoir.pid" in line)
    places = random.Random(0).sample(range(own + 1, len(lines)), 12)
    for place in sorted(places):
        torn = lines[place][: len(lines[place]) // 2] if place % 2 else b""
        folder = _killed_after(b"".join(lines[:place]) + torn, tmp_path / str(place) / "s")
        assert essence(run_study(folder, **settings)) == expected, f"killed after line {place}"


def test_serial_and_with_answers_out_of_order_are_the_same_study(tmp_path: Path) -> None:
    """The order in which workers answer is the caller's secret: trials are told by number."""
    expected = essence(run_study(tmp_path / "serial" / "s", trials=12, batch=4))
    with open_study(tmp_path / "shuffled" / "s", trials=12, batch=4) as study:
        while asked := study.ask():
            outcomes = {one.number: worked(one) for one in random.Random(1).sample(asked, len(asked))}
            for number in sorted(outcomes):
                study.tell(number, outcomes[number])
        assert essence(study.records()) == expected


def test_a_longer_search_goes_on_with_the_shorter_one(tmp_path: Path) -> None:
    first = essence(run_study(tmp_path / "s", trials=6, batch=3))
    assert essence(run_study(tmp_path / "s", trials=9, batch=3))[:6] == first
    assert essence(run_study(tmp_path / "other" / "s", trials=9, batch=3)) == essence(
        run_study(tmp_path / "s", trials=9, batch=3)
    )


def test_a_trial_that_three_owners_died_over_has_failed(tmp_path: Path) -> None:
    folder, seen = tmp_path / "0" / "s", list[int]()
    for attempt in range(1, 4):
        with open_study(folder, trials=1, batch=1) as study:
            seen += [one.number for one in study.ask()]
            journal = (folder / JOURNAL).read_bytes()  # as it is before the study is let go of
        folder = _killed_after(journal, tmp_path / str(attempt) / "s")
    assert seen == [0, 0, 0]
    (record,) = run_study(folder, trials=1, batch=1)
    assert record.state == "failed" and "died 3 times" in record.error


def test_being_interrupted_is_not_dying_over_a_trial(tmp_path: Path) -> None:
    seen = []
    for _ in range(6):
        with pytest.raises(KeyboardInterrupt), open_study(tmp_path / "s", trials=1, batch=1) as study:
            seen += [one.number for one in study.ask()]
            raise KeyboardInterrupt
    assert seen == [0] * 6
    (record,) = run_study(tmp_path / "s", trials=1, batch=1)
    assert record.state == "complete"


@pytest.mark.parametrize("mode", ["deterministic", "throughput"])
def test_a_trial_there_was_no_time_for_ends_the_search_and_stays_open(tmp_path: Path, mode: str) -> None:
    settings = {"trials": 4, "batch": 2, "mode": mode}
    expected = run_study(tmp_path / "whole" / "s", **settings)
    with open_study(tmp_path / "late" / "s", **settings) as study:
        first, second = study.ask()
        study.tell(first.number, worked(first))
        assert study.tell(second.number, TrialOutcome(state="skipped")).state == "running"
        assert study.ask() == [] and study.stopped == "the time it may take is over"
        assert [record.state for record in study.records()] == [expected[0].state, "running"]
    later = run_study(tmp_path / "late" / "s", **settings)
    if mode == "deterministic":
        assert essence(later) == essence(expected), "what was left open is done first, with the values it had"
    assert [record.params for record in later[:2]] == [dict(first.params), dict(second.params)]
    assert {record.state for record in later} <= {"complete", "pruned"} and len(later) == 4


def test_a_running_deterministic_study_is_not_run_twice(tmp_path: Path) -> None:
    with open_study(tmp_path / "s", trials=3, batch=1), pytest.raises(ConfigError, match="is being run by process"):
        open_study(tmp_path / "s", trials=3, batch=1).__enter__()


def test_a_study_about_something_else_is_refused(tmp_path: Path) -> None:
    run_study(tmp_path / "s", trials=1)
    with pytest.raises(ConfigError, match=r"choose another `tuning\.name`"):
        known = open_study(tmp_path / "s")
        Study(known.config, known.space, known.folder, 0, about="other", epochs=1)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (b"{]\n", "damaged in line 1"),
        (b'["op_code"]\n', "damaged in line 1"),
        (b'{"op_code": 0, "worker_id": "a"}\n', "no journal of a study|no study of ours"),
        (b'{"op_code": 99, "worker_id": "a"}\n', "no journal of a study|no study of ours"),
    ],
)
def test_a_damaged_or_foreign_journal_is_refused_in_one_line(tmp_path: Path, damage: bytes, message: str) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / JOURNAL).write_bytes(damage)
    with pytest.raises(StorageError, match=message):
        run_study(tmp_path / "s", trials=1)


def test_nothing_stays_running_when_a_value_is_no_number(tmp_path: Path) -> None:
    with open_study(tmp_path / "s", trials=4, batch=2) as study:
        values = iter([(float("nan"),), (float("inf"),), (), (1.0,)])
        while asked := study.ask():
            for one in asked:
                study.tell(one.number, TrialOutcome(state="complete", values=next(values)))
        assert [record.state for record in study.records()] == ["failed", "failed", "failed", "complete"]
        assert "astray" in study.records()[0].error


def _process(folder: Path, *options: str) -> "subprocess.Popen[str]":
    command = [sys.executable, str(HERE / "toy_study.py"), str(folder), *options]
    root = str(HERE.parents[3])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment)


@pytest.mark.slow
def test_two_processes_share_a_study_and_end_with_the_exact_total(tmp_path: Path) -> None:
    options = ("--trials", "30", "--mode", "throughput", "--batch", "2", "--pause", "0.02", "--wait")
    both = [_process(tmp_path / "s", *options) for _ in range(2)]
    for process in both:
        assert process.stdout
        assert process.stdout.readline() == "ready\n", process.communicate()
    for process in both:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    told = [sorted(map(int, out.split())) for out, _ in said]
    assert sorted(told[0] + told[1]) == list(range(30))
    assert all(told), "both had a part in it"
    with open_study(tmp_path / "s", trials=30, mode="throughput") as study:
        assert study.ask() == []
        assert [record.number for record in study.records()] == list(range(30))
        assert {record.state for record in study.records()} <= {"complete", "pruned"}


@pytest.mark.nightly
def test_owners_killed_at_twenty_random_points_leave_the_same_study(tmp_path: Path) -> None:
    expected = essence(run_study(tmp_path / "whole" / "s", trials=12, batch=3))
    moments = random.Random(2)
    for attempt in range(20):
        folder = tmp_path / str(attempt) / "s"
        process = _process(folder, "--pause", "0.05")
        assert process.stdout is not None
        for _ in range(moments.randrange(0, 11)):
            process.stdout.readline()
        time.sleep(moments.random() * 0.2)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert essence(run_study(folder, trials=12, batch=3)) == expected
