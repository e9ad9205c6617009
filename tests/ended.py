"""Waiting for processes of others to end, shared by tests that end them."""

import time

import psutil


def is_gone(pid: int) -> bool:
    """Whether a process has ended, be it that nobody has asked how yet: in some containers nobody asks for orphans."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_until_gone(*pids: int, seconds: float = 60.0) -> None:
    """Return when all of them have ended; fail when they have not for so long."""
    until = time.monotonic() + seconds
    while left := [pid for pid in pids if not is_gone(pid)]:
        assert time.monotonic() < until, f"still there: {left}"
        time.sleep(0.05)
