"""Tasks that tune: open a study and its record, run its trials where all learners train, publish what came of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect import task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from tasks.progress import announce, stage
from tasks.tracking import ended_with, prefect_tags
from tasks.training import launching
from training_core.campaigns.clock import RunClock
from training_core.campaigns.recording import RecordRef
from training_core.campaigns.run_config import RunConfig
from training_core.campaigns.tuning import recording
from training_core.campaigns.tuning.held_out import compare_held_out
from training_core.campaigns.tuning.plots import best_first, described
from training_core.campaigns.tuning.report import render_markdown, write_report
from training_core.campaigns.tuning.space import with_params
from training_core.campaigns.tuning.summary import StudySummary
from training_core.campaigns.tuning.tuned_run import tuned_run, tuning_deadline, within_budget
from training_core.jobs import DatasetRef


@task(name="prepare-study", task_run_name="prepare study")
def prepare_study(run: RunConfig, dataset: DatasetRef, store: Path) -> RecordRef:
    """Open or begin the study and its record; see `campaigns.tuning.recording.begin_study_record`."""
    from training_core.campaigns.tuning.campaign import Tuner  # with Optuna, which most runs do without

    stage("opening the study")
    folder = Tuner(run, dataset, store).folder
    return recording.begin_study_record(run, dataset, folder, store, prefect_tags())


@contextmanager
def recorded_study(run: RunConfig, dataset: DatasetRef, store: Path) -> Iterator[RecordRef]:
    """The study's record for as long as the block lasts; see `tasks.tracking.ended_with`."""
    record = prepare_study(run, dataset, store)
    with ended_with(record, dataset):
        yield record


@task(name="run-trials", task_run_name="run trials")
def run_trials(run: RunConfig, dataset: DatasetRef, store: Path, deadline: float | None = None) -> StudySummary:
    """Ask, train and tell until the study is done; see `campaigns.tuning.campaign.Tuner`.

    Groups of trials train where all learners do. A cancelled study takes its children with it.

    Raises:
        UserError: a trial met a setting or data that the user has to mend.
    """
    from training_core.campaigns.tuning.campaign import Tuner

    with launching(run, store) as (launch, device):
        return Tuner(run, dataset, store).tune(launch, announce, deadline, device)


@task(name="publish-study", task_run_name="publish study")
def publish_study(
    record: RecordRef, run: RunConfig, dataset: DatasetRef, summary: StudySummary, store: Path
) -> StudySummary:
    """Write the report, tell the tracker and the Prefect UI; see `campaigns.tuning.report.write_report`."""
    stage("writing the report of the study")
    best = summary.best_trial
    held_out = None if best is None else compare_held_out(run, with_params(run, best.params), dataset, store)
    page = write_report(summary, Path(summary.folder), held_out)
    recording.record_study(record, summary)
    rows = [
        {"trial": t.number, **dict(zip(summary.objectives, t.values or (), strict=False)), "settings": described(t)}
        for t in best_first(summary)
    ]
    create_table_artifact(rows, key="trials", description=summary.name)
    create_markdown_artifact(render_markdown(summary, held_out), key="study", description=f"tracked as {record.run_id}")
    create_link_artifact(page.as_uri(), key="study-page", link_text="the whole page")
    return summary


def tune_first(run: RunConfig, dataset: DatasetRef, store: Path, clock: RunClock) -> RunConfig:
    """With `tune: true` the run with the best settings that a study finds; else the run itself, at once.

    Raises:
        GateError: no trial can be used.
    """
    if not run.tune:
        return run
    asked, deadline = within_budget(run, clock), tuning_deadline(clock)
    with recorded_study(asked, dataset, store) as record:
        summary = publish_study(record, asked, dataset, run_trials(asked, dataset, store, deadline), store)
    return tuned_run(run, summary)
