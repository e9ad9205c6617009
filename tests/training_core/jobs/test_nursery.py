"""Processes forked from one that has loaded its libraries: what they are given, how they end, who ends with whom."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from ended import is_gone, wait_until_gone

from training_core.errors import DeadlineError, TransientError
from training_core.jobs import Nursery
from training_core.jobs import nursery as module
from training_core.jobs.nursery import Forked

ROOT = Path(__file__).parents[3]
WORK = """
    import os, signal, sys, time
    def work():
        for line in sys.stdin:
            said = line.strip()
            if said == "who": print(os.getpid(), os.getppid(), open("/proc/self/comm").read().strip(), flush=True)
            elif said == "files": print(len(os.listdir("/proc/self/fd")), flush=True)
            elif said == "slow": print(sorted(name for name in sys.modules if name.startswith("slow_")), flush=True)
            elif said == "complain": print("it hurts", file=sys.stderr, flush=True)
            elif said == "raise": raise RuntimeError("of its own")
            elif said.startswith("exit"): return int(said.split()[1])
            else: print("heard", said, flush=True)
        return 0
"""
TEND = """
    import socket
    from training_core.jobs import tend
    sys.exit(tend(socket.socket(fileno=int(sys.argv[-1])), work, sys.argv[1:-1]))
"""


def command(before: str = "") -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(before) + textwrap.dedent(WORK) + textwrap.dedent(TEND)]


CHILDREN: list[Forked] = []


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    """Nothing of a test is left when it is over."""
    yield
    while CHILDREN:
        end(CHILDREN.pop())


def end(child: Forked) -> None:
    child.kill()
    child.wait()
    for stream in (child.stdin, child.stdout):
        assert stream
        with contextlib.suppress(BrokenPipeError):
            stream.close()


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    made = Nursery(command(), {"PYTHONPATH": str(ROOT)})
    yield made
    made._end()


def fork(nursery: Nursery, name: str = "one", seconds: float = 60.0) -> Forked:
    with tempfile.TemporaryFile("w+") as stderr:
        CHILDREN.append(nursery.fork(name, stderr, seconds))
    return CHILDREN[-1]


def ask(child: Forked, what: str) -> str:
    assert child.stdin and child.stdout
    child.stdin.write(what + "\n")
    child.stdin.flush()
    return child.stdout.readline().strip()


def test_children_have_streams_names_and_exit_codes_of_their_own(nursery: Nursery) -> None:
    one, two = fork(nursery, "group-1"), fork(nursery, "a-name-that-is-far-too-long")
    assert ask(one, "a") == "heard a" and ask(two, "b") == "heard b"
    pid, parent, name = ask(two, "who").split(maxsplit=2)
    assert (int(pid), name) == (two.pid, "a-name-that-is-")
    assert int(parent) == psutil.Process(one.pid).ppid() == nursery._process.pid
    assert one.stdin
    one.stdin.write("exit 7\n")
    one.stdin.close()
    assert one.wait() == one.wait() == 7
    assert ask(two, "still") == "heard still"
    two.kill()
    assert two.wait() == -signal.SIGKILL
    two.kill()  # nothing happens
    assert is_gone(one.pid) and is_gone(two.pid)


def test_no_child_holds_what_is_another_s(nursery: Nursery) -> None:
    """Else nobody would hear that the other one closed its output, or ended."""
    children = [fork(nursery, str(position)) for position in range(4)]
    assert len({ask(child, "files") for child in children}) == 1
    first = children[0]
    first.kill()
    assert first.stdout and first.stdout.read() == ""
    assert first.wait() == -signal.SIGKILL


def test_what_a_child_complains_of_is_in_its_own_file(nursery: Nursery) -> None:
    with tempfile.TemporaryFile("w+") as stderr:
        child = nursery.fork("one", stderr, 60.0)
        assert child.stdin
        child.stdin.write("complain\nraise\n")
        child.stdin.close()
        assert child.wait() == 1
        end(child)
        stderr.seek(0)
        said = stderr.read()
    assert "it hurts" in said and "RuntimeError: of its own" in said


def test_many_threads_fork_at_once(nursery: Nursery) -> None:
    found: list[tuple[str, str]] = []

    def use(name: str) -> None:
        child = fork(nursery, name)
        found.append((name, ask(child, name)))
        child.kill()
        child.wait()

    threads = [threading.Thread(target=use, args=(f"n{number}",)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(found) == sorted((f"n{number}", f"heard n{number}") for number in range(12))


def test_children_end_with_the_nursery_and_the_next_call_has_another(nursery: Nursery) -> None:
    child = fork(nursery)
    assert nursery._process
    first = nursery._process.pid
    os.kill(first, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    wait_until_gone(child.pid, first)
    assert ask(fork(nursery), "again") == "heard again"
    assert nursery._process.pid != first


def test_one_that_has_nothing_to_do_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    hasty = "import training_core.jobs.nursery as n\nn._IDLE_SECONDS = n._POLL_SECONDS = 0.2\n"
    nursery = Nursery(command(hasty), {"PYTHONPATH": str(ROOT)})
    child = fork(nursery)
    assert nursery._process
    first = nursery._process.pid
    time.sleep(1.0)
    assert not is_gone(first), "its child is at work"
    child.kill()
    child.wait()
    wait_until_gone(first)
    assert ask(fork(nursery), "again") == "heard again"
    nursery._end()


def test_children_end_with_the_owner_however_it_ends() -> None:
    code = f"""
        import sys, tempfile, time
        sys.path.insert(0, {str(ROOT)!r})
        from training_core.jobs import Nursery
        nursery = Nursery({command()!r}, {{"PYTHONPATH": {str(ROOT)!r}}})
        child = nursery.fork("one", tempfile.TemporaryFile("w+"), 60.0)
        print(nursery._process.pid, child.pid, flush=True)
        time.sleep(1000)
    """
    owner = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout
    pids = [int(pid) for pid in owner.stdout.readline().split()]
    owner.kill()
    owner.wait()
    wait_until_gone(*pids)


def test_a_copy_of_the_owner_has_a_nursery_of_its_own(nursery: Nursery) -> None:
    child = fork(nursery)
    assert nursery._process
    pid = os.fork()
    if pid == 0:
        os._exit(0 if nursery._process is None and not nursery._lock.locked() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert ask(child, "there") == "heard there", "the copy has taken nothing from it"


def test_libraries_that_load_for_too_long_are_not_waited_for() -> None:
    nursery = Nursery(command("import time; time.sleep(3)\n"), {"PYTHONPATH": str(ROOT)})
    nursery.open()
    with pytest.raises(DeadlineError, match="not loaded before the time was over"):
        fork(nursery, seconds=0.2)
    assert ask(fork(nursery), "later") == "heard later"
    nursery._end()


def test_libraries_that_do_not_load_are_told_of() -> None:
    nursery = Nursery(command("import nowhere_to_be_found\n"), {"PYTHONPATH": str(ROOT)})
    with pytest.raises(TransientError, match="No module named 'nowhere_to_be_found'"):
        fork(nursery)


def test_who_asks_while_libraries_are_loaded_waits_for_one_of_them_only(tmp_path: Path) -> None:
    names = ["slow_a", "slow_b", "slow_c"]
    for name in names:
        (tmp_path / f"{name}.py").write_text("import time; time.sleep(1.5)")
    nursery = Nursery([*command(), "nowhere_to_be_found", *names], {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"})
    assert "slow_c" not in ask(fork(nursery), "slow")
    until = time.monotonic() + 30
    while ask(fork(nursery), "slow") != str(names):
        assert time.monotonic() < until
        time.sleep(0.5)
    nursery._end()


def test_one_that_does_not_answer_is_replaced(nursery: Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REPLY_SECONDS", 2.0)
    fork(nursery)
    assert nursery._process
    first = nursery._process
    first.send_signal(signal.SIGSTOP)
    assert ask(fork(nursery), "again") == "heard again"
    assert is_gone(first.pid)
