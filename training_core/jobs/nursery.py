"""Processes forked from one that has loaded its libraries: seconds of imports are paid once, not by every process.

The nursery loads what its children need, starts no thread, and forks a child whenever its owner asks for one over a
socket. Its children end with it, and it ends with its owner, or when it has had nothing to do for a while.
"""

import contextlib
import ctypes
import gc
import importlib
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import IO, NoReturn, Protocol

from training_core.errors import DeadlineError, TransientError
from training_core.parenthood import end_with_parent

_IDLE_SECONDS = 60.0
_POLL_SECONDS = 1.0
_REPLY_SECONDS = 60.0
_MAX_MESSAGE = 256
_NAME_BYTES = 15  # what the kernel keeps of a process's name
_STDERR_TAIL = 2000
_PR_SET_NAME = 15


class Process(Protocol):
    """What a parent needs of a child that reads lines and writes lines; a `subprocess.Popen[str]` is one."""

    stdin: IO[str] | None
    stdout: IO[str] | None

    @property
    def pid(self) -> int:
        """Its number."""
        ...

    def kill(self) -> None:
        """End it at once; nothing happens when it has ended."""
        ...

    def wait(self) -> int:
        """Its exit code once it has ended; the negative number of the signal that ended it."""
        ...


class Forked:
    """A child of a nursery, as its owner sees it: a `Process`."""

    def __init__(self, pid: int, pidfd: int, stdin: IO[str], stdout: IO[str], ended: int) -> None:
        """`pidfd`: a handle of the process; `ended`: a pipe from which its exit code can be read once it has one."""
        self.pid = pid
        self.stdin: IO[str] | None = stdin
        self.stdout: IO[str] | None = stdout
        self._pidfd, self._ended = pidfd, ended
        self._code: int | None = None
        self._handles = threading.Lock()
        self._waiting = threading.Lock()

    def kill(self) -> None:
        """End it at once; nothing happens when it has ended."""
        with self._handles, contextlib.suppress(ProcessLookupError):
            if self._code is None:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def wait(self) -> int:
        """Its exit code once it has ended; that of SIGKILL when the nursery was ended, and it with it."""
        with self._waiting:
            if self._code is None:
                with os.fdopen(self._ended, "rb") as pipe:
                    said = pipe.read()
                with self._handles:
                    self._code = int(said or -signal.SIGKILL)
                    os.close(self._pidfd)
            return self._code


class Nursery:
    """The owner's side: one process, begun when it is needed, that forks children on demand. Threads may share it."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """`command` calls `tend` on the socket that its last argument numbers; `environment` is added to ours."""
        self._command, self._environment = command, environment
        self._forget()
        os.register_at_fork(after_in_child=self._forget)

    def open(self) -> None:
        """Begin to load libraries, and return at once."""
        with self._lock:
            self._begin()

    def fork(self, name: str, stderr: IO[str], seconds: float) -> Forked:
        """A child, called `name` in the list of processes, whose errors go to `stderr`.

        Raises:
            DeadlineError: the libraries were not loaded within so many seconds.
            TransientError: the nursery died; the next call begins another.
        """
        until = time.monotonic() + min(seconds, threading.TIMEOUT_MAX)
        if not self._lock.acquire(timeout=until - time.monotonic()):
            raise DeadlineError("other processes are still waiting for their libraries")
        try:
            self._begin()
            self._wait_until_ready(until)
            with contextlib.suppress(ConnectionError):
                return self._ask(name, stderr)
            self._end()  # it had been idle for long, and ended just then
            self._begin()
            self._wait_until_ready(until)
            try:
                return self._ask(name, stderr)
            except ConnectionError:
                raise TransientError("the process that learners' processes are forked from died twice") from None
        finally:
            self._lock.release()

    def _forget(self) -> None:
        """Have no process, at first and in a copy of the owner that was forked."""
        self._lock = threading.Lock()
        self._leave()

    def _leave(self) -> None:
        """Have no process any more."""
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._errors: IO[str] | None = None
        self._is_ready = False

    def _begin(self) -> None:
        """Start the process, unless it is there."""
        if self._process is not None and self._process.poll() is None:
            return
        self._end()
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  (`_end` closes it)
        with theirs:
            self._process = subprocess.Popen(
                [*self._command, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=self._errors,
                stderr=self._errors,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **self._environment},
            )
        threading.Thread(target=self._process.wait, daemon=True).start()  # or it stays a zombie when it ends by itself

    def _end(self) -> None:
        """Close what is there; the process and its children end."""
        if self._process is not None and self._channel is not None and self._errors is not None:
            self._channel.close()
            self._process.kill()
            self._process.wait()
            self._errors.close()
        self._leave()

    def _wait_until_ready(self, until: float) -> None:
        """Wait until the libraries are loaded.

        Raises:
            DeadlineError: they are not, and it is too late.
            TransientError: the process died while it loaded them.
        """
        assert self._channel and self._errors
        if self._is_ready:
            return
        self._channel.settimeout(max(until - time.monotonic(), 0.001))
        try:
            self._is_ready = bool(self._channel.recv(_MAX_MESSAGE))
        except TimeoutError:
            raise DeadlineError("the libraries of learners were not loaded before the time was over") from None
        except ConnectionError:
            self._is_ready = False
        if not self._is_ready:
            self._errors.seek(0)
            said = self._errors.read()[-_STDERR_TAIL:].strip()
            self._end()
            raise TransientError(f"the process that loads learners' libraries died; its last words: {said}")

    def _ask(self, name: str, stderr: IO[str]) -> Forked:
        """Have a child forked.

        Raises:
            ConnectionError: the process has ended.
        """
        assert self._channel
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            (stdin, writes), (reads, stdout), (listens, ended) = os.pipe(), os.pipe(), os.pipe()
            for end in (stdin, stdout, ended):
                theirs.callback(os.close, end)
            for end in (writes, reads, listens):
                ours.callback(os.close, end)
            self._channel.settimeout(_REPLY_SECONDS)
            message = name.encode()[:_NAME_BYTES] or b"?"
            try:
                socket.send_fds(self._channel, [message], [stdin, stdout, stderr.fileno(), ended])
                said, handles, _, _ = socket.recv_fds(self._channel, _MAX_MESSAGE, 1)
            except TimeoutError:
                raise ConnectionError("it does not answer") from None
            if not said:
                raise ConnectionError("it has ended")
            ours.pop_all()
            return Forked(int(said), handles[0], os.fdopen(writes, "w"), os.fdopen(reads), listens)


def tend(channel: socket.socket, work: Callable[[], int], libraries: Sequence[str] = ()) -> int:
    """The nursery's side: fork a child per message of the owner, until it is gone or has long had no use for one.

    Args:
        channel: from the owner; a message is the child's name, with its standard input, output and error output, and
            a pipe for its exit code.
        work: what a child does, with those in place; gives its exit code.
        libraries: modules that are loaded while nobody waits for a child; what a child lacks it loads itself.
    """
    owner = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel.send(b"ready")
    to_load = list(reversed(libraries))
    children: dict[int, tuple[int, int]] = {}  # handle: number, and pipe for the exit code
    needed = time.monotonic()
    while os.getppid() == owner:
        ready, _, _ = select.select([channel.fileno(), *children], [], [], 0 if to_load else _POLL_SECONDS)
        if to_load and not ready:
            with contextlib.suppress(ImportError, OSError):  # the child that needs it will say so
                importlib.import_module(to_load.pop())
            gc.freeze()  # what is loaded stays: children need not copy its pages to collect garbage
        asked = channel.fileno() in ready
        for handle in [handle for handle in ready if handle in children]:
            pid, ended = children.pop(handle)
            _, status = os.waitpid(pid, 0)
            with contextlib.suppress(BrokenPipeError):
                os.write(ended, str(os.waitstatus_to_exitcode(status)).encode())
            os.close(ended)
            os.close(handle)
        if asked:
            message, files, _, _ = socket.recv_fds(channel, _MAX_MESSAGE, 4)
            if not message:
                break
            nursery = os.getpid()
            pid = os.fork()
            if pid == 0:
                kept = [channel.fileno(), files[3], *children, *(ended for _, ended in children.values())]
                _live(nursery, message, files[:3], kept, work)
            for file in files[:3]:
                os.close(file)
            handle = os.pidfd_open(pid)
            children[handle] = (pid, files[3])
            socket.send_fds(channel, [str(pid).encode()], [handle])
        if children or asked:
            needed = time.monotonic()
        elif time.monotonic() - needed > _IDLE_SECONDS:
            break
    return 0


def _live(nursery: int, name: bytes, standard: Sequence[int], kept: Sequence[int], work: Callable[[], int]) -> NoReturn:
    """In the child: take its files in place of the nursery's, and work."""
    code = 1
    try:
        end_with_parent(nursery)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for file in kept:
            os.close(file)
        for place, file in enumerate(standard):
            os.dup2(file, place)
            os.close(file)
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name)
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
