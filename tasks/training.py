"""Tasks that train: a group of learners per task, each group in a child process of its own."""

from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.futures import PrefectFuture, wait

from tasks.policies import NUM_RETRIES, RETRY_DELAY_SECONDS, is_transient
from tasks.progress import announce, listening
from training_core.campaigns.bagging import Plan
from training_core.campaigns.run_config import RunConfig
from training_core.errors import UserError
from training_core.isolation import collect_reports, run_isolated, stop_all
from training_core.jobs import Cohort, Event, JobReport, OnEvent


@task(
    name="train-cohort",
    task_run_name="train {cohort.name}",
    retries=NUM_RETRIES,
    retry_delay_seconds=RETRY_DELAY_SECONDS,
    retry_condition_fn=is_transient,
    tags=["learners"],
)
def train_cohort(cohort: Cohort, store: Path, learner_seconds: float | None, profile: bool = False) -> list[JobReport]:
    """Train a group of jobs in a child process on a leased device; see `training_core.isolation.run_isolated`."""
    return run_isolated(cohort, store, _tell_and_log(), learner_seconds, profile)


def train_cohorts(plan: Plan, run: RunConfig, store: Path) -> tuple[JobReport, ...]:
    """Train all groups, as many at a time as the task runner has workers; a report per job, by name.

    A group whose process died twice costs its unfinished learners, not the run. A cancelled run takes its children
    with it: without that the runner would wait for them.

    Raises:
        UserError: a learner met a setting or data that the user has to mend.
    """
    announce({"event": "plan", "plan": plan.model_dump(mode="json")})
    trained: set[str] = set()
    with listening(lambda event: trained.add(event["job"]) if event["event"] == "finished" else None):
        limit, profile = run.budget.learner_seconds, run.profile
        futures = [train_cohort.submit(cohort, store, limit, profile) for cohort in plan.cohorts]
        try:
            wait(futures)
        except BaseException:
            stop_all()
            raise
    reports = [r for cohort, done in zip(plan.cohorts, futures, strict=True) for r in _reports(cohort, done, store)]
    # A group that was tried twice finds its own learners of the first try: they are this run's work all the same.
    reports = [r.model_copy(update={"status": "trained"}) if r.artifact and r.name in trained else r for r in reports]
    return tuple(sorted(reports, key=lambda report: report.name))


def _tell_and_log() -> OnEvent:
    """Tell the listeners of every event, and log what becomes of each learner with the task run."""
    logger = get_run_logger()

    def on_event(event: Event) -> None:
        announce(event)
        if event["event"] == "finished":
            logger.info("%s trained in %.1f s, score %s", event["job"], event["seconds"], event["score"])
        elif event["event"] == "reused":
            logger.info("%s was trained before and is reused", event["job"])
        elif event["event"] == "failed":
            logger.warning("%s failed: %s", event["job"], event["error"])

    return on_event


def _reports(cohort: Cohort, done: PrefectFuture[Any], store: Path) -> list[JobReport]:
    """What a group gave; when it failed, what it had published before it did."""
    outcome = done.state.result(raise_on_failure=False)
    if isinstance(outcome, UserError):
        raise outcome
    if isinstance(outcome, Exception):
        return collect_reports(cohort, store, str(outcome))
    return outcome
