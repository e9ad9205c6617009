"""A process ends with the one that started it, also when that ended before the kernel was asked."""

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHILD = """
import os, sys, time
from {module} import {name}
began_under = os.getppid()
print(os.getpid(), flush=True)
{before}
{call}
time.sleep({lives})
print("outlived it", flush=True)
"""
ORPHANED = "while os.getppid() == began_under: time.sleep(0.01)"
TO_JOIN = """
os.environ |= dict(RANK="1", WORLD_SIZE="2", LOCAL_RANK="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
os.environ["LOCAL_WORLD_SIZE"] = "2"
"""


def said_by_the_child(child: str, ends: bool) -> list[str]:
    """What a child says whose parent is killed once the child has begun; `ends`: it has to end by itself."""
    starts = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}]).wait()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-c", starts], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        lines = [parent.stdout.readline().strip()]
        if ends:
            parent.send_signal(signal.SIGKILL)
            parent.wait()
        return lines + parent.stdout.read().split("\n")[:-1]  # until the child, which has the pipe too, has ended


def test_a_process_whose_parent_ends_ends_with_it() -> None:
    asks = CHILD.format(module="training_core.parenthood", name="end_with_parent", call="", lives=20,
                        before="end_with_parent()")  # fmt: skip
    assert len(said_by_the_child(asks, ends=True)) == 1


def test_a_process_whose_parent_has_ended_before_it_asks_ends_at_once() -> None:
    late = CHILD.format(module="training_core.parenthood", name="end_with_parent", call="end_with_parent()", lives=0,
                        before=ORPHANED)  # fmt: skip
    assert len(said_by_the_child(late, ends=True)) == 1


def test_a_rank_that_was_orphaned_before_it_joins_does_not_wait_for_the_others() -> None:
    late = CHILD.format(
        module="training_core.engine.distributed",
        name="process_group",
        before=ORPHANED + TO_JOIN,
        call="try:\n    process_group(timeout_seconds=1).__enter__()\nexcept Exception as error:\n    pass",
        lives=0,
    )
    assert len(said_by_the_child(late, ends=True)) == 1


def test_a_copy_of_the_process_that_imported_it_has_that_as_its_parent() -> None:
    forks = CHILD.format(module="training_core.parenthood", name="end_with_parent", lives=0, before="", call="""
if os.fork() == 0:
    end_with_parent()
    print("a copy lives", flush=True)
    os._exit(0)
os.wait()
""")  # fmt: skip
    assert said_by_the_child(forks, ends=False)[1:] == ["a copy lives", "outlived it"]
