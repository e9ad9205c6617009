"""Connections of a served model: prompt answers, and none that is held open for nothing."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn

from training_core.serving.server import _listen, prompt_protocol

SECONDS = 1.0
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def answer_slowly(scope, receive, send) -> None:
    await asyncio.sleep(2 * SECONDS)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def address() -> Iterator[tuple[str, int]]:
    """A server whose answers take longer than headers may."""
    protocol = prompt_protocol(SECONDS)
    server = uvicorn.Server(uvicorn.Config(answer_slowly, http=protocol, lifespan="off", log_config=None))
    listener = _listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    yield listener.getsockname()[:2]
    server.should_exit = True
    thread.join(30)


def answered(connection: socket.socket) -> bool:
    connection.sendall(REQUEST)
    found = b""
    while not found.endswith(b"ok"):
        received = connection.recv(1000)
        assert received, "closed before it answered"
        found += received
    return found.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nHost: local"])
def test_a_connection_whose_headers_do_not_come_is_closed(address: tuple[str, int], begun: bytes):
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(begun)
        assert connection.recv(100) == b""


def test_headers_a_byte_at_a_time_buy_no_time(address: tuple[str, int]):
    with socket.create_connection(address, timeout=30) as connection:
        deadline = time.monotonic() + 30
        with pytest.raises(OSError):
            while time.monotonic() < deadline:
                connection.sendall(b"X")
                time.sleep(SECONDS / 10)


def test_an_answer_takes_its_time_and_the_connection_is_kept_for_the_next(address: tuple[str, int]):
    with socket.create_connection(address, timeout=30) as connection:
        assert answered(connection) and answered(connection)
        connection.sendall(REQUEST[:20])
        assert connection.recv(100) == b""


def test_small_packets_do_not_wait_for_others():
    with _listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
