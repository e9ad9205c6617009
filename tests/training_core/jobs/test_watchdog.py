"""What counts as a process's own memory: on real processes that map files and take memory."""

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from factories import small_run, write_source

from training_core.campaigns import bagging
from training_core.jobs import Job, Limits, Watchdog
from training_core.jobs.watchdog import own_bytes

MEGABYTES = 10**6
MAPPED = 300 * MEGABYTES
CHILD = f"""
    import mmap, os, sys
    with open(sys.argv[1], "r+b") as file:
        pages = mmap.mmap(file.fileno(), {MAPPED})
    for place in range(0, {MAPPED}, mmap.PAGESIZE):
        pages[place]
    print("mapped", flush=True)
    sys.stdin.readline()
    taken = b"x" * {MAPPED}
    print("taken", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def mapping(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has mapped a large file and read all of it, and takes as much memory when it is sent a line."""
    kind = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True, check=True).stdout
    if kind.strip() in {"tmpfs", "ramfs"}:
        pytest.skip("files of this folder are memory")
    file = folder / "mapped"
    with file.open("wb") as mapped:
        mapped.truncate(MAPPED)
    pipe = subprocess.PIPE
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CHILD), str(file)], stdin=pipe, stdout=pipe, text=True
    )
    with child:
        assert child.stdout and child.stdout.readline() == "mapped\n"
        yield child
        child.kill()


@pytest.fixture
def job(tmp_path: Path) -> Job:
    run = small_run(write_source(tmp_path, num_rows=60))
    ref = bagging.resolve_dataset(run.dataset, tmp_path / "store")
    return bagging.plan_training(run, ref, bagging.bags_of(run, ref)).jobs[0]


def test_pages_of_files_are_not_a_process_s_own(tmp_path: Path) -> None:
    with mapping(tmp_path) as child:
        assert psutil.Process(child.pid).memory_info().rss > MAPPED
        assert 0 < own_bytes(child.pid) < 50 * MEGABYTES
    assert own_bytes(child.pid) == 0


def test_a_learner_is_ended_for_what_it_takes_not_for_what_it_maps(tmp_path: Path, job: Job) -> None:
    with mapping(tmp_path) as child:
        watch = Watchdog(child, Limits(memory_bytes=MAPPED / 2))
        watch.started(job)
        watch.start()
        watch.join(timeout=1.0)
        assert watch.is_alive() and not watch.ended
        assert child.stdin
        child.stdin.write("\n")
        child.stdin.flush()
        watch.join(timeout=10.0)
        assert list(watch.ended) == [job.name]
        assert "of memory, its process may have 150.0 MB" in watch.ended[job.name]
        assert child.wait() < 0
