"""Charts of many points, as inline SVG: scatter plots, bundles of curves, parallel coordinates.

Axes may be logarithmic or hold choices instead of numbers, and may be cut: values beyond the end of a cut axis are
drawn on its edge, so that a few very bad ones do not squeeze all others into a line.
"""

import html
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training_core.pages.charts import SERIES, WIDTH, chart, ticks

_HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 240.0, 52.0, 12.0, 10.0, 36.0
_PARALLEL_HEIGHT = 300.0
_CUT_REACH = 2.0  # ranges between the best value and the median, beyond the median, that a cut axis shows
_FAINTEST = 0.25
_MOST_MARKS = 9  # on a logarithmic axis
_LAYERS = ("fourth", "third", "first", "second")  # drawn in this order: the second series is what stands out
_MOST_SHOWN = 14  # letters of a choice beside an axis


@dataclass(frozen=True)
class Axis:
    """What runs along an axis: numbers from `low` to `high`, or `choices`, each at its place among them."""

    label: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    choices: tuple[str, ...] = ()

    @classmethod
    def of(cls, label: str, values: Sequence[float], log: bool = False) -> "Axis":
        """An axis that holds all values that are finite; logarithmic only where all of them are above 0."""
        found = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
        low, high = min(found), max(found)
        if log and low > 0:
            return cls(label, low, high if high > low else low * 2, log=True)
        marks = ticks(low, high)
        return cls(label, marks[0], marks[-1])

    @classmethod
    def cut(cls, label: str, values: Sequence[float], minimise: bool = True) -> "Axis":
        """An axis that shows the better values well, and the very bad ones on its edge.

        It ends at twice the distance between the best value and the median, counted from the median.
        """
        found = np.array([value for value in values if math.isfinite(value)] or [0.0, 1.0])
        best, median = float(found.min() if minimise else found.max()), float(np.median(found))
        edge = median + _CUT_REACH * (median - best)
        kept = found[found <= edge] if minimise else found[found >= edge]
        return cls.of(label, [float(value) for value in kept])

    @classmethod
    def choice(cls, label: str, choices: Sequence[str]) -> "Axis":
        """An axis of choices, in the order they are given."""
        return cls(label, -0.5, max(len(choices), 1) - 0.5, choices=tuple(choices))

    def share(self, value: float | str) -> float:
        """How far along the axis a value is, from 0 to 1; what lies beyond an end is on it."""
        if self.choices:
            value = float(self.choices.index(str(value)))
        number = float(value)
        if self.log:
            share = math.log(max(number, 1e-300) / self.low) / math.log(self.high / self.low)
        else:
            share = (number - self.low) / (self.high - self.low)
        return min(max(share, 0.0), 1.0)

    def marks(self) -> list[tuple[float, str]]:
        """Where something is written beside the axis, as shares, and what."""
        if self.choices:
            return [(self.share(choice), _cut(choice)) for choice in self.choices]
        numbers = _log_marks(self.low, self.high) if self.log else ticks(self.low, self.high, inside=True)
        return [(self.share(number), _short(number)) for number in numbers if self.low <= number <= self.high]


@dataclass(frozen=True)
class Point:
    """A point of a scatter plot; `text` is shown when it is pointed at, `strength` in [0, 1] is how dark it is."""

    x: float | str
    y: float
    text: str = ""
    style: str = SERIES[0]
    strength: float = 1.0


@dataclass(frozen=True)
class Thread:
    """A line through all axes of a parallel plot; None where it has nothing to say about an axis."""

    values: Sequence[float | str | None]
    text: str = ""
    style: str = SERIES[3]


@dataclass(frozen=True)
class Curve:
    """A line of points (x, y) among others."""

    points: Sequence[tuple[float, float]]
    text: str = ""
    style: str = SERIES[3]


def scatter(
    points: Sequence[Point],
    x: Axis,
    y: Axis,
    names: Sequence[str] = (),
    steps: Sequence[tuple[float, float]] = (),
    label: str = "",
) -> str:
    """Points, and a line of steps through some (a best so far, a front); empty text without points.

    Args:
        points: those that are not finite are left out.
        x: the axis below.
        y: the axis beside; its label is also the name of the chart.
        names: of the series in the order of `SERIES`, for the legend.
        steps: corners (x, y) of a line that goes across first, then up or down.
        label: another name for the chart.
    """
    points = [point for point in points if math.isfinite(point.y)]
    if not points:
        return ""
    parts = [_frame(x, y)]
    if len(steps) > 1:
        corners = [steps[0]]
        for before, after in itertools.pairwise(steps):
            corners += [(after[0], before[1]), after]
        places = " ".join(f"{_x(x, one):.1f},{_y(y, other):.1f}" for one, other in corners)
        parts.append(f'<polyline class="{SERIES[1]}" points="{places}"/>')
    for point in sorted(points, key=lambda point: _LAYERS.index(point.style)):
        faded = f' opacity="{_FAINTEST + (1 - _FAINTEST) * point.strength:.2f}"' if point.strength < 1 else ""
        parts.append(
            f'<circle class="{point.style}" cx="{_x(x, point.x):.1f}" cy="{_y(y, point.y):.1f}" r="3.2"{faded}>'
            f"<title>{html.escape(point.text)}</title></circle>"
        )
    return chart("".join(parts), _HEIGHT, label or y.label, names)


def curves(lines: Sequence[Curve], x: Axis, y: Axis, names: Sequence[str] = (), label: str = "") -> str:
    """Many lines over one x axis; empty text when there is none of two points."""
    lines = [line for line in lines if sum(math.isfinite(value) for _, value in line.points) > 1]
    if not lines:
        return ""
    parts = [_frame(x, y)]
    for line in sorted(lines, key=lambda line: _LAYERS.index(line.style)):
        places = " ".join(f"{_x(x, one):.1f},{_y(y, other):.1f}" for one, other in line.points if math.isfinite(other))
        parts.append(
            f'<polyline class="{line.style} thin" points="{places}"><title>{html.escape(line.text)}</title></polyline>'
        )
    return chart("".join(parts), _HEIGHT, label or y.label, names)


def parallel_coordinates(axes: Sequence[Axis], threads: Sequence[Thread], label: str, names: Sequence[str] = ()) -> str:
    """One upright axis beside the other and a line through them per thread.

    What a thread has no value for stands below the axis, at "not used". Empty text without threads or with one axis.
    """
    if not threads or len(axes) < 2:
        return ""
    width, top, bottom = 2 * WIDTH, 18.0, 62.0
    gap = (width - 130.0) / (len(axes) - 1)
    below = _PARALLEL_HEIGHT - bottom + 18.0

    def place(number: int, value: float | str | None) -> tuple[float, float]:
        share = None if value is None else axes[number].share(value)
        height = _PARALLEL_HEIGHT - top - bottom
        return 60.0 + gap * number, below if share is None else top + (1 - share) * height

    parts = []
    for thread in sorted(threads, key=lambda thread: _LAYERS.index(thread.style)):
        through = " ".join(
            f"{across:.1f},{up:.1f}" for across, up in (place(i, value) for i, value in enumerate(thread.values))
        )
        parts.append(
            f'<polyline class="{thread.style} thin" points="{through}"><title>{html.escape(thread.text)}</title>'
            "</polyline>"
        )
    missing = any(value is None for thread in threads for value in thread.values)
    for number, axis in enumerate(axes):
        across, low = place(number, None)
        parts.append(f'<line class="axis" x1="{across}" y1="{top}" x2="{across}" y2="{low - 18:.1f}"/>')
        for share, text in axis.marks():
            up = top + (1 - share) * (_PARALLEL_HEIGHT - top - bottom)
            parts.append(f'<text class="tick halo" x="{across + 5}" y="{up + 4:.1f}">{html.escape(text)}</text>')
        if missing and any(thread.values[number] is None for thread in threads):
            parts.append(f'<text class="tick halo" x="{across + 5}" y="{low + 4:.1f}">not used</text>')
        name = f"{html.escape(_cut(axis.label, 22))}<title>{html.escape(axis.label)}</title>"
        up = _PARALLEL_HEIGHT - (20 if number % 2 == 0 else 6)  # in two lines, so that long names have room
        parts.append(f'<text class="name" x="{across}" y="{up}" text-anchor="middle">{name}</text>')
    return chart("".join(parts), _PARALLEL_HEIGHT, label, names, width)


def _frame(x: Axis, y: Axis) -> str:
    """Lines and numbers of both axes."""
    parts = []
    for share, text in y.marks():
        up = _TOP + (1 - share) * (_HEIGHT - _TOP - _BOTTOM)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" y1="{up:.1f}" x2="{WIDTH - _RIGHT}" y2="{up:.1f}"/>'
            f'<text class="tick" x="{_LEFT - 6}" y="{up + 4:.1f}" text-anchor="end">{html.escape(text)}</text>'
        )
    for share, text in x.marks():
        across = _LEFT + share * (WIDTH - _LEFT - _RIGHT)
        parts.append(
            f'<text class="tick" x="{across:.1f}" y="{_HEIGHT - _BOTTOM + 15:.1f}" text-anchor="middle">'
            f"{html.escape(text)}</text>"
        )
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(
        f'<text class="tick" x="{middle:.1f}" y="{_HEIGHT - 4:.1f}" text-anchor="middle">{html.escape(x.label)}</text>'
    )
    return "".join(parts)


def _x(axis: Axis, value: float | str) -> float:
    return _LEFT + axis.share(value) * (WIDTH - _LEFT - _RIGHT)


def _y(axis: Axis, value: float) -> float:
    return _TOP + (1 - axis.share(value)) * (_HEIGHT - _TOP - _BOTTOM)


def _log_marks(low: float, high: float) -> list[float]:
    """Powers of ten; with 2 and 5 times them where there are few, and the ends themselves where there are none."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for nice in ((1, 2, 5), (1,)):
        found = [mark for power in range(first, last + 1) for n in nice if low <= (mark := n * 10.0**power) <= high]
        if 2 <= len(found) <= _MOST_MARKS:
            return found
    step = max(1, round((last - first) / _MOST_MARKS))
    sparse = [10.0**power for power in range(first, last + 1, step) if low <= 10.0**power <= high]
    return sparse if len(sparse) > 1 else [low, high]


def _short(value: float) -> str:
    return f"{value:.4g}"


def _cut(text: str, most: int = _MOST_SHOWN) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
