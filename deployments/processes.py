"""Programs that must end with whoever started them, and take all they started with them, however that comes to pass.

Everything started here carries a mark in its environment, which its descendants inherit, whatever process group or
parent they have by then. A guardian process holds the reading end of a pipe; when the other end closes, because its
owner stopped or was killed, it ends every process that carries the mark.
"""

import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import psutil

from training_core.errors import PolychoirError, TransientError
from training_core.parenthood import end_with_parent

MARK = "POLYCHOIR_UP"
"""The environment variable that says to which owner a process belongs."""
PATIENCE_SECONDS = 5.0
"""How long processes that were asked to end may take before they are killed."""
LOG_BYTES = 64 << 20
"""A log that has grown beyond this is put aside, and the one put aside before it is dropped."""
_POLL_SECONDS = 0.1
_REACH_BOTH = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals of a terminal, which reach a process and what it started; the one that started the other decides."""


class Child:
    """A program that is kept running: started anew when it ends, after a while that doubles each time.

    Args:
        name: what people call it; its log is `<name>.log`.
        command: program and arguments.
        environment: all of its environment variables.
        folder: its working directory, and that of its log.
        clock: seconds that only go forward.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.starts = 0
        self._command = list(command)
        self._environment = dict(environment)
        self._folder = folder
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._failures = 0
        self._again_at: float | None = None

    def start(self) -> None:
        """Start it; what it prints goes to the end of its log."""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # a Ctrl-C in the terminal is for the owner alone
            )
        self._started, self._again_at = self._clock(), None
        self.starts += 1

    @property
    def pid(self) -> int | None:
        """Its process, when it runs."""
        return self._process.pid if self.exit_status is None and self._process else None

    @property
    def exit_status(self) -> int | None:
        """What it ended with; negative for a signal. None while it runs."""
        return self._process.poll() if self._process else None

    def keep_up(self) -> str | None:
        """Start it again when it has ended and its pause is over; what there is to say about it, if anything.

        The pause is 1 s after the first end and doubles up to a minute; a program that ran for a minute has shown that
        it can, and begins again at 1 s.
        """
        if (status := self.exit_status) is None:
            with contextlib.suppress(OSError):
                rotate(self.log)
            return None
        if self._again_at is None:
            self._failures = 1 if self._clock() - self._started > 60 else self._failures + 1
            pause = min(60.0, 2.0 ** (self._failures - 1))
            self._again_at = self._clock() + pause
            return f"{self.name} ended ({_described(status)}); started again in {pause:g} s, see {self.log}"
        if self._clock() >= self._again_at:
            self.start()
        return None

    def end(self, patience: float = PATIENCE_SECONDS) -> None:
        """Ask it to end, and wait for that as long as `patience`; its descendants are `end_marked`'s business."""
        if self._process is None:
            return
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(patience)


def end_in_turn(children: Sequence[Child], patience: float = PATIENCE_SECONDS) -> None:
    """Ask programs to end, the last first; one waits for the next as long as `patience` seconds for all of them last.

    Those behind one that takes all of it are asked at once; what is left then is the guardian's business.
    """
    deadline = time.monotonic() + patience
    for child in reversed(children):
        child.end(max(0.0, deadline - time.monotonic()))


def rotate(log: Path) -> None:
    """Put a log that has grown large aside as `<name>.log.1`; who appends to it goes on in the emptied one."""
    if log.stat().st_size > LOG_BYTES:
        shutil.copyfile(log, log.with_name(f"{log.name}.1"))
        os.truncate(log, 0)


@contextlib.contextmanager
def aside() -> Iterator[Callable[..., Any]]:
    """Make calls in a process of their own, which is gone after the block with all that they imported.

    One that keeps watch for months would hold hundreds of megabytes for what it does once. (Python's own keeper of
    shared resources, a dozen megabytes, stays.)

    Raises:
        TransientError: what a call raises, unless it is an error of Polychoir; or its process was killed.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, _begin_aside, (os.getpid(),)) as process:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _REACH_BOTH)
        try:
            process.submit(os.getpid)  # starts the process, in which they stay blocked until it ignores them
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

        def made(call: Callable[..., Any], *arguments: Any) -> Any:
            try:
                return process.submit(_sent_back, call, *arguments).result()
            except BrokenProcessPool as error:
                raise TransientError(f"{_named(call)}: its process was killed; try again") from error

        yield made


def _begin_aside(parent: int) -> None:
    for number in _REACH_BOTH:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _REACH_BOTH)
    os.dup2(2, 1)  # standard output is for the answer of the one that started it
    end_with_parent(parent)


def _sent_back(call: Callable[..., Any], *arguments: Any) -> Any:
    """What a call gives, or raises in a form that goes from process to process."""
    try:
        return call(*arguments)
    except PolychoirError:
        raise
    except Exception as error:
        raise TransientError(f"{_named(call)}: {type(error).__name__}: {error}") from error


def _named(call: Callable[..., Any]) -> str:
    return call.__name__.strip("_").replace("_", " ")


@contextlib.contextmanager
def guarded(mark: str) -> Iterator[None]:
    """From the end of the block on, or of this process, no process with the mark is left; seconds later at most."""
    reading, writing = os.pipe()
    try:
        guardian = subprocess.Popen(
            [sys.executable, "-P", "-m", "deployments.processes", mark],
            stdin=reading,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    finally:
        os.close(reading)
    try:
        yield
    finally:
        os.close(writing)
        with contextlib.suppress(subprocess.TimeoutExpired):
            guardian.wait(2 * PATIENCE_SECONDS)


def marked(mark: str) -> list[psutil.Process]:
    """The living processes of this user that carry the mark, this one left out."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            is_marked = process.pid != os.getpid() and process.environ().get(MARK) == mark
            if is_marked and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def end_marked(mark: str, patience: float = PATIENCE_SECONDS) -> None:
    """Ask every process with the mark to end, and kill what is left after `patience` seconds."""
    deadline = time.monotonic() + patience
    for process in marked(mark):
        with contextlib.suppress(psutil.Error):
            process.terminate()
    while (left := marked(mark)) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    while left:  # one that is being killed may have started another
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(_POLL_SECONDS)
        left = marked(mark)


def _described(status: int) -> str:
    return f"exit code {status}" if status >= 0 else signal.Signals(-status).name


def _guard(mark: str) -> None:
    """Wait until nobody holds the other end of standard input, then leave nothing behind."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    end_marked(mark)


if __name__ == "__main__":
    _guard(sys.argv[1])
