"""The report of a run as one self-contained HTML file, and as Markdown for places that render it."""

import base64
import html
import io
from collections.abc import Iterable, Sequence

from training_core.campaigns.summary import RunSummary
from training_core.quantities import format_seconds

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1c2430;background:#fff}
h1{font-size:1.6rem;margin-bottom:.2rem} h2{font-size:1.15rem;margin-top:2rem}
.lead{color:#5b6675;margin-top:0} .figures{display:flex;gap:2.5rem;flex-wrap:wrap;margin:1.2rem 0}
.figures b{display:block;font-size:1.7rem;font-weight:600} .figures span{color:#5b6675;font-size:.85rem}
table{border-collapse:collapse;font-size:.9rem;min-width:50%}
th{text-align:left;border-bottom:2px solid #c9d1dc} th.number{text-align:right}
td,th{padding:.3rem 1.2rem .3rem 0;vertical-align:top} td{border-bottom:1px solid #e8ecf1}
.number{text-align:right;font-variant-numeric:tabular-nums} .unused td{color:#8a94a3} img{max-width:100%}
pre{font-size:.8rem;overflow-x:auto} code{background:#f2f4f7;padding:.1rem .3rem;border-radius:3px;word-break:break-all}
"""


def render_html(summary: RunSummary) -> str:
    """The report as HTML that needs no other file and no network."""
    kept = f"{summary.learners.kept} of {summary.learners.planned}"
    figures = [
        (f"{summary.score:.4f}", f"{summary.metric}, test split"),
        *([(f"{summary.ece:.3f}", "calibration error")] if summary.ece is not None else []),
        (f"{summary.best_single.score:.4f}", f"best single learner ({summary.best_single.learner})"),
        (f"{summary.plain_mean.score:.4f}", "plain mean of all learners"),
        (kept, "learners kept"),
    ]
    shown = "".join(
        f"<div><b>{html.escape(value)}</b><span>{html.escape(label)}</span></div>" for value, label in figures
    )
    parts = [
        f"<h1>{html.escape(summary.dataset)}</h1>",
        f'<p class="lead">{html.escape(_lead(summary))}</p>',
        f'<div class="figures">{shown}</div>',
        "<h2>When modalities are missing</h2>",
        f'<img alt="score and confidence under every availability pattern" src="{_pattern_plot(summary)}">',
        _html_table(_pattern_header(summary), _pattern_rows(summary)),
        "<h2>Learners</h2>",
        _html_table(
            _leaderboard_header(summary), _leaderboard_rows(summary), [not r.weight for r in summary.leaderboard]
        ),
        *_speed_section(summary),
        "<h2>Test metrics</h2>",
        _html_table(("metric", "value"), [(name, f"{value:.4f}") for name, value in sorted(summary.test.items())]),
        "<h2>Where it is</h2>",
        _html_table(("", ""), [(label, f"\0{value}") for label, value in _places(summary)]),
    ]
    title = html.escape(f"{summary.dataset}: {summary.metric} {summary.score:.4f}")
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(parts)}</body></html>\n"


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
        *_markdown_table(_pattern_header(summary), _pattern_rows(summary)),
        "",
        "## Learners",
        "",
        *_markdown_table(_leaderboard_header(summary), _leaderboard_rows(summary)),
        "",
        *(["## Speed of the nets", "", *_markdown_table(*_speed_table(summary)), ""] if summary.speed else []),
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
    parts = ["<h2>Speed of the nets</h2>", _html_table(*_speed_table(summary))]
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


def _html_table(header: Sequence[str], rows: Iterable[Sequence[str]], unused: Sequence[bool] = ()) -> str:
    """A table; a cell that starts with a NUL is shown as code, a column of numbers is set to the right."""
    rows = list(rows)
    right = [any(map(_is_number, column)) for column in zip(*rows, strict=True)]
    lines = []
    for index, row in enumerate(rows):
        style = ' class="unused"' if unused and unused[index] else ""
        cells = "".join(_html_cell("td", *cell) for cell in zip(row, right, strict=True))
        lines.append(f"<tr{style}>{cells}</tr>")
    names = "".join(_html_cell("th", *cell) for cell in zip(header, right, strict=True)) if any(header) else ""
    return f"<table><thead><tr>{names}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _html_cell(tag: str, text: str, right: bool) -> str:
    if text.startswith("\0"):
        return f"<{tag}><code>{html.escape(text[1:])}</code></{tag}>"
    return f"<{tag}{' class=number' if right else ''}>{html.escape(text)}</{tag}>"


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).removeprefix("-").isdigit()


def _markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return [f"| {' | '.join(line)} |" for line in [list(header), ["---"] * len(header), *cells]]


def _pattern_plot(summary: RunSummary) -> str:
    """Score and mean confidence per availability pattern, as a PNG in a data URL."""
    from matplotlib.figure import Figure  # the object interface: no global state, no display

    rows = summary.patterns[::-1]
    labels = ["all" if not row.missing else "only " + row.available[0] if len(row.available) == 1
              else "without " + ", ".join(row.missing) for row in rows]  # fmt: skip
    figure = Figure(figsize=(8.5, 0.9 + 0.34 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    scores = [row.score for row in rows]
    confidences = [row.confidence for row in rows]
    axes.hlines(labels, scores, confidences, color="#c9d1dc", linewidth=2)
    axes.plot(scores, labels, "o", color="#2f5d8a", markersize=9, label=summary.metric)
    axes.plot(confidences, labels, "o", color="#e4572e", markersize=6, label="mean confidence")
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.grid(axis="x", color="#e3e7ed")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
