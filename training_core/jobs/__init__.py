"""The unit of work: a `Job` says what to train, `run_jobs` trains some, a `JobReport` says what came of each."""

from training_core.artifacts import core_fingerprint
from training_core.jobs.here import train_here
from training_core.jobs.job import (
    Cohort,
    DatasetRef,
    Event,
    Job,
    JobReport,
    JobStatus,
    OnEvent,
    code_version,
    event_of,
    failed_report,
    finished_report,
    job_directory,
    read_curves,
    read_out_of_bag,
    require_intact,
    skipped_report,
)
from training_core.jobs.limits import Limits, TimeLeft
from training_core.jobs.nursery import Nursery, Process, tend
from training_core.jobs.run import run_jobs
from training_core.jobs.watchdog import Watchdog

__all__ = [
    "Cohort",
    "DatasetRef",
    "Event",
    "Job",
    "JobReport",
    "JobStatus",
    "Limits",
    "Nursery",
    "OnEvent",
    "Process",
    "TimeLeft",
    "Watchdog",
    "code_version",
    "core_fingerprint",
    "event_of",
    "failed_report",
    "finished_report",
    "job_directory",
    "read_curves",
    "read_out_of_bag",
    "require_intact",
    "run_jobs",
    "skipped_report",
    "tend",
    "train_here",
]
