"""A Prefect server that lives exactly as long as somebody on this machine uses it.

Every run holds a shared lock on `server.users` in the Prefect home. The server watches that lock: once nobody has
held it for a few seconds it shuts down. The kernel drops a killed run's lock, so no orphan server is ever left behind
to fight the next one over the SQLite file, and runs that overlap share one server.
"""

import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

from training_core.artifacts import exclusive, write_text_atomically
from training_core.errors import StorageError, TransientError

START_SECONDS = 180
"""A cold start migrates the database: 10-20 s on an idle machine, several times that on a busy one."""
_LINGER_PROBES = 3
_PROBE_SECONDS = 1.0


@contextmanager
def embedded_server(home: Path, while_starting: Callable[[], object] = lambda: None) -> Iterator[str]:
    """The API address of the server for `home`, started when none runs; kept up at least until the block ends.

    `while_starting` is called once, before the wait for the server begins.

    Raises:
        TransientError: the server did not come up in `START_SECONDS`; its log is named.
        StorageError: `home` cannot be written.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        users = (home / "server.users").open("a")
    except OSError as error:
        raise StorageError(f"cannot write {home}: {error.strerror}; choose another --store") from error
    with users:
        fcntl.flock(users, fcntl.LOCK_SH)
        while_starting()
        with exclusive(home / "server.start.lock"):
            url = _running(home, patience=5) or _start(home)
        yield url


def _running(home: Path, patience: int = 1) -> str | None:
    """The address of a server that answers; a busy one is asked up to `patience` times before it counts as gone."""
    for attempt in range(patience):
        if attempt:
            time.sleep(1)
        try:
            url = json.loads((home / "server.json").read_text())["url"]
            with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
                return url if answer.status == 200 else None
        except (FileNotFoundError, ValueError, KeyError, ConnectionRefusedError, HTTPException):
            return None  # none runs, or the port of a killed one is another program's by now
        except OSError as error:
            if isinstance(getattr(error, "reason", None), ConnectionRefusedError):
                return None
    return None


def _start(home: Path) -> str:
    (home / "server.json").unlink(missing_ok=True)
    log = home / "server.log"
    environment = {
        **os.environ,
        "PREFECT_HOME": str(home),
        "PREFECT_UI_ENABLED": "0",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # A recorder that writes often leaves little to wait for at the end. Prefect cuts the interval down to whole
        # seconds, and at 0 it never sleeps: half a second would cost a whole core.
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "200",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
        "PREFECT__SERVER_EPHEMERAL": "1",
        "PREFECT__SERVER_FINAL": "1",
    }
    environment.pop("PREFECT_API_URL", None)
    with log.open("w") as output:
        server = subprocess.Popen(
            [sys.executable, "-P", "-m", "flows.embedded_server", str(home)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        if url := _running(home):
            return url
        time.sleep(0.1)
    server.kill()
    raise TransientError(f"the embedded Prefect server did not start within {START_SECONDS} s; see {log}")


def _serve(home: Path) -> None:
    """Run the server in this process until nobody uses it."""
    import uvicorn
    from prefect.server.api.server import create_app

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
    server = uvicorn.Server(uvicorn.Config(create_app(), log_level="error", lifespan="on"))

    def stop_when_unused() -> None:
        with (home / "server.users").open("a") as users:
            unused = 0
            while unused < _LINGER_PROBES:
                time.sleep(_PROBE_SECONDS)
                try:
                    fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    unused = 0
                    continue
                unused += 1
                if unused < _LINGER_PROBES:
                    fcntl.flock(users, fcntl.LOCK_UN)
            # The lock stays taken while the server shuts down: a run that starts now waits, then starts a new one.
            (home / "server.json").unlink(missing_ok=True)
            server.should_exit = True
            stopped.wait()

    stopped = threading.Event()
    watcher = threading.Thread(target=stop_when_unused, daemon=True)
    watcher.start()
    write_text_atomically(home / "server.json", json.dumps({"url": url, "pid": os.getpid()}))
    server.run(sockets=[listener])
    stopped.set()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
