"""Charts as inline SVG: lines with bands, a reliability diagram, dots with intervals. Colours are the page's."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

WIDTH, _HEIGHT = 420.0, 240.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 48.0, 12.0, 10.0, 36.0
_DOT_ROW, _DOT_LABEL = 26.0, 190.0
SERIES = ("first", "second", "third", "fourth")
"""Classes of the style sheet, in the order in which series get them."""


@dataclass(frozen=True)
class Line:
    """A named series of (x, y) points; `low` and `high` are the edges of a band around it, one per point."""

    name: str
    points: Sequence[tuple[float, float]]
    low: Sequence[float] = field(default=())
    high: Sequence[float] = field(default=())
    dashed: bool = False


@dataclass(frozen=True)
class DotRow:
    """A row of a dot plot: values of the series in order (None where there is none), and an interval of the first."""

    label: str
    values: Sequence[float | None]
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class _Axes:
    """From values to places in the picture."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        return _LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        value = min(max(value, self.y_low), self.y_high)
        return _TOP + (self.y_high - value) / (self.y_high - self.y_low) * (_HEIGHT - _TOP - _BOTTOM)


def line_chart(lines: Sequence[Line], x_label: str, y_label: str, percent: bool = False) -> str:
    """Lines over a common x axis, with a legend; empty text when no line has two points.

    Args:
        lines: up to four.
        x_label: what runs along the x axis.
        y_label: what runs along the y axis, also the name of the chart.
        percent: whether x is a share that is written in percent.
    """
    lines = [line for line in lines if len(line.points) > 1 and all(math.isfinite(y) for _, y in line.points)]
    if not lines:
        return ""
    xs = [x for line in lines for x, _ in line.points]
    ys = [v for line in lines for v in [*(y for _, y in line.points), *line.low, *line.high] if math.isfinite(v)]
    y_ticks = ticks(min(ys), max(ys))
    axes = _Axes(min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1, y_ticks[0], y_ticks[-1])
    parts = [_grid(axes, ticks(min(xs), max(xs), inside=True), y_ticks, x_label, percent)]
    for style, line in zip(SERIES, lines, strict=False):
        if line.low:
            upper = [(x, high) for (x, _), high in zip(line.points, line.high, strict=True)]
            lower = [(x, low) for (x, _), low in zip(line.points, line.low, strict=True)]
            parts.append(f'<polygon class="{style}" points="{_path(axes, [*upper, *reversed(lower)])}"/>')
        dashes = ' stroke-dasharray="5 4"' if line.dashed else ""
        parts.append(f'<polyline class="{style}"{dashes} points="{_path(axes, line.points)}"/>')
        parts += [
            f'<circle class="{style}" cx="{axes.x(x):.1f}" cy="{axes.y(y):.1f}" r="2.6">'
            f"<title>{html.escape(line.name)}: {y:.4g} at {_number(x, percent)}</title></circle>"
            for x, y in line.points
            if len(line.points) <= 30
        ]
    return chart("".join(parts), _HEIGHT, y_label, [line.name for line in lines] if len(lines) > 1 else [])


def reliability_diagram(bins: Sequence[tuple[float, float, int]], label: str) -> str:
    """Accuracy against confidence in bins (confidence, accuracy, rows); the larger a dot, the more rows.

    On the diagonal confidence is what it says. Empty text without bins.
    """
    if not bins:
        return ""
    lowest = min(min(confidence, accuracy) for confidence, accuracy, _ in bins)
    low = max(0.0, math.floor(10 * lowest) / 10)
    low = min(low, 0.9)
    axes = _Axes(low, 1.0, low, 1.0)
    most = max(rows for _, _, rows in bins)
    marks = ticks(low, 1.0, inside=True)
    parts = [
        _grid(axes, marks, marks, "confidence", percent=False),
        f'<line class="diagonal" x1="{axes.x(low):.1f}" y1="{axes.y(low):.1f}" x2="{axes.x(1):.1f}" '
        f'y2="{axes.y(1):.1f}"/>',
    ]
    for confidence, accuracy, rows in bins:
        x, y = axes.x(confidence), axes.y(accuracy)
        parts.append(f'<line class="gap" x1="{x:.1f}" y1="{axes.y(confidence):.1f}" x2="{x:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<circle class="first" cx="{x:.1f}" cy="{y:.1f}" r="{3 + 5 * math.sqrt(rows / most):.1f}">'
            f"<title>confidence {confidence:.3f}, accuracy {accuracy:.3f}, {rows} rows</title></circle>"
        )
    return chart("".join(parts), _HEIGHT, label, [])


def dot_plot(rows: Sequence[DotRow], names: Sequence[str], label: str) -> str:
    """One row per label with a dot per series, and the interval of the first series as a bar; empty without rows."""
    found = [v for row in rows for v in [*row.values, row.low, row.high] if v is not None and math.isfinite(v)]
    if not found:
        return ""
    marks = ticks(min(found), max(found))
    width = 2 * WIDTH
    span = width - _DOT_LABEL - 2 * _RIGHT

    def x(value: float) -> float:
        return _DOT_LABEL + (value - marks[0]) / (marks[-1] - marks[0]) * span

    height = _TOP + _DOT_ROW * len(rows) + 24
    parts = [
        f'<line class="grid" x1="{x(mark):.1f}" y1="{_TOP}" x2="{x(mark):.1f}" y2="{height - 22:.1f}"/>'
        f'<text class="tick" x="{x(mark):.1f}" y="{height - 8:.1f}" text-anchor="middle">{_short(mark)}</text>'
        for mark in marks
    ]
    for place, row in enumerate(rows):
        y = _TOP + _DOT_ROW * (place + 0.5)
        parts.append(
            f'<text class="name" x="{_DOT_LABEL - 12}" y="{y + 4:.1f}" text-anchor="end">'
            f"{html.escape(_cut(row.label))}<title>{html.escape(row.label)}</title></text>"
        )
        if row.low is not None and row.high is not None:
            parts.append(f'<line class="bar" x1="{x(row.low):.1f}" y1="{y:.1f}" x2="{x(row.high):.1f}" y2="{y:.1f}"/>')
        for style, name, value in reversed(list(zip(SERIES, names, row.values, strict=False))):
            if value is not None and math.isfinite(value):
                radius = 5 if style == "first" else 3.6
                parts.append(
                    f'<circle class="{style}" cx="{x(value):.1f}" cy="{y:.1f}" r="{radius}">'
                    f"<title>{html.escape(row.label)}, {html.escape(name)}: {value:.4g}</title></circle>"
                )
    return chart("".join(parts), height, label, list(names), width)


def ticks(low: float, high: float, inside: bool = False, about: int = 5) -> list[float]:
    """Round numbers from below `low` to above `high` (between them when `inside`), about so many; at least two."""
    if not high > low:
        reach = max(abs(low) * 0.05, 1e-3)
        low, high = low - reach, high + reach
    raw = (high - low) / about
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * nice for nice in (1, 2, 5, 10) if power * nice >= raw * (1 - 1e-9))
    slack = 1e-6
    if inside:
        first, last = math.ceil(low / step - slack), math.floor(high / step + slack)
    else:
        first, last = math.floor(low / step + slack), math.ceil(high / step - slack)
    return [round(step * k, 12) for k in range(first, max(last, first + 1) + 1)]


def _grid(axes: _Axes, xs: Sequence[float], ys: Sequence[float], x_label: str, percent: bool) -> str:
    parts = [
        f'<line class="grid" x1="{_LEFT}" y1="{axes.y(y):.1f}" x2="{WIDTH - _RIGHT}" y2="{axes.y(y):.1f}"/>'
        f'<text class="tick" x="{_LEFT - 6}" y="{axes.y(y) + 4:.1f}" text-anchor="end">{_short(y)}</text>'
        for y in ys
    ]
    parts += [
        f'<text class="tick" x="{axes.x(x):.1f}" y="{_HEIGHT - _BOTTOM + 15:.1f}" text-anchor="middle">'
        f"{_number(x, percent)}</text>"
        for x in xs
        if axes.x_low <= x <= axes.x_high
    ]
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(
        f'<text class="tick" x="{middle:.1f}" y="{_HEIGHT - 4:.1f}" text-anchor="middle">{html.escape(x_label)}</text>'
    )
    return "".join(parts)


def chart(inside: str, height: float, label: str, names: Sequence[str], width: float = WIDTH) -> str:
    """The frame of a chart: its name, a legend of those series that have a name, and the drawing itself (SVG).

    A drawing wider than `WIDTH` gets the width of the page; other charts stand side by side.
    """
    legend = "".join(
        f'<span class="{style}">{html.escape(name)}</span>' for style, name in zip(SERIES, names, strict=False) if name
    )
    shown = f'<div class="legend series">{legend}</div>' if legend else ""
    size = "wide" if width > WIDTH else ""
    return (
        f'<figure class="chart {size}"><figcaption>{html.escape(label)}</figcaption>{shown}'
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{html.escape(label)}">{inside}</svg>'
        "</figure>"
    )


def _path(axes: _Axes, points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in points)


def _number(value: float, percent: bool) -> str:
    return f"{100 * value:.0f}%" if percent else _short(value)


def _short(value: float) -> str:
    return f"{value:.6g}"


def _cut(text: str, most: int = 27) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
