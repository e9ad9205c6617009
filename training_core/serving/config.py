"""How a model is served: where, how much it takes at once, and who may ask."""

import ipaddress
import os
from typing import Annotated, Self

from annotated_types import Ge, Le
from pydantic import model_validator

from training_core.config import Config
from training_core.errors import ConfigError
from training_core.quantities import PositiveFloat, PositiveInt

MIN_TOKEN_LETTERS = 16
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
Port = Annotated[int, Ge(0), Le(65535)]


class ServingConfig(Config):
    """Where a model answers, and its limits."""

    host: str = "127.0.0.1"
    """Address to listen on. Anything but this machine's own (127.0.0.1, ::1, localhost) needs a token."""
    port: Port = 8770
    """0: any that is free."""
    max_rows: PositiveInt = 1024
    """Rows in one request; more are refused with 413."""
    max_bytes: PositiveInt = 16_000_000
    """Length of the body of one request; more is refused with 413 before it is read to its end."""
    timeout_seconds: PositiveFloat = 30.0
    """For the headers of a request, from its first byte; a connection on which they take longer is closed. Once more
    from there to its answer; then 408 (the body is still being sent) or 503 (it is still being answered)."""
    workers: PositiveInt = 1
    """Requests answered at the same time, each in a thread of its own."""
    max_waiting: PositiveInt = 32
    """Requests taken in at the same time, those that wait included; one more is refused with 503 at once. Times
    `max_bytes`, this bounds the memory for bodies."""
    allowed_hosts: tuple[str, ...] = ()
    """Further names in a Host header that are answered, without port; `*`: every name. By default those of this
    machine and `host`: a page in somebody's browser cannot reach the model by a name of its own."""
    token_env: str = ""
    """Environment variable that holds the token which requests must bring (`Authorization: Bearer …`); empty: none."""
    check_seconds: PositiveFloat = 10.0
    """How often it is looked up what the model's name stands for now."""

    @model_validator(mode="after")
    def _is_guarded(self) -> Self:
        if not self.token_env and not is_loopback(self.host):
            raise ValueError(
                f"anyone who reaches '{self.host}' could ask; name the environment variable of a token in `token_env`, "
                "or listen on 127.0.0.1"
            )
        return self

    @property
    def hosts(self) -> frozenset[str]:
        """Names in a Host header that are answered, in lower case; `*` among them: every name."""
        own = () if self.host in {"0.0.0.0", "::"} else (f"[{self.host}]" if ":" in self.host else self.host,)
        return frozenset(name.lower() for name in (*LOOPBACK_NAMES, *own, *self.allowed_hosts))

    def token(self) -> str | None:
        """The token that requests must bring, from the environment; None: none.

        Raises:
            ConfigError: the variable is not set, or its value is so short that it could be guessed.
        """
        if not self.token_env:
            return None
        token = os.environ.get(self.token_env, "").strip()
        if len(token) < MIN_TOKEN_LETTERS or not token.isascii():
            state = "too short" if token.isascii() and token else "not set" if not token else "not ASCII"
            raise ConfigError(
                f"the token in the environment variable {self.token_env} is {state}; expected {MIN_TOKEN_LETTERS} "
                "letters or more, such as `openssl rand -hex 32` prints"
            )
        return token


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
