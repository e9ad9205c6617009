"""Tasks that train: a group of learners per task, each group in a child process of its own."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.futures import PrefectFuture

from tasks.executors import executor_of, is_remote
from tasks.policies import NUM_RETRIES, RETRY_DELAY_SECONDS, is_transient
from tasks.progress import announce, listening
from training_core.campaigns.bagging import Plan
from training_core.campaigns.clock import RunClock
from training_core.campaigns.dispatch import Dispatcher, Launch, Outcome, TrainingOutcome, news_of
from training_core.campaigns.run_config import RunConfig
from training_core.isolation import run_isolated, warm_up
from training_core.jobs import Cohort, DatasetRef, Event, Job, JobReport, Limits, OnEvent, train_here


@task(
    name="train-cohort",
    task_run_name="train {cohort.name}",
    retries=NUM_RETRIES,
    retry_delay_seconds=RETRY_DELAY_SECONDS,
    retry_condition_fn=is_transient,
    tags=["learners"],
)
def train_cohort(cohort: Cohort, store: Path, limits: Limits, profile: bool = False) -> list[JobReport]:
    """Train a group of jobs in a child process on a leased device; see `training_core.isolation.run_isolated`."""
    return run_isolated(cohort, store, _tell_and_log(), limits, profile)


@task(name="train-here", task_run_name="train the covering set")
def train_cover(jobs: Sequence[Job], store: Path, limits: Limits, profile: bool = False) -> list[JobReport]:
    """Train a few quick learners in this process; see `training_core.jobs.train_here`."""
    return train_here(jobs, store, _tell_and_log(), limits, profile)


def prepare_processes(run: RunConfig) -> None:
    """Load the libraries of learners before they are needed; see `training_core.isolation.warm_up`."""
    if not is_remote(run):
        warm_up()


def train_cohorts(plan: Plan, run: RunConfig, dataset: DatasetRef, store: Path, clock: RunClock) -> TrainingOutcome:
    """Train all groups, as many at a time as there are workers; see `campaigns.dispatch.Dispatcher`.

    A group whose process died twice costs its unfinished learners, not the run.

    Raises:
        UserError: a learner met a setting or data that the user has to mend.
    """
    if plan.cohorts:
        announce({"event": "plan", "plan": plan.model_dump(mode="json"), "deadline": clock.deadline})

    def here(jobs: Sequence[Job], limits: Limits) -> list[JobReport]:
        return train_cover(jobs, store, limits, run.profile)

    dispatcher = Dispatcher(plan, run, dataset, store, clock)
    with listening(dispatcher.on_event), launching(run, store, needed=bool(plan.cohorts)) as (launch, device):
        return dispatcher.train(launch, here, announce, device)


@contextmanager
def launching(run: RunConfig, store: Path, needed: bool = True) -> Iterator[tuple[Launch, str]]:
    """Within the block groups can be trained, each as a task where `run.executor` says; see `tasks.executors`.

    Gives what begins a group, and the kind of device that groups train on.

    A run that is cancelled takes its children with it. Where a group trains in a process that cannot be heard from
    here, what became of its learners is announced when the group is over; until then it is in the logs of its task.

    Raises:
        ConfigError: the executor cannot be used; where no group is `needed` nobody finds out.
    """
    here = run.model_copy(update={"executor": "processes", "cluster": ""})
    with executor_of(run if needed else here, store) as workers:

        def launch(cohort: Cohort, limits: Limits, done: Callable[[Outcome], None]) -> None:
            def over(ended: PrefectFuture[Any]) -> None:
                outcome = cohort_outcome(ended)
                try:
                    for event in unheard(outcome):
                        announce(event)
                finally:
                    done(outcome)

            unheard = news_of(cohort, store) if is_remote(run) else lambda outcome: ()
            arguments = {"cohort": cohort, "store": store, "limits": limits, "profile": run.profile}
            workers.submit(train_cohort, arguments).add_done_callback(over)

        yield launch, workers.device


def cohort_outcome(ended: PrefectFuture[Any]) -> Outcome:
    """What a group gave, or the error it ended with, be it the group's or that of whoever ran it.

    Whatever it is: of a group of which nothing is said the run would wait for ever.
    """
    try:
        return ended.result(raise_on_failure=False)
    except BaseException as error:
        return error


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
        elif event["event"] == "skipped":
            logger.info("%s was skipped: %s", event["job"], event["why"])
        elif event["event"] == "pruned":
            logger.info("%s was %s", event["job"], event["why"])

    return on_event
