import gc
import threading
import time
from collections.abc import Callable

import pytest

from training_core.data.streams.ring import filled_ahead
from training_core.errors import StorageError


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("polychoir-read")]


def squares(job: int, buffer: list[int]) -> list[Callable[[], None]]:
    """Two tasks that fill a buffer of two numbers; the later job is done earlier."""

    def put(place: int) -> None:
        time.sleep(0.002 if job % 2 else 0)
        buffer[place] = job**2 + place

    return [lambda: put(0), lambda: put(1)]


def test_jobs_come_in_order_with_their_own_buffer_filled() -> None:
    found = [
        (job, list(buffer)) for job, buffer in filled_ahead(iter(range(20)), [[0, 0] for _ in range(3)], squares, 2)
    ]
    assert found == [(job, [job**2, job**2 + 1]) for job in range(20)]
    assert not readers()


def test_a_buffer_is_left_alone_until_the_next_pair_is_asked_for() -> None:
    buffers = [[0, 0] for _ in range(2)]
    for job, buffer in filled_ahead(iter(range(6)), buffers, squares, 2):
        time.sleep(0.01)
        assert buffer == [job**2, job**2 + 1]


def test_other_buffers_are_filled_meanwhile() -> None:
    done = threading.Event()

    def tasks(job: int, buffer: list[int]) -> list[Callable[[], None]]:
        return [done.set] if job == 1 else [lambda: None]

    pairs = filled_ahead(iter(range(3)), [[0], [0]], tasks, 1)
    next(pairs)
    assert done.wait(5), "job 1 is not read before it is asked for"
    pairs.close()


def test_an_error_of_a_thread_comes_out_as_it_is_when_its_job_s_turn_comes() -> None:
    def tasks(job: int, buffer: list[int]) -> list[Callable[[], None]]:
        def fail() -> None:
            raise StorageError("a shard is cut off")

        return [fail if job == 2 else (lambda: None)]

    pairs = filled_ahead(iter(range(5)), [[0], [0], [0]], tasks, 2)
    assert next(pairs)[0] == 0
    assert next(pairs)[0] == 1
    with pytest.raises(StorageError, match="a shard is cut off"):
        next(pairs)
    assert not readers()


@pytest.mark.parametrize("how", ["close", "forget", "never start"])
def test_threads_end_with_the_generator(how: str) -> None:
    pairs = filled_ahead(iter(range(100)), [[0, 0], [0, 0]], squares, 2)
    if how != "never start":
        next(pairs)
        assert readers()
    if how == "close":
        pairs.close()
    del pairs
    gc.collect()
    assert not readers()


def test_no_jobs_are_no_pairs() -> None:
    assert list(filled_ahead(iter(()), [[0]], squares, 2)) == []
