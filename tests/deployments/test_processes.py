"""Programs that are kept up, and that leave nothing behind."""

import base64
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest
from ended import is_gone, wait_until_gone

from deployments import processes
from deployments.processes import MARK, Child, aside, end_in_turn, end_marked, marked, rotate
from deployments.up import Addresses, UpConfig, _answers, _children, _port, settings, tracking_server, up
from training_core.artifacts import exclusive
from training_core.errors import ConfigError, TransientError

ROOT = Path(__file__).parents[2]

OWNER = """
import os, sys, time
from pathlib import Path
from deployments.processes import Child, MARK, guarded
mark, folder = sys.argv[1], Path(sys.argv[2])
# A grandchild in a session of its own that will not end when it is asked to: only its mark leads to it.
stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)"
call = f"subprocess.Popen([sys.executable, '-c', {stubborn!r}], start_new_session=True)"
parent = f"import subprocess, sys, time; {call}; time.sleep(300)"
with guarded(mark):
    Child("parent", [sys.executable, "-c", parent], {**os.environ, MARK: mark}, folder).start()
    print("up", flush=True)
    time.sleep(300)
"""


LAST_WORDS = """
import signal, sys, time
def end(*_):
    time.sleep(0.3)
    print(time.time())
    sys.exit()
signal.signal(signal.SIGTERM, end)
print(0, flush=True)
time.sleep(99)
"""


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def until(true: object, seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if true():  # pyright: ignore[reportCallIssue]
            return True
        time.sleep(0.05)
    return False


def test_a_program_that_ends_is_started_again_after_pauses_that_double(tmp_path: Path) -> None:
    clock = Clock()
    child = Child("short", ["/bin/false"], dict(os.environ), tmp_path, clock)
    child.start()
    pauses = []
    for _ in range(8):
        assert until(lambda: child.exit_status is not None)
        said = child.keep_up()
        assert said is not None
        assert "exit code 1" in said
        pauses.append(float(said.partition(" in ")[2].partition(" s")[0]))
        clock.now += pauses[-1] - 0.5
        starts = child.starts
        child.keep_up()
        assert child.starts == starts  # its pause is not over
        clock.now += 0.6
        child.keep_up()
        assert child.starts == starts + 1
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]


def test_a_program_that_ran_long_begins_again_at_once(tmp_path: Path) -> None:
    clock = Clock()
    child = Child("long", ["/bin/sleep", "300"], dict(os.environ), tmp_path, clock)
    child.start()
    assert child.keep_up() is None
    clock.now = 1000
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    assert until(lambda: child.exit_status is not None)
    assert "SIGKILL" in (child.keep_up() or "")
    clock.now += 1
    child.keep_up()
    assert child.starts == 2
    child.end()
    assert child.exit_status is not None


def test_programs_that_will_not_end_are_waited_for_together(tmp_path: Path) -> None:
    stubborn = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(99)"
    )
    children = [
        Child(name, [sys.executable, "-c", stubborn], dict(os.environ), tmp_path) for name in ("one", "two", "three")
    ]
    pids = []
    try:
        for child in children:
            child.start()
            pids.append(child.pid)
            assert until(lambda log=child.log: log.read_text())
        began = time.monotonic()
        end_in_turn(children, patience=3)
        assert 2.9 < time.monotonic() - began < 8  # not three seconds for each
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)


def test_a_program_that_ends_is_waited_for_before_the_next_is_asked(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LAST_WORDS]
    children = [Child(name, command, dict(os.environ), tmp_path) for name in ("server", "worker")]
    for child in children:
        child.start()
        assert until(lambda log=child.log: log.read_text())
    end_in_turn(children, patience=20)
    server, worker = (float(child.log.read_text().split()[1]) for child in children)
    assert worker < server - 0.25


@pytest.mark.parametrize(
    ("tracking", "names"),
    [
        ("", ["server", "mlflow", "worker"]),
        ("sqlite:////elsewhere/mlflow.db", ["server", "mlflow", "worker"]),
        ("postgresql://me:secret@db/mlflow", ["server", "mlflow", "worker"]),
        ("http://mlflow.example.org:5000", ["server", "worker"]),
        ("https://me:secret@mlflow.example.org", ["server", "worker"]),
    ],
)
def test_mlflow_pages_are_brought_up_unless_a_server_has_them(
    tracking: str, names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)
    addresses = Addresses(prefect="http://127.0.0.1:1", login="l", mlflow="http://127.0.0.1:2", pid=1)
    environment = settings(tmp_path, addresses, "me:password")
    children = _children(tmp_path, addresses, UpConfig(), environment)
    assert [child.name for child in children] == names
    assert environment["MLFLOW_TRACKING_URI"] == (tracking or f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert "secret" not in (tracking_server(tmp_path) or "")
    assert not [child for child in children if "secret" in " ".join(child._command)], "every user could read it"
    of_mlflow = [child._environment["MLFLOW_BACKEND_STORE_URI"] for child in children if child.name == "mlflow"]
    assert of_mlflow == ([environment["MLFLOW_TRACKING_URI"]] if "mlflow" in names else [])


def test_everything_that_is_brought_up_asks_for_the_password_and_has_it(tmp_path: Path) -> None:
    addresses = Addresses(prefect="http://127.0.0.1:1", login="l", mlflow="http://127.0.0.1:2", pid=1)
    environment = settings(tmp_path, addresses, "me:password")
    assert environment["PREFECT_SERVER_API_AUTH_STRING"] == environment["PREFECT_API_AUTH_STRING"] == "me:password"


def test_a_log_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "LOG_BYTES", 10)
    log = tmp_path / "server.log"
    with log.open("ab") as writer:
        writer.write(b"x" * 11)
        writer.flush()
        rotate(log)
        writer.write(b"new")
    assert log.read_bytes() == b"new"
    assert (tmp_path / "server.log.1").read_bytes() == b"x" * 11


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_when_the_owner_is_killed(how: signal.Signals, tmp_path: Path) -> None:
    mark = f"test-{os.getpid()}-{how}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", OWNER, mark, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "up\n"
        assert until(lambda: len(marked(mark)) == 2)
        owner.send_signal(how)
        owner.wait(20)
    assert until(lambda: not marked(mark), 20)


def test_only_what_carries_the_mark_is_ended() -> None:
    mine = subprocess.Popen(["/bin/sleep", "300"], env={**os.environ, MARK: "one"})
    other = subprocess.Popen(["/bin/sleep", "300"], env={**os.environ, MARK: "another"})
    try:
        assert until(lambda: mine.pid in {process.pid for process in marked("one")})
        end_marked("one", patience=5)
        assert mine.wait(10) == -signal.SIGTERM
        assert psutil.pid_exists(other.pid)
        assert other.poll() is None
    finally:
        for process in (mine, other):
            process.kill()
            process.wait()


def test_a_second_up_says_where_the_first_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    home = tmp_path / "prefect"
    with exclusive(home / "up.lock"):
        with pytest.raises(ConfigError, match="still starting"):
            up(tmp_path, UpConfig(), print, print)
        known = Addresses(prefect="http://127.0.0.1:4201", login="l", mlflow="http://m", pid=77)
        (home / "up.json").write_text(known.model_dump_json())
        with pytest.raises(ConfigError, match=r"4201.*process 77"):
            up(tmp_path, UpConfig(), print, print)


def test_up_does_not_compete_with_another_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://elsewhere/api")
    with pytest.raises(ConfigError, match="elsewhere"):
        up(tmp_path, UpConfig(), print, print)


def test_a_port_that_was_asked_for_is_never_replaced() -> None:
    import socket

    with socket.socket() as taken, ExitStack() as held:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port}"):
            _port(port, 4200, "port", held)
        assert _port(None, port, "port", held) != port


def test_two_stores_that_come_up_together_get_ports_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with ExitStack() as second:
        with ExitStack() as first:
            port = _port(None, 0, "port", first)  # nothing listens there yet
            assert _port(None, port, "port", second) != port
            with pytest.raises(ConfigError, match=f"--port {port}: address already in use"):
                _port(port, 4200, "port", second)
        assert _port(None, port, "port", second) == port


def test_a_server_of_somebody_else_is_not_taken_for_ones_own() -> None:
    class Guarded(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            mine = self.headers["Authorization"] == "Basic " + base64.b64encode(b"me:secret").decode()
            self.send_response(200 if mine or self.path == "/api/health" else 401)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Guarded) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/api"
        assert _answers(f"{url}/health")
        assert _answers(f"{url}/admin/version", "me:secret")
        assert not _answers(f"{url}/admin/version", "you:other")
        server.shutdown()


class UnsendableError(Exception):
    """It takes two arguments and tells its base of one: it can be pickled, and not unpickled."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what}: {why}")


def refuse(kind: type[Exception], *arguments: str) -> None:
    raise kind(*arguments)


def test_a_call_aside_has_a_process_of_its_own_and_its_errors_come_back() -> None:
    with aside() as call:
        process = call(os.getpid)
        assert process != os.getpid()
        with pytest.raises(ConfigError, match=r"^monitor: no such cron line$"):
            call(refuse, ConfigError, "monitor: no such cron line")
        with pytest.raises(TransientError, match=r"^refuse: UnsendableError: 503: locked$"):
            call(refuse, UnsendableError, "503", "locked")
        assert call(os.getpid) == process
    assert is_gone(process)


def test_the_process_of_a_call_aside_that_is_killed_is_told() -> None:
    with aside() as call, pytest.raises(TransientError, match=r"^kill: its process was killed; try again$"):
        call(os.kill, call(os.getpid), signal.SIGKILL)


@pytest.mark.parametrize("after", [0.01, 0.05, 0.1, 0.2])
def test_ctrl_c_while_the_process_of_calls_aside_begins_is_for_its_owner(after: float) -> None:
    owner = """
import os, signal, time
from deployments.processes import aside
asked = []
signal.signal(signal.SIGINT, lambda *_: asked.append(1))
with aside() as call:
    print(flush=True)
    assert call(os.getpid) != os.getpid()
    while not asked:
        time.sleep(0.01)
    assert call(os.getpid) != os.getpid()
"""
    with subprocess.Popen(
        [sys.executable, "-c", owner], cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(after)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 0


def test_a_call_aside_writes_nothing_to_the_answer_and_ends_with_its_owner() -> None:
    owner = """
import os, time
from deployments.processes import aside
with aside() as call:
    call(os.write, 1, b"of a library")
    print(call(os.getpid), flush=True)
    call(time.sleep, 300)
"""
    with subprocess.Popen([sys.executable, "-c", owner], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        helper = int(process.stdout.readline())
        os.kill(helper, signal.SIGTERM)
        time.sleep(0.2)
        assert not is_gone(helper)
        process.kill()
    wait_until_gone(helper)
