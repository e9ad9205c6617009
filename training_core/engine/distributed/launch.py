"""Starting the ranks of one training on this machine from Python, and ending all of them when one fails.

`torchrun` does the same for scripts, and is needed for several machines; what it starts works alike, because both set
the same environment. `launch` is for a program that wants ranks of its own: it returns what rank 0 returned, raises
what the failing rank raised, and its ranks cannot be reached from outside this machine.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from training_core import errors
from training_core.engine.distributed.group import LISTENER, PeerLostError, process_group
from training_core.errors import ConfigError, PolychoirError, TransientError
from training_core.parenthood import end_with_parent

_FOLDER = "POLYCHOIR_RANKS_FOLDER"
_PARENT = "POLYCHOIR_PARENT_PID"
_POLL_SECONDS = 0.05
_GRACE_SECONDS = 3.0  # for the others to say what they have to say, once one rank has failed
_TAIL = 2000  # characters of a rank's standard error that are repeated
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def launch(
    function: str, num_ranks: int, arguments: Mapping[str, Any] | None = None, *, timeout_seconds: float = 600.0
) -> Any:
    """Call a function in `num_ranks` new processes on this machine, joined to one group.

    Args:
        function: `package.module:name` of a function `(ranks, **arguments)`; it must be importable.
        num_ranks: how many processes; on a machine with GPUs at most one per GPU.
        arguments: what it is called with, as far as JSON can say it.
        timeout_seconds: how long a rank waits for the others before it gives them up.

    Returns:
        What the function returned on rank 0, as far as JSON can say it.

    Raises:
        TransientError: a rank was killed or died; all the others were ended.
        PolychoirError: what a rank raised on purpose, with the rank it happened on.
    """
    if num_ranks < 1 or function.count(":") != 1:
        raise ConfigError(f"launch('{function}', {num_ranks}): expected 'package.module:function' and at least 1 rank")
    request = json.dumps({"function": function, "arguments": dict(arguments or {}), "timeout": timeout_seconds})
    with tempfile.TemporaryDirectory(prefix="polychoir-ranks-") as name:
        folder = Path(name)
        (folder / "request.json").write_text(request)
        with socket.create_server(("127.0.0.1", 0), backlog=num_ranks) as listener:
            processes = [_start(rank, num_ranks, folder, listener) for rank in range(num_ranks)]
        ended: list[int] = []
        try:
            ended = _wait(processes)
        finally:
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # with whatever it started itself
            for process in processes:
                process.wait()
        if ended:
            raise _failure(ended, processes, folder)
        return json.loads((folder / "result.json").read_text())


def _start(rank: int, num_ranks: int, folder: Path, listener: socket.socket) -> subprocess.Popen[bytes]:
    environment = {
        **dict.fromkeys(_THREADS, "1"),  # one process per core uses the cores better than threads do
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(num_ranks),
        "LOCAL_WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(listener.getsockname()[1]),
        _FOLDER: str(folder),
        _PARENT: str(os.getpid()),
    }
    environment.pop("TORCHELASTIC_USE_AGENT_STORE", None)  # of a torchrun this may itself run under
    if rank == 0:
        environment[LISTENER] = str(listener.fileno())
    with (folder / f"rank-{rank}.stderr").open("wb") as stderr:
        return subprocess.Popen(
            [sys.executable, "-P", "-c", "from training_core.engine.distributed.launch import main; main()"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=None if rank == 0 else subprocess.DEVNULL,
            stderr=stderr,
            pass_fds=[listener.fileno()] if rank == 0 else [],
            start_new_session=True,
        )


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    """Wait for all ranks to end well, or for one to fail; returns those that had failed by then, first ones first."""
    ended: list[int] = []
    deadline = float("inf")
    while time.monotonic() < deadline:
        codes = [process.poll() for process in processes]
        ended += [rank for rank, code in enumerate(codes) if code and rank not in ended]
        if ended and deadline == float("inf"):
            deadline = time.monotonic() + _GRACE_SECONDS
        if None not in codes:
            break
        time.sleep(_POLL_SECONDS)
    return ended


def _failure(ended: Sequence[int], processes: Sequence[subprocess.Popen[bytes]], folder: Path) -> PolychoirError:
    """The error of the rank that failed by itself; the others only lost it."""
    records = {
        rank: json.loads(path.read_text()) for rank in ended if (path := folder / f"rank-{rank}.error.json").exists()
    }
    causes = [rank for rank in ended if records.get(rank, {}).get("type") != PeerLostError.__name__]
    rank = causes[0] if causes else ended[0]
    who = f"rank {rank} of {len(processes)}"
    if rank in records:
        record = records[rank]
        return getattr(errors, record["type"], TransientError)(f"{who}: {record['message']}")
    code = processes[rank].returncode
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    tail = (folder / f"rank-{rank}.stderr").read_text(errors="replace")[-_TAIL:].strip()
    return TransientError(
        f"{who} {how}, and the other ranks were ended; run it again to go on from the last checkpoint"
        + (f"; its last words: {tail}" if tail else "")
    )


def main() -> None:
    """A rank: join the others, call the function, and leave behind what it returned or raised."""
    end_with_parent(int(os.environ[_PARENT]))
    folder, rank = Path(os.environ[_FOLDER]), int(os.environ["RANK"])
    request = json.loads((folder / "request.json").read_text())
    module, _, name = request["function"].partition(":")
    try:
        try:
            function = getattr(import_module(module), name)
        except (AttributeError, ImportError) as error:
            raise ConfigError(f"'{request['function']}' cannot be imported: {error}") from error
        with process_group(timeout_seconds=request["timeout"]) as ranks:
            result = function(ranks, **request["arguments"])
            if ranks.writes:
                (folder / "result.json").write_text(json.dumps(result))
    except PolychoirError as error:
        record = {"type": type(error).__name__, "message": str(error)}
        (folder / f"rank-{rank}.error.json").write_text(json.dumps(record))
        sys.exit(3)
    except Exception:
        traceback.print_exc()
        sys.exit(1)
