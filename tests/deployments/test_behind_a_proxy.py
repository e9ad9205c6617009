"""Behind a proxy for the rest of the world, the servers that a store brings along are reached all the same."""

import os
import subprocess
import sys
import textwrap
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from deployments.up import Addresses, _answers, settings
from flows.embedded_server import past_proxies

ROOT = Path(__file__).parents[2]
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture
def no_proxy_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def dead_proxy(no_proxy_named: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that takes nothing to this machine, nor anywhere else."""
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")


def test_without_a_proxy_the_environment_stays_as_it_is(no_proxy_named: None) -> None:
    assert past_proxies() == {}


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ("", "127.0.0.1,localhost"),
        ("example.org, .lan", "example.org, .lan,127.0.0.1,localhost"),
        ("*", None),
    ],
)
def test_what_was_reached_directly_still_is(
    dead_proxy: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, known: str, expected: str | None
) -> None:
    monkeypatch.setenv("NO_PROXY", known)
    assert past_proxies() == ({} if expected is None else dict.fromkeys(("no_proxy", "NO_PROXY"), expected))
    addresses = Addresses(prefect="http://127.0.0.1:1", login="l", mlflow="http://127.0.0.1:2", pid=1)
    assert settings(tmp_path, addresses, "me:password")["NO_PROXY"] == (expected or "*")


def test_a_server_that_was_brought_up_is_not_taken_for_dead(dead_proxy: None) -> None:
    class Well(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Well) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert _answers(f"http://127.0.0.1:{server.server_port}/health")
        server.shutdown()


@pytest.mark.slow
def test_a_flow_runs_on_an_embedded_server_which_hears_of_its_tasks(dead_proxy: None, tmp_path: Path) -> None:
    code = f"""
        from pathlib import Path
        from flows.runtime import drain, prefect_at
        with prefect_at(Path({str(tmp_path / "store")!r})):
            from prefect import flow, get_client, task
            @task
            def double(number): return 2 * number
            @flow
            def doubled(): return double(21)
            state = doubled(return_state=True)
            drain(state.state_details.flow_run_id)
            with get_client(sync_client=True) as client:
                (run,) = client.read_task_runs()
            print(state.result(), run.state.type.value)
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert ended.stdout.split() == ["42", "COMPLETED"], ended.stderr
