"""A ring of buffers that threads fill ahead of whoever uses them."""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Job = TypeVar("Job")
Buffer = TypeVar("Buffer")


def filled_ahead(
    jobs: Iterator[Job],
    buffers: Sequence[Buffer],
    tasks: Callable[[Job, Buffer], Sequence[Callable[[], None]]],
    num_threads: int,
) -> Generator[tuple[Job, Buffer], None, None]:
    """Each job with a buffer that its tasks have filled; the other buffers are being filled for the next jobs.

    A buffer is valid until the next pair is asked for. An error in a task is raised, as it is, when its job's turn
    comes. The threads end with the generator: when it is exhausted, closed, raises or is garbage collected.
    """
    executor = ThreadPoolExecutor(num_threads, thread_name_prefix="polychoir-read")
    free = deque(buffers)
    under_way: deque[tuple[Job, Buffer, list[Future[None]]]] = deque()
    try:
        while True:
            for job in _at_most(jobs, len(free)):
                buffer = free.popleft()
                under_way.append((job, buffer, [executor.submit(task) for task in tasks(job, buffer)]))
            if not under_way:
                return
            job, buffer, reads = under_way.popleft()
            for read in reads:
                read.result()
            yield job, buffer
            free.append(buffer)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _at_most(jobs: Iterator[Job], number: int) -> Iterator[Job]:
    for _ in range(number):
        try:
            yield next(jobs)
        except StopIteration:
            return
