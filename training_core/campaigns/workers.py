"""Finds out, before anything is trained there, whether the workers of a cluster can train for a run.

A worker must see the folder the run keeps everything in, and what it writes there must be seen here; it must run the
same code, or learners would be filed under other names than the ones looked for; and all must have the same kind of
device, for that is part of what a learner depends on.
"""

import platform
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from training_core.artifacts import storage_errors
from training_core.config import Config
from training_core.errors import ConfigError
from training_core.isolation import device_kind
from training_core.jobs import core_fingerprint

_DRIVER = "driver"
_PATIENCE_SECONDS = 10.0
"""A network file system may show a new file of another host a few seconds late."""
_POLL_SECONDS = 0.1


class Sight(Config):
    """What a worker sees."""

    host: str
    device: str
    """`cuda` or `cpu`."""
    core: str
    """See `jobs.core_fingerprint`."""
    problem: str = ""
    """Why it cannot use the store; empty when it can."""


Ask = Callable[[str, str], Mapping[str, Sight | BaseException]]
"""Calls `look` with two arguments on every worker; what each answered, or why it did not, by the worker's name."""


def look(mark: str, name: str) -> Sight:
    """To be called on a worker: read what the driver wrote into the folder `mark`, and write a file `name-…` beside it.

    Never raises: what goes wrong is in `Sight.problem`.
    """
    problem, host = "", platform.node()
    try:
        text = (Path(mark) / _DRIVER).read_text(encoding="utf-8")
        (Path(mark) / f"{name}-{host}").write_text(text, encoding="utf-8")
    except OSError as error:
        problem = f"{error.strerror or error}"
    return Sight(host=host, device=device_kind(), core=core_fingerprint(), problem=problem)


def check_workers(ask: Ask, store: Path) -> str:
    """Ask every worker of a cluster what it sees; returns the kind of device that all of them have: `cuda` or `cpu`.

    Args:
        ask: reaches the workers.
        store: what has to be shared with them.

    Raises:
        ConfigError: there is no worker, or one of them cannot be reached, does not share the store, runs other code, or
            has another kind of device than the others. Names both hosts.
        StorageError: the store cannot be written from here.
    """
    here = platform.node()
    with _marked(store) as mark:
        token = mark.name
        answers = ask(str(mark), token)
        if not answers:
            raise ConfigError("the cluster has no workers; start some, or set `executor: processes`")
        sights: dict[str, Sight] = {}
        for worker, answer in answers.items():
            if isinstance(answer, BaseException):
                raise ConfigError(
                    f"worker {worker} cannot train for {here}: {type(answer).__name__}: {answer}; install the same "
                    "Polychoir there"
                )
            if answer.problem:
                raise ConfigError(
                    f"{store} is not shared: what {here} wrote there, {answer.host} cannot use ({answer.problem}); "
                    "give a --store on a file system that both mount at the same path"
                )
            sights[worker] = answer
        for sight in sights.values():
            if not _appears(mark / f"{token}-{sight.host}", token):
                raise ConfigError(
                    f"{store} is not shared: what {sight.host} wrote there, {here} does not see; give a --store on a "
                    "file system that both mount at the same path"
                )
    for sight in sights.values():
        if sight.core != core_fingerprint():
            raise ConfigError(
                f"{sight.host} runs another Polychoir, or another numpy, scipy, scikit-learn or torch, than {here}; "
                "install the same versions on both"
            )
    kinds = {sight.device: sight.host for sight in sights.values()}
    if len(kinds) > 1:
        raise ConfigError(
            f"{kinds['cuda']} has a GPU and {kinds['cpu']} has none, and learners trained on one are not those trained "
            "on the other; give the workers with GPUs the resource GPU=1, or use a cluster of one kind"
        )
    return next(iter(kinds))


@contextmanager
def _marked(store: Path) -> Iterator[Path]:
    """A folder in the store, named by a token, with a file that holds the token; gone after the block."""
    token = uuid.uuid4().hex
    mark = store / "probes" / token
    try:
        with storage_errors(mark):
            mark.mkdir(parents=True)
            (mark / _DRIVER).write_text(token, encoding="utf-8")
        yield mark
    finally:
        shutil.rmtree(mark, ignore_errors=True)


def _appears(file: Path, text: str) -> bool:
    """Whether a file with this text is to be seen within a few seconds."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            if file.read_text(encoding="utf-8") == text:
                return True
        except OSError:
            pass
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
