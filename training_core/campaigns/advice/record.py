"""A run's insight, kept beside its report and with its tracker, and its gates held up to it."""

from collections.abc import Sequence
from pathlib import Path

from training_core.artifacts import ArtifactRef, write_text_atomically
from training_core.campaigns.advice.insight import RunInsight, study_run
from training_core.campaigns.advice.page import render_insight_html
from training_core.campaigns.recording import RecordRef, report_path, tracker_at
from training_core.campaigns.run_config import RunConfig
from training_core.campaigns.summary import Judgement
from training_core.jobs import DatasetRef, JobReport

_EXPLAINED_LEARNERS = 3


def insight_path(record: RecordRef) -> Path:
    """Where the page about a run's trainings is written: beside its report."""
    return report_path(record).with_suffix(".training.html")


def record_insight(
    record: RecordRef,
    run: RunConfig,
    ref: DatasetRef,
    reports: Sequence[JobReport],
    ensemble: ArtifactRef,
    judgement: Judgement,
) -> RunInsight:
    """Study a finished run and keep what it teaches, as a page and as JSON; see `insight.study_run`.

    Under a budget of time no learner is asked what its answers depend on: that costs predictions.
    """
    explained = 0 if run.budget.seconds else _EXPLAINED_LEARNERS
    insight = study_run(run, ref, reports, judgement, ensemble=ensemble, gates=run.gates, num_explained=explained)
    page = render_insight_html(insight, ref.label)
    place = insight_path(record)
    place.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(place, page)
    tracker = tracker_at(record.trackers, record.store)
    tracker.log_text(record.run_id, page, "training.html")
    tracker.log_text(record.run_id, insight.model_dump_json(indent=1), "training.json")
    return insight
