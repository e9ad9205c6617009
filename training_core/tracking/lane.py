"""A tracker's own thread: its work is done there, in order, so that whoever records waits for nobody's server."""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any


class Piece:
    """A piece of work for a tracker."""

    def __init__(self, action: Callable[[], Any], patience_seconds: float, record: Any = None) -> None:
        """`record` is what the work is about, for whoever has to do it elsewhere; None when somebody waits for it."""
        self.record = record
        self.patience_seconds = patience_seconds
        self._action = action
        self._settled = threading.Event()
        self._began: float | None = None
        self._result: Any = None
        self._error: BaseException | None = None

    @property
    def overdue(self) -> bool:
        """Whether it began longer ago than its patience lasts, and has not ended."""
        began = self._began
        return not self._settled.is_set() and began is not None and time.monotonic() - began > self.patience_seconds

    def run(self) -> BaseException | None:
        """Do it; returns what it raised."""
        self._began = time.monotonic()
        try:
            self._result = self._action()
        except BaseException as error:  # whoever waits for it gets it, an interruption too
            self._error = error
        self._settled.set()
        return self._error

    def refuse(self, error: Exception) -> None:
        """Let whoever waits for it go on, with `error`."""
        self._error = error
        self._settled.set()

    def result(self) -> Any:
        """What came of it.

        Raises:
            TimeoutError: nothing did in `patience_seconds`.
            BaseException: whatever the work raised.
        """
        if not self._settled.wait(self.patience_seconds):
            raise TimeoutError(f"no answer in {self.patience_seconds:g} s")
        if self._error is not None:
            raise self._error
        return self._result


class Lane:
    """One piece of work after the other, in a thread that lives while there is some.

    The thread is a daemon: one that hangs in a call which never returns ends with the process.
    """

    MAX_WAITING = 10_000
    """Pieces that may wait; a tracker further behind than this does not keep up."""

    def __init__(self, on_failure: Callable[[BaseException], None]) -> None:
        """`on_failure` is told, in the lane's thread, of the error of a piece that nobody waits for."""
        self._on_failure = on_failure
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._waiting: deque[Piece] = deque()
        self._current: Piece | None = None
        self._works = False

    def put(self, piece: Piece) -> Piece:
        """Queue a piece."""
        with self._lock:
            self._waiting.append(piece)
            if not self._works:
                self._works = True
                threading.Thread(target=self._work, name="tracking", daemon=True).start()
        return piece

    def problem(self) -> Exception | None:
        """Why the lane is of no use: the piece at work hangs, or too many wait. None while it is."""
        with self._lock:
            if self._current is not None and self._current.overdue:
                return TimeoutError(f"no answer in {self._current.patience_seconds:g} s")
            if len(self._waiting) > self.MAX_WAITING:
                return TimeoutError(f"it is {self.MAX_WAITING} records behind")
        return None

    def rests(self, seconds: float = 1.0) -> bool:
        """Whether nothing is at work, now or `seconds` later."""
        with self._lock:
            return self._idle.wait_for(lambda: not self._works, seconds)

    def drain(self) -> Exception | None:
        """Wait until everything is done; returns the problem when that takes longer than the pieces' patience."""
        with self._lock:
            unfinished = [*([self._current] if self._current else []), *self._waiting]
            patience = max((piece.patience_seconds for piece in unfinished), default=0.0)
            done = self._idle.wait_for(lambda: not self._works, patience)
        return None if done else TimeoutError(f"no answer in {patience:g} s")

    def abandon(self, error: Exception) -> list[Any]:
        """Give up all that is not done; returns the records, in order. Whoever waits for a piece gets `error`."""
        with self._lock:
            pieces = [*([self._current] if self._current else []), *self._waiting]
            self._waiting.clear()
        for piece in pieces:
            if piece.record is None:
                piece.refuse(error)
        return [piece.record for piece in pieces if piece.record is not None]

    def _work(self) -> None:
        while True:
            with self._lock:
                self._current = None
                if not self._waiting:
                    self._works = False
                    self._idle.notify_all()
                    return
                piece = self._current = self._waiting.popleft()
            error = piece.run()
            if error is not None and piece.record is not None:
                self._on_failure(error)
