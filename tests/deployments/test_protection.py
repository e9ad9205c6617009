"""A server that others can reach is asked whether it is protected before anything is put on it."""

import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from deployments.environments import Environment, check_protection
from training_core.errors import ConfigError, TransientError

LOGIN = "team:a-long-password"


@contextmanager
def server(login: str | None, csrf: bool) -> Iterator[str]:
    """Answers as a Prefect server does, with or without a password and CSRF tokens."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(200)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(403 if csrf and "Prefect-Csrf-Token" not in self.headers else 200)

        def answer(self, status: int) -> None:
            expected = None if login is None else "Basic " + base64.b64encode(login.encode()).decode()
            allowed = expected is None or self.headers.get("Authorization") == expected
            self.send_response(status if allowed or status == 403 else 401)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    listening = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}/api"
    finally:
        listening.shutdown()
        listening.server_close()


def check(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", url)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", LOGIN)
    check_protection(Environment.named("team"))


def test_a_server_with_both_is_deployed_to(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(LOGIN, csrf=True) as url:
        check(url, monkeypatch)


@pytest.mark.parametrize(
    ("login", "csrf", "said"),
    [
        (None, False, "without a password"),
        (None, True, "without a password"),
        (LOGIN, False, "asks for no CSRF token"),
        ("team:another-password", True, "does not know this password"),
    ],
)
def test_an_open_server_is_refused(login: str | None, csrf: bool, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with server(login, csrf) as url, pytest.raises(ConfigError, match=said):
        check(url, monkeypatch)


def test_a_server_that_is_not_there_is_another_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TransientError, match="does not answer"):
        check("http://127.0.0.1:9/api", monkeypatch)
