"""Keeps the limits of a group of jobs from outside: ends the process they train in when they overrun."""

import contextlib
import threading
import time
from pathlib import Path

import psutil

from training_core.evaluation.diagnostics import OVER_MEMORY
from training_core.jobs.job import Job
from training_core.jobs.limits import Limits
from training_core.jobs.nursery import Process
from training_core.quantities import format_bytes

_WATCH_SECONDS = 0.2
_OWN_PAGES = ("RssAnon:", "RssShmem:")


class Watchdog(threading.Thread):
    """Ends a child at the deadline, or when those that train in it have taken more time or memory than they may."""

    def __init__(self, child: Process, limits: Limits) -> None:
        """Look after `child`, which trains nothing yet, once it is started."""
        super().__init__(daemon=True)
        self.ended: dict[str, str] = {}
        """Jobs the child was ended for, and why."""
        self.out_of_time = False
        """Whether it was ended at the deadline."""
        self._child, self._limits = child, limits
        self._current: dict[str, Job] = {}  # those that train now: one, or a stack
        self._together = 0  # how many began with the last of them; their time is for all, whoever has reported
        self._since = time.monotonic()
        self._over = threading.Event()
        self._lock = threading.Lock()

    def started(self, job: Job) -> None:
        """One more job trains."""
        with self._lock:
            self._current[job.name], self._since = job, time.monotonic()
            self._together = len(self._current)

    def settled(self, name: str) -> None:
        """A job has reported."""
        with self._lock:
            self._current.pop(name, None)

    def stop(self) -> None:
        """The child has ended."""
        self._over.set()

    def run(self) -> None:
        """Look at the child every now and then."""
        while not self._over.wait(min(_WATCH_SECONDS, max(0.0, self._limits.seconds_left))):
            with self._lock:  # a job that reports now is not blamed
                if self._limits.seconds_left <= 0:
                    self.out_of_time = True
                elif why := self._why_too_much():
                    self.ended = dict.fromkeys(self._current, why)
                else:
                    continue
                self._child.kill()
                return

    def _why_too_much(self) -> str:
        """What those that train now have taken too much of; empty when nothing."""
        each, most = self._limits.learner_seconds, self._limits.memory_bytes
        if each is not None and self._current and time.monotonic() - self._since > each * self._together:
            return f"took longer than its limit of {each:g} s"
        if most is not None and self._current and (taken := own_bytes(self._child.pid)) > most:
            return f"took {format_bytes(taken)} {OVER_MEMORY} {format_bytes(most)}"
        return ""


def own_bytes(pid: int) -> int:
    """Resident memory that a process has to itself; 0 when there is no such process.

    Pages of mapped files are not counted: the kernel takes them back when memory is needed. Those of files that are
    themselves in memory (tmpfs) are, and all of them where the kernel does not say which they are (it does on Linux).
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path(f"/proc/{pid}/status").read_text(encoding="latin-1").splitlines()
        if own := [int(line.split()[1]) * 1024 for line in lines if line.startswith(_OWN_PAGES)]:
            return sum(own)
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).memory_info().rss
    return 0
