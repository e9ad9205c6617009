"""Running a model's application: a port, a log line per request, and an end that lets requests finish."""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from training_core.errors import ConfigError
from training_core.serving.app import make_app
from training_core.serving.config import ServingConfig
from training_core.serving.current import CurrentModel

_BACKLOG = 128


def run_server(current: CurrentModel, config: ServingConfig, ready: Callable[[str], None]) -> None:
    """Answer for `current` until SIGTERM or SIGINT; requests that are in by then are answered.

    Must be called in the main thread.

    Args:
        current: the model.
        config: where it answers, and its limits.
        ready: told the address once the port is open.

    Raises:
        ConfigError: the port is taken, the address is none of this machine, or the token is missing.
    """
    app = make_app(current, config)
    listener = _listen(config.host, config.port)
    host, port = listener.getsockname()[:2]
    settings = uvicorn.Config(
        app,
        http=prompt_protocol(config.timeout_seconds),
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        lifespan="on",
        proxy_headers=False,
        timeout_graceful_shutdown=int(config.timeout_seconds) + 1,
        limit_concurrency=8 * config.max_waiting,
    )
    for noisy in ("uvicorn", "uvicorn.error"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    server = uvicorn.Server(settings)

    def end(signum: int, frame: object) -> None:
        server.should_exit = True

    # For signals that come before uvicorn listens to them, and for the one that ended it, which it raises once more
    # when all is tidied up: that is not to end the process in another way.
    before = {one: signal.signal(one, end) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
        server.run([listener])
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
        listener.close()


def prompt_protocol(seconds: float) -> type[H11Protocol]:
    """HTTP/1.1 that closes a connection on which a request has begun, or should have, and its headers do not come.

    Uvicorn itself waits for them for ever, so that a few hundred silent connections would keep everybody else out.

    Args:
        seconds: from when the connection is made, or after an answer from the first byte that comes, until the headers
            of a request are complete.
    """

    class Prompt(H11Protocol):
        _headers_due: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            super().connection_made(transport)
            self._expect_headers()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is None or self.cycle.response_complete:
                self._expect_headers()
            else:
                self._stop_expecting()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_expecting()
            super().connection_lost(exc)

        def _expect_headers(self) -> None:
            if self._headers_due is None and not self.transport.is_closing():
                self._headers_due = self.loop.call_later(seconds, self.transport.close)

        def _stop_expecting(self) -> None:
            if self._headers_due is not None:
                self._headers_due.cancel()
                self._headers_due = None

    return Prompt


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family, backlog=_BACKLOG)  # pyright: ignore[reportArgumentType]
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; give another --port (0: any that is free), "
            "or another --host"
        ) from error
    # What is accepted inherits it. Without it the last packet of an answer waits for the other side's delayed
    # acknowledgement, 40 ms, on every connection that is kept; asyncio sees to it only for sockets it makes itself.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.set_inheritable(True)
    return listener
