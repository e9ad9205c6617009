"""What happens to learners while they train, told to whoever listens in this process (the command line's live view)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from training_core.jobs import Event

_LISTENERS: list[Callable[[Event], None]] = []


@contextmanager
def listening(listener: Callable[[Event], None]) -> Iterator[None]:
    """Within the block `listener` is called with every event, from whichever thread it happens in."""
    _LISTENERS.append(listener)
    try:
        yield
    finally:
        _LISTENERS.remove(listener)


def stage(text: str) -> None:
    """Tell every listener what the run is doing now."""
    announce({"event": "stage", "text": text})


def announce(event: Event) -> None:
    """Tell every listener."""
    for listener in _LISTENERS:
        listener(event)
