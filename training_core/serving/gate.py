"""What every request passes before anything looks at it: its Host, its token; then it is counted and logged."""

import hmac
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from training_core.serving.config import ServingConfig
from training_core.serving.meters import Meters

LOGGER = logging.getLogger(__name__)
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
PATHS = ("/", "/predict", "/health", "/schema", "/docs", "/openapi.json", "/metrics")
AUTHORISED = "polychoir.authorised"
"""Key of a request's scope: whether it brought the token, or none is asked for."""
ROWS = "polychoir.rows"
"""Key of a request's scope: how many rows were answered."""
_OPEN_PATHS = ("/health",)
_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
)


class Gate:
    """Lets requests through to `app`, or answers them itself: 400 for a strange Host, 401 without the token.

    One line per request goes to the log: method, path, status, rows and milliseconds, and nothing of what was sent.
    """

    def __init__(self, app: App, config: ServingConfig, meters: Meters) -> None:
        """Take the token from the environment.

        Raises:
            ConfigError: it is not there.
        """
        self._app, self._meters = app, meters
        self._hosts, self._token = config.hosts, config.token()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; see the class."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, answered = time.monotonic(), 500, False

        async def send_on(message: MutableMapping[str, Any]) -> None:
            nonlocal status, answered
            if message["type"] == "http.response.start":
                status, answered = message["status"], True
                message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
            await send(message)

        try:
            if refusal := self._refusal(scope):
                await _refuse(send_on, *refusal)
            else:
                await self._app(scope, receive, send_on)
        except Exception:
            LOGGER.exception("a request was not answered")
            if not answered:
                await _refuse(send_on, 500, "this is a bug in the server; its log has more")
        finally:
            path = scope["path"] if scope["path"] in PATHS else "other"
            self._meters.count_request(path, status)
            milliseconds = 1e3 * (time.monotonic() - began)
            method = scope["method"] if scope["method"] in {"GET", "POST", "HEAD"} else "other"
            LOGGER.info("%s %s %d %d rows %.1f ms", method, path, status, scope.get(ROWS, 0), milliseconds)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = _name_of(headers.get(b"host", ""))
        if "*" not in self._hosts and host not in self._hosts:
            return 400, f"requests for the host '{host[:80]}' are not answered here; allow it with --allow-host"
        scheme, _, given = headers.get(b"authorization", "").partition(" ")
        scope[AUTHORISED] = self._token is None or (
            scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._token.encode())
        )
        if not scope[AUTHORISED] and scope["path"] not in _OPEN_PATHS:
            return 401, "this model answers those who bring its token: Authorization: Bearer …"
        return None


def error_body(message: str) -> bytes:
    """A refusal as it is sent."""
    return json.dumps({"error": message}).encode()


async def _refuse(send: Send, status: int, message: str) -> None:
    body = error_body(message)
    headers: Mapping[bytes, bytes] = {
        b"content-type": b"application/json",
        b"content-length": str(len(body)).encode(),
        **({b"www-authenticate": b"Bearer"} if status == 401 else {}),
        b"connection": b"close",
    }
    await send({"type": "http.response.start", "status": status, "headers": list(headers.items())})
    await send({"type": "http.response.body", "body": body})


def _name_of(host: str) -> str:
    """The name in a Host header, in lower case and without its port."""
    name = host.strip().lower()
    if name.startswith("["):
        return name.partition("]")[0] + "]"
    return name.partition(":")[0].rstrip(".")
