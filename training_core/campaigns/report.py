"""The report of a run as one self-contained HTML file, and as Markdown for places that render it."""

import html

from training_core.campaigns.summary import RunSummary
from training_core.evaluation.patterns import PatternScore
from training_core.pages.charts import DotRow, dot_plot
from training_core.pages.document import document, figures, lead
from training_core.pages.tables import CODE, markdown_table, table
from training_core.quantities import format_seconds


def render_html(summary: RunSummary) -> str:
    """The report as HTML that needs no other file and no network."""
    kept = f"{summary.learners.kept} of {summary.learners.planned}"
    shown = [
        (f"{summary.score:.4f}", f"{summary.metric}, test split"),
        *([(f"{summary.ece:.3f}", "calibration error")] if summary.ece is not None else []),
        (f"{summary.best_single.score:.4f}", f"best single learner ({summary.best_single.learner})"),
        (f"{summary.plain_mean.score:.4f}", "plain mean of all learners"),
        (kept, "learners kept"),
    ]
    parts = [
        f"<h1>{html.escape(summary.dataset)}</h1>",
        lead(_lead(summary)),
        figures(shown),
        "<h2>When modalities are missing</h2>",
        _pattern_plot(summary),
        table(_pattern_header(summary), _pattern_rows(summary)),
        "<h2>Learners</h2>",
        table(_leaderboard_header(summary), _leaderboard_rows(summary), [not r.weight for r in summary.leaderboard]),
        *_speed_section(summary),
        "<h2>Test metrics</h2>",
        table(("metric", "value"), [(name, f"{value:.4f}") for name, value in sorted(summary.test.items())]),
        "<h2>Where it is</h2>",
        table(("", ""), [(label, f"{CODE}{value}") for label, value in _places(summary)]),
    ]
    return document(f"{summary.dataset}: {summary.metric} {summary.score:.4f}", parts)


def render_markdown(summary: RunSummary) -> str:
    """The same report, without the picture."""
    ece = "" if summary.ece is None else f", calibration error {summary.ece:.3f}"
    lines = [
        f"# {summary.dataset}: {summary.metric} {summary.score:.4f}{ece}",
        "",
        _lead(summary),
        "",
        f"Best single learner {summary.best_single.score:.4f} ({summary.best_single.learner}); "
        f"plain mean {summary.plain_mean.score:.4f}.",
        "",
        "## When modalities are missing",
        "",
        *markdown_table(_pattern_header(summary), _pattern_rows(summary)),
        "",
        "## Learners",
        "",
        *markdown_table(_leaderboard_header(summary), _leaderboard_rows(summary)),
        "",
        *(["## Speed of the nets", "", *markdown_table(*_speed_table(summary)), ""] if summary.speed else []),
        "## Where it is",
        "",
        *(f"- {label}: `{value}`" for label, value in _places(summary)),
    ]
    return "\n".join(lines) + "\n"


def _lead(summary: RunSummary) -> str:
    counts = summary.learners
    failed = "".join(f"; {name} failed: {error}" for name, error in summary.failures.items())
    return (
        f"{counts.trained} learners trained, {counts.reused} reused, {counts.failed} failed, in "
        f"{format_seconds(summary.seconds)}; seed {summary.seed}{failed}."
    )


def _places(summary: RunSummary) -> list[tuple[str, str]]:
    return [
        ("model", summary.model),
        ("ensemble", summary.ensemble),
        ("run", summary.run_id),
        ("tracking", summary.tracking),
        ("predictions SHA-256", summary.predictions_sha256),
    ]


def _speed_section(summary: RunSummary) -> list[str]:
    """How fast the nets were trained, and what the profiled ones spent their time on; nothing when there are none."""
    if not summary.speed:
        return []
    parts = ["<h2>Speed of the nets</h2>", table(*_speed_table(summary))]
    for name, profiled in summary.profiles.items():
        parts += [
            f"<details><summary>What {html.escape(name)} spent its time on</summary>",
            f"<pre>{html.escape(profiled.profile.table())}</pre>",
            f"<p>The trace is in <code>{html.escape(profiled.folder)}</code>.</p></details>",
        ]
    return parts


def _speed_table(summary: RunSummary) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    header = ("net", "trained", "rows/s", "updates/s", "step, ms", "waiting for data", "peak MB")
    on_gpu = any(speed.gpu_utilization is not None for speed in summary.speed.values())
    rows = [
        (
            name,
            "alone" if speed.learners == 1 else f"with {speed.learners - 1} others, figures of all",
            f"{speed.samples_per_second:.0f}",
            f"{speed.updates_per_second:.1f}",
            f"{1e3 * speed.step_seconds_median:.2f}",
            f"{speed.data_wait_share:.1%}",
            f"{speed.peak_memory_bytes / 1e6:.0f}",
            *([f"{speed.gpu_utilization or 0:.0%}"] if on_gpu else []),
        )
        for name, speed in sorted(summary.speed.items())
    ]
    return (*header, "GPU busy") if on_gpu else header, rows


def _pattern_header(summary: RunSummary) -> tuple[str, ...]:
    return ("available", "missing", summary.metric, "calibration error", "confidence")


def _pattern_rows(summary: RunSummary) -> list[tuple[str, ...]]:
    return [
        (
            ", ".join(row.available),
            ", ".join(row.missing) or "nothing",
            f"{row.score:.4f}",
            "" if row.ece is None else f"{row.ece:.3f}",
            f"{row.confidence:.3f}",
        )
        for row in summary.patterns
    ]


def _leaderboard_header(summary: RunSummary) -> tuple[str, ...]:
    return ("learner", "modalities", "bag", f"validation {summary.metric}", "weight", "seconds", "MB")


def _leaderboard_rows(summary: RunSummary) -> list[tuple[str, ...]]:
    return [
        (
            row.label,
            ", ".join(row.modalities),
            row.bag,
            "failed" if row.score is None else f"{row.score:.4f}",
            f"{row.weight:.3f}",
            f"{row.seconds:.1f}",
            f"{row.megabytes:.1f}",
        )
        for row in summary.leaderboard
    ]


def pattern_label(pattern: PatternScore) -> str:
    """How a pattern is called beside a plot: `all`, `only photo`, `without photo`."""
    if not pattern.missing:
        return "all"
    return f"only {pattern.available[0]}" if len(pattern.available) == 1 else f"without {', '.join(pattern.missing)}"


def _pattern_plot(summary: RunSummary) -> str:
    """Score and mean confidence per availability pattern."""
    rows = [DotRow(pattern_label(row), (row.score, row.confidence)) for row in summary.patterns]
    label = "Score and confidence under every availability pattern"
    return dot_plot(rows, (summary.metric, "mean confidence"), label)
