"""A comparison as one self-contained page: what moved, how far, how sure, and what it looks like."""

import html
import math
from collections.abc import Sequence

from training_core.monitoring.report import Check, DriftReport
from training_core.pages.charts import DotRow, Line, dot_plot, line_chart
from training_core.pages.document import document, figures, lead
from training_core.pages.tables import CODE, table

_CHARTS = 24
_FAMILIES = {
    "performance": "How well it answers",
    "prediction": "What it answers, and how sure it is",
    "target": "What is true",
    "array": "Arrays and texts as a whole",
    "input": "Features",
    "missing": "What is missing",
    "pattern": "Which modalities come together",
}
_SAYS = {
    "ok": "no drift",
    "warning": "warning",
    "drift": "drift",
    "insufficient_data": "too few rows to say",
}


def write_html(report: DriftReport, past: Sequence[DriftReport] = ()) -> str:
    """The report as HTML that needs no other file and no network.

    Args:
        report: of the window.
        past: earlier reports, oldest first, drawn as the course of what is serious now.
    """
    window = f", window {report.window}" if report.window else ""
    parts = [
        f"<h1>{html.escape(report.name)} <small>{html.escape(_SAYS[report.verdict])}{html.escape(window)}</small></h1>",
        lead(_lead(report)),
        figures(_figures(report)),
    ]
    serious = report.of("drift", "warning")
    if serious:
        parts += ["<h2>What moved</h2>", _table(serious), _charts(serious[:_CHARTS])]
    parts += _course(report, past)
    for family, title in _FAMILIES.items():
        checks = [check for check in report.checks if check.name.partition("/")[0] == family]
        if checks:
            parts += [f"<h2>{html.escape(title)} <small>{len(checks)}</small></h2>", _table(checks)]
    parts.append(f'<p class="foot">{html.escape(_method(report))}</p>')
    return document(f"{report.name}: {_SAYS[report.verdict]}", parts)


def _lead(report: DriftReport) -> str:
    compared = {
        "training": "the reference",
        "rolling": "the windows before it",
        "seasonal": "earlier windows of its season",
    }
    return (
        f"{report.window_rows:,} rows against {report.reference_rows:,} of {compared[report.reference]}: "
        f"{len(report.of('drift'))} drifted, {len(report.of('warning'))} warn, {len(report.of('ok'))} are as before, "
        f"{len(report.of('insufficient_data'))} have too few rows."
    )


def _figures(report: DriftReport) -> list[tuple[str, str]]:
    shown = [(_SAYS[report.verdict], "verdict"), (f"{len(report.drifted)}", f"of {report.num_tests} tests")]
    if report.drifted:
        shown.append((_number(report.score), "times its threshold, the farthest"))
    for check in report.checks:
        if check.kind == "performance" and check.window_value is not None:
            label = f"{check.name.partition('/')[2]}, was {_number(check.reference_value)}"
            shown.append((_number(check.window_value), label))
    if report.expected_score is not None:
        shown.append((_number(report.expected_score), "accuracy its confidence promises"))
    return shown


def _table(checks: Sequence[Check]) -> str:
    header = ("", "verdict", "reference", "window", "JS", "PSI", "KS", "W1 / sd", "shift", "change", "p", "q", "rows")
    rows = [
        (
            f"{CODE}{check.name}",
            _SAYS[check.verdict],
            _number(check.reference_value),
            _number(check.window_value),
            _number(check.js_divergence),
            _number(check.psi),
            _number(check.ks),
            _number(check.wasserstein),
            _number(check.shift),
            "" if check.change is None else f"{check.change:+.3g}",
            _p(check.p_value),
            _p(check.q_value),
            f"{check.window_rows:,}",
        )
        for check in checks
    ]
    return table(header, rows, [check.verdict in {"ok", "insufficient_data"} for check in checks])


def _charts(checks: Sequence[Check]) -> str:
    narrow, wide = [], []
    for check in checks:
        if check.kind == "number" and check.reference_shape and check.window_shape:
            lines = [
                Line("reference", _distribution(check.reference_shape)),
                Line("window", _distribution(check.window_shape), dashed=True),
            ]
            narrow.append(line_chart(lines, "value", f"{check.name}: share of rows below"))
        elif check.kind == "category" and check.labels:
            shares = zip(check.labels, check.reference_shape, check.window_shape, strict=True)
            rows = [DotRow(label, (before, now)) for label, before, now in shares]
            wide.append(dot_plot(rows, ("reference", "window"), f"{check.name}: share of rows"))
    charts = f'<div class="charts">{"".join(narrow)}</div>' if narrow else ""
    return charts + "".join(wide)


def _distribution(quantiles: Sequence[float]) -> list[tuple[float, float]]:
    return [(value, (place + 0.5) / len(quantiles)) for place, value in enumerate(quantiles)]


def _course(report: DriftReport, past: Sequence[DriftReport]) -> list[str]:
    """How strong the most serious checks were, window by window; 1 is where a warning starts."""
    reports = [*past, report]
    worst = [check.name for check in report.checks if check.verdict in {"drift", "warning"}][:4]
    if len(reports) < 2 or not worst:
        return []
    lines = []
    for name in worst:
        strengths = [next((c.strength for c in one.checks if c.name == name), 0.0) for one in reports]
        lines.append(Line(name, [(i + 1.0, min(s, 1e6)) for i, s in enumerate(strengths)]))
    chart = line_chart(lines, "window", "effect over its threshold of warning")
    return ["<h2>Window by window</h2>", f'<div class="charts">{chart}</div>']


def _method(report: DriftReport) -> str:
    config = report.config
    return (
        f"A warning is an effect beyond its threshold with q < {config.significance:g}. Thresholds (warning, drift): "
        f"Jensen-Shannon divergence, base 2, bias corrected {config.warning:g}, {config.drift:g}; Wasserstein distance "
        f"in standard deviations {config.shift_warning:g}, {config.shift_drift:g}; kernel shift of arrays "
        f"{config.array_warning:g}, {config.array_drift:g}; shares {config.share_warning:g}, {config.share_drift:g}; "
        f"performance {config.degradation_warning:g}, {config.degradation_drift:g}. p: G-test, Fisher's exact test, "
        f"random Fourier features, Welch's test; q: Benjamini and Hochberg over {report.num_tests} tests. KS and PSI "
        f"are shown, not judged by. Fewer than {config.min_rows} rows give no verdict."
    )


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if math.isfinite(value) else "∞"


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return "<.001" if value < 0.001 else f"{value:.3f}"
