"""What a run teaches, for people: a page that needs no other file, and the same as Markdown."""

import html

from training_core.campaigns.advice.insight import RunInsight
from training_core.evaluation.analytics import LearnerAnalysis, TrainingReport
from training_core.evaluation.impact import PairedDifference
from training_core.pages.document import document, figures, lead
from training_core.pages.tables import CODE, markdown_table, table
from training_core.quantities import format_seconds

_LEARNER_HEADER = (
    "learner", "score", "seconds", "epochs", "kept", "converged", "overfitting", "stability", "rows/s", "depends on",
)  # fmt: skip


def render_insight_html(insight: RunInsight, title: str) -> str:
    """The page; `title` is plain text, such as the name of the data set."""
    parts = [
        f"<h1>{html.escape(title)}: how its learners trained</h1>",
        lead(_lead(insight.report)),
        figures(_figures(insight.report)),
    ]
    if insight.gates:
        parts += ["<h2>Quality gates</h2>", table(("gate", "what was seen"), _gate_rows(insight))]
    parts.append("<h2>What to change</h2>")
    parts.append(
        table(("problem", "evidence", "change"), [(p, e, CODE + c) for p, e, c in _advice_rows(insight)])
        if insight.advice
        else lead("Nothing stands out: no diagnosis found anything to mend.")
    )
    parts += ["<h2>Learners</h2>", table(_LEARNER_HEADER, _learner_rows(insight.report))]
    return document(f"{title}: training", parts)


def render_insight_markdown(insight: RunInsight, title: str) -> str:
    """The same as Markdown."""
    lines = [f"# {title}: how its learners trained", "", _lead(insight.report), ""]
    lines += [f"- {label}: {value}" for value, label in _figures(insight.report)]
    if insight.gates:
        lines += ["", "## Quality gates", "", *markdown_table(("gate", "what was seen"), _gate_rows(insight))]
    lines += ["", "## What to change", ""]
    if insight.advice:
        lines += markdown_table(("problem", "evidence", "change"), _advice_rows(insight))
    else:
        lines.append("Nothing stands out: no diagnosis found anything to mend.")
    lines += ["", "## Learners", "", *markdown_table(_LEARNER_HEADER, _learner_rows(insight.report))]
    return "\n".join(lines) + "\n"


def _lead(report: TrainingReport) -> str:
    done = report.num_learners - report.num_failed - report.num_skipped
    skipped = f", {report.num_skipped} skipped" if report.num_skipped else ""
    best = f" The best, {report.best_learner}, scores {report.best_score:.4f}." if report.best_learner else ""
    return f"{done} of {report.num_learners} learners trained, {report.num_failed} failed{skipped}.{best}"


def _figures(report: TrainingReport) -> list[tuple[str, str]]:
    known = [
        (_number(report.mean_score, 4), "mean score of the learners"),
        (format_seconds(report.total_seconds), "training time of all learners"),
        ("" if report.epoch_seconds is None else format_seconds(report.epoch_seconds), "per epoch"),
        (f"{report.peak_mb:.0f} MB", "peak memory of a process"),
        (_number(report.gpu_utilization, 2), "GPU utilisation"),
        (_number(report.final_loss, 4), "final loss of the best net"),
        (_number(report.convergence_epoch, 0), "median epoch of convergence"),
        (_number(report.overfitting, 2), "median overfitting (0 none, 1 all)"),
        (_number(report.stability, 2), "median stability (1 steady)"),
        (_number(report.samples_per_second, 0), "rows per second"),
        (_number(report.updates_per_second, 1), "updates per second"),
        (_number(report.predicted_ratio, 2), "time taken over time predicted"),
        (_impact(report.denoising_impact), "score added by denoising, paired"),
    ]
    return [(value, label) for value, label in known if value]


def _gate_rows(insight: RunInsight) -> list[tuple[str, ...]]:
    return [(gate.gate, gate.message) for gate in insight.gates]


def _advice_rows(insight: RunInsight) -> list[tuple[str, str, str]]:
    rows = []
    for advice in insight.advice:
        name, evidence = advice.diagnosis.problem.replace("_", " "), advice.diagnosis.evidence
        changes = [change.spelled() for change in advice.changes] or ["changed above"]
        rows += [(name if first else "", evidence if first else "", c) for first, c in _marked(changes)]
    return rows


def _marked(changes: list[str]) -> list[tuple[bool, str]]:
    return [(place == 0, change) for place, change in enumerate(changes)]


def _learner_rows(report: TrainingReport) -> list[tuple[str, ...]]:
    ranked = sorted(report.learners, key=lambda one: (one.score is None, -(one.score or 0.0), one.name))
    return [
        (
            one.name,
            one.status if one.score is None else f"{one.score:.4f}",
            f"{one.seconds:.1f}",
            str(one.epochs),
            "" if one.kept_epoch is None else str(one.kept_epoch),
            "" if one.convergence_epoch is None else str(one.convergence_epoch),
            _number(one.overfitting, 2),
            _number(one.stability, 2),
            _number(one.samples_per_second, 0),
            _dependence(one),
        )
        for one in ranked
    ]


def _dependence(one: LearnerAnalysis) -> str:
    shares = sorted(one.modality_weights.items(), key=lambda item: -item[1])
    said = ", ".join(f"{name} {share:.0%}" for name, share in shares)
    return f"{said}; {', '.join(one.top_features[:3])}" if one.top_features else said


def _impact(found: PairedDifference | None) -> str:
    if found is None:
        return ""
    if found.interval is None:
        return f"{found.mean:+.4f} (1 pair)"
    return f"{found.mean:+.4f} ({found.interval.low:+.4f} to {found.interval.high:+.4f}, {found.num_pairs} pairs)"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
