"""Processes that end with the one that started them, however it ends."""

import contextlib
import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_AT_IMPORT = os.getpid(), os.getppid()


def end_with_parent(parent: int | None = None) -> None:
    """Ask the kernel to kill this process when its parent ends (Linux only); end at once where it has ended before.

    Args:
        parent: the number of the process that started this one, as that said it. By default the one that was the
            parent when this module was imported; it is best imported early, since an end before that goes unnoticed.
    """
    if parent is None:
        process, began_under = _AT_IMPORT
        parent = began_under if process == os.getpid() else os.getppid()  # else this is a copy of the importing process
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the kernel was asked
            with contextlib.suppress(OSError):
                os.write(2, b"the process that started this one has ended, so this one ends, too\n")
            os._exit(1)
