"""A Prefect server that lives exactly as long as somebody on this machine uses it.

Every run holds a shared lock on `server.users` in the Prefect home. The server watches that lock: once nobody has
held it for a few seconds it shuts down. The kernel drops a killed run's lock, so no orphan server is ever left behind
to fight the next one over the SQLite file, and runs that overlap share one server.
"""

import fcntl
import json
import os
import secrets
import socket
import stat
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from flows.server_database import lay_out_database, migrate_and_keep, take_turns
from training_core.artifacts import exclusive, private_folder, storage_errors, write_text_atomically
from training_core.errors import ConfigError, StorageError, TransientError

START_SECONDS = 180
"""The first start on a machine migrates a database: 10-20 s when it is idle, several times that when it is busy."""
RECORDER_SETTINGS: Mapping[str, str] = {
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
}
"""A recorder that writes often leaves little to wait for at the end. Prefect cuts the interval down to whole seconds,
and at 0 it never sleeps: half a second would cost a whole core."""
_LINGER_PROBES = 3
_LEAVING_SECONDS = 15
"""An embedded server whose last user has just left is gone by then."""
_PROBE_SECONDS = 1.0
_LOGIN = "login"
_HOST = "127.0.0.1"


@contextmanager
def embedded_server(home: Path, while_starting: Callable[[], object] = lambda: None) -> Iterator[str]:
    """The API address of the server for `home`, started when none runs; kept up at least until the block ends.

    `while_starting` is called once, before the wait for the server begins.

    Raises:
        TransientError: the server did not come up in `START_SECONDS`; its log is named.
        StorageError: `home` cannot be written.
    """
    private_folder(home.parent)
    try:
        home.mkdir(exist_ok=True)
        users = (home / "server.users").open("a")
    except OSError as error:
        raise StorageError(f"cannot write {home}: {error.strerror}; choose another --store") from error
    with users:
        fcntl.flock(users, fcntl.LOCK_SH)
        while_starting()
        with exclusive(home / "server.start.lock"):
            url = _running(home, patience=5) or _start(home)
        yield url


def keep_login(home: Path) -> str:
    """The `user:password` that the server of `home` is to ask for; to be called by whoever starts it.

    It is `PREFECT_SERVER_API_AUTH_STRING`, else what it asked for before, else a new one: without, every user of the
    machine could start runs, and with them commands. Only those can read it who can write to `home`.

    Raises:
        StorageError: `home` cannot be written.
    """
    known = login_of(home)
    login = os.environ.get("PREFECT_SERVER_API_AUTH_STRING") or known or f"polychoir:{secrets.token_urlsafe(18)}"
    if login != known:
        unfinished = home / f".{_LOGIN}.{os.getpid()}"
        with storage_errors(home):
            unfinished.unlink(missing_ok=True)
            unfinished.touch(mode=0o600)
            unfinished.write_text(login)
            if home.stat().st_mode & stat.S_IWGRP:
                unfinished.chmod(0o660)
            unfinished.replace(home / _LOGIN)
    return login


def login_of(home: Path) -> str:
    """The `user:password` that the server of `home` asks for; empty where it asks for none.

    Raises:
        StorageError: it is somebody else's.
    """
    with storage_errors(home / _LOGIN), suppress(FileNotFoundError):
        return (home / _LOGIN).read_text()
    return ""


def open_directly(request: str | urllib.request.Request, seconds: float) -> HTTPResponse:
    """Ask a server of this machine, past the proxy that the environment may name for the rest of the world."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=seconds)


def past_proxies() -> dict[str, str]:
    """Variables that lead every client past the proxy to servers of this machine; none where no proxy is named.

    Without them Prefect's own client would ask the proxy, which knows another machine by that address.
    """
    named = urllib.request.getproxies_environment()
    known = named.get("no", "").strip()
    if not named or known == "*":
        return {}
    return dict.fromkeys(("no_proxy", "NO_PROXY"), ",".join([*filter(None, [known]), _HOST, "localhost"]))


@contextmanager
def in_place_of_embedded_server(home: Path) -> Iterator[Callable[[str], None]]:
    """Within the block no embedded server of `home` runs nor is started; a lasting one may be started in its place.

    Gives a function to call with the API address of the lasting one: runs find it there as they would an embedded one.

    Raises:
        ConfigError: a run that is going on has an embedded server.
    """
    for attempt in range(_LEAVING_SECONDS):
        if attempt:
            time.sleep(1)
        with exclusive(home / "server.start.lock"):
            if _running(home) is None:
                yield lambda url: write_text_atomically(home / "server.json", json.dumps({"url": url}))
                return
    raise ConfigError(f"a run that is going on has a Prefect server of its own in {home}; wait until it is over")


def _running(home: Path, patience: int = 1) -> str | None:
    """The address of a server that answers; a busy one is asked up to `patience` times before it counts as gone."""
    for attempt in range(patience):
        if attempt:
            time.sleep(1)
        try:
            url = json.loads((home / "server.json").read_text())["url"]
            with open_directly(f"{url}/health", 5) as answer:
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
        "PREFECT_SERVER_API_AUTH_STRING": keep_login(home),
        "PREFECT_UI_ENABLED": "0",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        **RECORDER_SETTINGS,
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

    take_turns()
    if lay_out_database(home):
        migrate_and_keep(home)
    listener = socket.socket()
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # asyncio does it only for sockets of its own
    listener.bind((_HOST, 0))
    url = f"http://{_HOST}:{listener.getsockname()[1]}/api"
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
