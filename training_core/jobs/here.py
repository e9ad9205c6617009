"""Training a few jobs in this very process: no time to start another, and what could go wrong is quick and harmless."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from training_core.engine.device import choose_device
from training_core.jobs.job import Job, JobReport, OnEvent
from training_core.jobs.limits import Limits
from training_core.jobs.run import run_jobs

_NO_LIMITS = Limits()


def train_here(
    jobs: Sequence[Job], store: Path, on_event: OnEvent, limits: Limits = _NO_LIMITS, profile: bool = False
) -> list[JobReport]:
    """Train jobs one after the other, as `run_jobs` does, with one thread as the processes of learners do.

    A deadline keeps jobs from being begun; one that has begun is not ended.

    Raises:
        StorageError: outputs cannot be written.
    """
    with _one_thread():
        return list(run_jobs(jobs, store, choose_device(), on_event, profile=profile, limits=limits))


@contextmanager
def _one_thread() -> Iterator[None]:
    """The number of threads decides the last bits of a result; the caller gets its threads back."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)
