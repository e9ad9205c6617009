"""Who asks and tells in a study, and whether they still do: how trials of a killed process are recognised."""

import contextlib
import platform
import threading
import time
import uuid
from collections.abc import Callable, Mapping

from training_core.config import Config
from training_core.tracking.processes import HOST, is_abandoned, process_tags

PREFIX = "owner/"
_BEATS_PER_GRACE = 4


class Owner(Config):
    """A process that runs trials of a study."""

    id: str
    process: Mapping[str, str]
    """See `tracking.processes.process_tags`."""
    beat: float
    """When it last said that it is there, in seconds since the epoch by its own clock."""
    gone: bool = False
    """It has let go of the study."""

    @classmethod
    def here(cls) -> "Owner":
        """This process, as an owner of its own."""
        return cls(id=uuid.uuid4().hex[:12], process=process_tags(), beat=time.time())

    def is_dead(self, grace_seconds: float) -> bool:
        """Whether its trials may be taken over.

        On this machine that is known at once: its process has ended. Another machine's is dead when it was silent for
        longer than the grace period.
        """
        if self.gone or is_abandoned(self.process):
            return True
        return self.process.get(HOST) != platform.node() and time.time() - self.beat > grace_seconds


def owners_in(attributes: Mapping[str, object]) -> dict[str, Owner]:
    """The owners that are noted in a study's attributes, by id; what does not read as one is nobody."""
    found: dict[str, Owner] = {}
    for key, value in attributes.items():
        if key.startswith(PREFIX) and isinstance(value, Mapping):
            with contextlib.suppress(ValueError):
                owner = Owner.model_validate(value)
                found[owner.id] = owner
    return found


class Heartbeat:
    """Says every now and then that an owner is there, from a thread of its own, until it is stopped."""

    def __init__(self, owner: Owner, grace_seconds: float, note: Callable[[Owner], None]) -> None:
        """Call `note` four times per grace period with the owner as of now; the first and the last time at once."""
        self._owner, self._note, self._pause = owner, note, grace_seconds / _BEATS_PER_GRACE
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="study heartbeat", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._note(self._owner)
        self._thread.start()

    def stop(self) -> None:
        """Note that the owner has let go."""
        self._over.set()
        self._thread.join()
        self._note(self._owner.model_copy(update={"beat": time.time(), "gone": True}))

    def _run(self) -> None:
        while not self._over.wait(self._pause):
            with contextlib.suppress(Exception):  # a storage that is away for a moment; the next beat tells
                self._note(self._owner.model_copy(update={"beat": time.time()}))
