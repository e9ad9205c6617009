"""A group of jobs in a child process of its own, on a leased device, so that a crash costs one group and no more.

The child reads the group from standard input, publishes each job's outputs itself, and tells its parent what happens
as JSON lines on standard output. It dies with its parent. What it finished before it was killed is kept. Children on
the CPU are forked from one process that has loaded the libraries; see `training_core.jobs.nursery`.
"""

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import IO

from training_core import errors
from training_core.artifacts import sweep_unfinished
from training_core.errors import DeadlineError, PolychoirError, StoppedError, TransientError
from training_core.jobs import (
    Cohort,
    Event,
    JobReport,
    Limits,
    Nursery,
    OnEvent,
    Process,
    Watchdog,
    event_of,
    failed_report,
    finished_report,
    run_jobs,
    skipped_report,
    tend,
)
from training_core.parenthood import end_with_parent

_NEVER_SET = threading.Event()
_STOPPED: ContextVar[threading.Event] = ContextVar("stopped", default=_NEVER_SET)
"""Set when the children begun in this context are ended; see `ended_together`."""
_LIVE: dict[Process, threading.Event] = {}  # with that of the context they were begun in
_LIVE_LOCK = threading.Lock()
_STDERR_TAIL = 2000
_POLL_SECONDS = 0.5
_START_SECONDS = 2.0
"""A process that would be ended before it has loaded its libraries is not started."""
_NO_LIMITS = Limits()
_PARENT = "POLYCHOIR_PARENT_PID"
# One thread: results depend on the thread count, and one process per core uses the cores better than threads do.
_ONE_THREAD: dict[str, str] = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_COMMAND = (sys.executable, "-P", "-m", "training_core.isolation")
_NURSERY = Nursery(_COMMAND, _ONE_THREAD)
_LIBRARIES = (
    "torch._dynamo",
    "safetensors.torch",
    "zarr",
    "sklearn.linear_model",
    "sklearn.ensemble",
    "pandas",
    "pyarrow.parquet",
    "lightgbm",
)
"""What groups import on their way, the most wanted first; none of them starts a thread that a fork would lose."""


def device_kind() -> str:
    """`cuda` when this machine has a GPU that torch can use, else `cpu`."""
    from training_core.engine.device import choose_device

    return choose_device().partition(":")[0]


def collect_reports(cohort: Cohort, store: Path, why_missing: str, device: str | None = None) -> list[JobReport]:
    """The reports of all jobs of a group: those on disk, and a failure with the reason `why_missing` for the rest.

    `device` is the kind that the group trained on, by default that of this machine.
    """
    kind = device or device_kind()
    return [finished_report(job, store, kind) or failed_report(job, why_missing) for job in cohort.jobs]


def run_isolated(
    cohort: Cohort,
    store: Path,
    on_event: OnEvent,
    limits: Limits = _NO_LIMITS,
    profile: bool = False,
) -> list[JobReport]:
    """Train a group of jobs in a child process and return a report per job, in order.

    Jobs that were trained before are not trained again; when all were, no process is started. A job that takes longer
    than `limits.learner_seconds` is ended and reported as failed; the others go on in a new process. Learners that
    train together have that time each: when all of it is over, those of them that are not done have failed. The same
    goes for those that train while the process has more memory than it may. At the deadline the process is ended;
    whatever it has not published by then is reported as skipped. `profile`: look at the operators of every training,
    too.

    Raises:
        TransientError: the child was killed or died; its finished jobs are kept, so a second call does the rest.
        StoppedError: it was ended, or is not begun, because the run it belongs to is over; see `ended_together`.
        PolychoirError: what the child raised on purpose.
    """
    reports: dict[str, JobReport] = {}
    kind = device_kind()
    for job in cohort.jobs:
        if report := finished_report(job, store, kind):
            reports[job.name] = report
            on_event(event_of(report))
    while pending := [job for job in cohort.jobs if job.name not in reports]:
        ended: dict[str, str] = {}
        late = "there was no time left to begin with it"
        if limits.seconds_left > _START_SECONDS:
            with contextlib.suppress(DeadlineError), leased_device(kind, limits) as device:
                part = cohort.model_copy(update={"jobs": tuple(pending)})
                ended = _run_child(part, store, device, on_event, limits, reports, profile)
                late = "the time was over before it was done"
        out_of_time = limits.seconds_left <= _START_SECONDS
        for job in pending:
            if job.name in reports or not (job.name in ended or out_of_time):
                continue
            if found := finished_report(job, store, kind):  # it was published, and ended before it could say so
                report = found.model_copy(update={"status": "trained"}) if found.artifact else found
            elif job.name in ended:
                report = failed_report(job, ended[job.name])
            else:
                report = skipped_report(job, late)
            reports[job.name] = report
            on_event(event_of(report))
    return [reports[job.name] for job in cohort.jobs]


def warm_up() -> None:
    """Begin to load the libraries of groups to come, while something else is done.

    On a machine with GPUs nothing is done: there every group loads its own.
    """
    if _forks(device_kind()):
        _NURSERY.open()


@contextmanager
def ended_together() -> Iterator[None]:
    """When the block raises, the children begun in its context are ended at once, and no others are begun there.

    The context is that of `contextvars`: a thread that works for the block has to run in a copy of it. What others in
    this process train goes on.
    """
    stopped = threading.Event()
    token = _STOPPED.set(stopped)
    try:
        yield
    except BaseException:
        with _LIVE_LOCK:
            stopped.set()
            for child in (child for child, its in _LIVE.items() if its is stopped):
                child.kill()
        raise
    finally:
        _STOPPED.reset(token)


def _require_not_stopped(name: str) -> None:
    """Refuse to begin a group, or to call its process dead, when it was ended on purpose."""
    if _STOPPED.get().is_set():
        raise StoppedError(f"{name} was ended with the run it belongs to; what it had published is kept")


@contextmanager
def leased_device(kind: str, limits: Limits = _NO_LIMITS) -> Iterator[str]:
    """A device nobody else on this machine trains on, as `CUDA_VISIBLE_DEVICES` names it: `cuda:<name>`, or `cpu`.

    Waits until one of the GPUs this process may use is free. The locks are per machine, not per store, because the
    GPUs are; the kernel frees them when their holder ends.

    Raises:
        DeadlineError: none was free before the deadline.
    """
    if kind == "cpu":
        yield "cpu"
        return
    names = gpu_names()
    folder = Path(tempfile.gettempdir()) / "polychoir-gpus"
    folder.mkdir(exist_ok=True)
    with contextlib.suppress(PermissionError):
        folder.chmod(0o1777)  # other people's processes lease the same GPUs
    with contextlib.ExitStack() as files:
        locks = [files.enter_context(_open_lock(folder / f"gpu-{name}.lock")) for name in names]
        while (index := _first_free(locks)) is None:
            _require_not_stopped("what waited for a GPU")
            if limits.seconds_left <= _START_SECONDS:
                raise DeadlineError("no GPU was free before the time was over; lower `budget.workers`")
            time.sleep(_POLL_SECONDS)
        yield f"cuda:{names[index]}"


def gpu_names() -> list[str]:
    """The GPUs this process may use, by number or UUID, as `CUDA_VISIBLE_DEVICES` names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if visible:
        return [name.strip() for name in visible.split(",")]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def _open_lock(path: Path) -> IO[str]:
    """A file to lock, made when it is not there; one of another user is only read, which is enough for a lock."""
    with contextlib.suppress(PermissionError):
        path.touch()
    return path.open()


def _first_free(locks: Sequence[IO[str]]) -> int | None:
    """Take the first lock nobody holds; its position, or None when all are held."""
    for index, lock in enumerate(locks):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return index
    return None


def _run_child(
    cohort: Cohort,
    store: Path,
    device: str,
    on_event: OnEvent,
    limits: Limits,
    reports: dict[str, JobReport],
    profile: bool,
) -> dict[str, str]:
    """Run one child to its end, filling `reports`; returns the jobs it had to be ended for, if any, and why."""
    named = {job.name: job for job in cohort.jobs}
    failure: Event | None = None
    _require_not_stopped(cohort.name)
    with tempfile.TemporaryFile("w+", errors="replace") as stderr:
        child = _begin(device, cohort.name, stderr, limits)
        with _LIVE_LOCK:
            _LIVE[child] = _STOPPED.get()
        assert child.stdin and child.stdout
        watch = Watchdog(child, limits)
        try:
            _require_not_stopped(cohort.name)
            watch.start()
            request = {
                "environment": _environment(device),
                "directory": str(Path.cwd()),
                "cohort": cohort.model_dump(mode="json"),
                "store": str(store),
                "device": _visible(device),
                "limits": limits.model_dump(mode="json"),
                "profile": profile,
            }
            with contextlib.suppress(BrokenPipeError):
                child.stdin.write(json.dumps(request))
                child.stdin.close()
            for line in child.stdout:
                if not line.endswith("\n"):  # it was ended in the middle of it
                    break
                event: Event = json.loads(line)
                if event["event"] == "report":
                    report = JobReport.model_validate(event["report"])
                    reports[report.name] = report
                    watch.settled(report.name)
                elif event["event"] == "error":
                    failure = event
                else:
                    on_event(event)
                if event["event"] == "started":
                    watch.started(named[event["job"]])
            code = child.wait()
        finally:
            watch.stop()
            child.kill()
            child.wait()
            for stream in (child.stdin, child.stdout):
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
            with _LIVE_LOCK:
                del _LIVE[child]
            for folder in ("jobs", "stacks"):
                sweep_unfinished(store / folder)
        _require_not_stopped(cohort.name)
        if watch.ended or watch.out_of_time:
            return watch.ended
        if failure is not None:
            raise getattr(errors, failure["type"], PolychoirError)(failure["message"])
        if code != 0:
            stderr.seek(0)
            tail = stderr.read()[-_STDERR_TAIL:].strip()
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            raise TransientError(
                f"the process training {cohort.name} {how}" + (f"; its last words: {tail}" if tail else "")
            )
    return {}


def _forks(device: str) -> bool:
    """Whether children on a device are forked: not where a driver is to be loaded in each, nor without pidfds."""
    return device == "cpu" and sys.platform == "linux"


def _begin(device: str, name: str, stderr: IO[str], limits: Limits) -> Process:
    """A child that waits for a group; `name` is for whoever looks at the list of processes.

    Raises:
        DeadlineError: libraries are still being loaded at the deadline.
        TransientError: the process it was to be forked from died.
    """
    if _forks(device):
        return _NURSERY.fork(name, stderr, limits.seconds_left)
    environment = {**_environment(device), _PARENT: str(os.getpid())}
    pipe = subprocess.PIPE
    return subprocess.Popen(_COMMAND, stdin=pipe, stdout=pipe, stderr=stderr, text=True, env=environment)


def _environment(device: str) -> dict[str, str]:
    """Variables of a child: ours as they are now, one thread, and the device it has leased."""
    environment = {**os.environ, **_ONE_THREAD}
    if device.startswith("cuda:"):
        environment |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": device.partition(":")[2]}
    return environment


def _visible(device: str) -> str:
    """The name of a leased device inside the child, which sees that one only."""
    return "cuda:0" if device.startswith("cuda") else device


def _main() -> int:
    """Load libraries and fork children, when the owner gave a socket; or be the only child."""
    if len(sys.argv) > 1:
        return tend(socket.socket(fileno=int(sys.argv[1])), _train_group, _LIBRARIES)
    end_with_parent(int(os.environ[_PARENT]))
    return _train_group()


def _train_group() -> int:
    """In the child: train the jobs on standard input."""
    events = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints must not be read as an event

    def tell(event: Event) -> None:
        events.write(json.dumps(event) + "\n")
        events.flush()

    request = json.load(sys.stdin)
    os.chdir(request["directory"])
    os.environ.clear()
    os.environ.update(request["environment"])
    cohort = Cohort.model_validate(request["cohort"])
    try:
        from training_core.engine.device import use_one_thread

        use_one_thread()
        store, device = Path(request["store"]), request["device"]
        limits = Limits.model_validate(request["limits"])
        for report in run_jobs(cohort.jobs, store, device, tell, profile=request["profile"], limits=limits):
            tell({"event": "report", "report": report.model_dump(mode="json")})
    except PolychoirError as error:
        tell({"event": "error", "type": type(error).__name__, "message": str(error)})
        return 3
    except Exception:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main())
