"""Axes put values where they belong, and charts of many points hold them all."""

import math
import xml.etree.ElementTree as ElementTree

import pytest

from training_core.pages.scatter import Axis, Curve, Point, Thread, curves, parallel_coordinates, scatter
from training_core.pages.svg_file import svg_file

HOSTILE = "<script>alert('x')</script>\"&]]>"


def places(chart: str, style: str) -> list[tuple[float, float]]:
    found = ElementTree.fromstring(chart).iter("circle")
    return [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in found if c.attrib["class"] == style]


def test_on_a_logarithmic_axis_equal_factors_are_equal_steps() -> None:
    axis = Axis.of("lr", [1e-4, 1e-2, 1.0], log=True)
    assert axis.share(1e-2) - axis.share(1e-4) == pytest.approx(axis.share(1.0) - axis.share(1e-2))
    assert [text for _, text in axis.marks()] == ["0.0001", "0.001", "0.01", "0.1", "1"]


@pytest.mark.parametrize("values", [[0.0, 1.0], [-1.0, 10.0], [math.nan]])
def test_what_is_not_above_zero_is_never_logarithmic(values: list[float]) -> None:
    assert not Axis.of("x", values, log=True).log


@pytest.mark.parametrize(("low", "high"), [(0.9, 1.1), (3.0, 3.0), (1e-12, 1e12), (2e-5, 9e-5)])
def test_a_logarithmic_axis_has_a_few_marks_within_its_ends(low: float, high: float) -> None:
    axis = Axis.of("x", [low, high], log=True)
    assert 1 <= len(axis.marks()) <= 10
    assert all(0 <= share <= 1 for share, _ in axis.marks())


def test_a_cut_axis_shows_the_better_half_well_and_the_worst_on_its_edge() -> None:
    losses = [0.1, 0.12, 0.15, 0.2, 900.0]
    axis = Axis.cut("loss", losses)
    assert axis.high < 1
    assert axis.share(900.0) == 1.0
    scores = Axis.cut("r2", [-500.0, 0.8, 0.9, 0.95], minimise=False)
    assert scores.low > -1
    assert scores.share(-500.0) == 0.0


def test_choices_stand_in_their_order() -> None:
    axis = Axis.choice("schedule", ["cosine", "none", "plateau"])
    assert axis.share("cosine") < axis.share("none") < axis.share("plateau")
    assert len(axis.marks()) == 3


def test_points_that_are_not_finite_are_left_out_and_the_best_is_on_top() -> None:
    x, y = Axis.of("x", [0.0, 1.0]), Axis.of("y", [0.0, 1.0])
    chart = scatter([Point(0.0, 1.0, style="second"), Point(1.0, 0.0), Point(0.5, math.nan)], x, y)
    assert len(places(chart, "first")) == len(places(chart, "second")) == 1
    assert chart.index('class="first"') < chart.index('class="second"'), "drawn later is on top"
    assert scatter([Point(0.0, math.nan)], x, y) == ""


def test_a_front_is_drawn_in_steps() -> None:
    x, y = Axis.of("x", [0.0, 1.0]), Axis.of("y", [0.0, 1.0])
    chart = ElementTree.fromstring(scatter([Point(0.0, 1.0)], x, y, steps=[(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)]))
    line = next(chart.iter("polyline")).attrib["points"].split()
    assert len(line) == 5
    assert line[0].split(",")[1] == line[1].split(",")[1], "across first"
    assert line[1].split(",")[0] == line[2].split(",")[0], "then down"


def test_a_thread_passes_below_an_axis_it_says_nothing_about() -> None:
    axes = [Axis.of("a", [0.0, 1.0]), Axis.choice("b", ["x", "y"]), Axis.of("c", [0.0, 1.0])]
    chart = parallel_coordinates(axes, [Thread((0.0, "x", None)), Thread((1.0, "y", 0.0))], "all")
    assert chart.count("not used") == 1
    first, second = (line.attrib["points"].split() for line in ElementTree.fromstring(chart).iter("polyline"))
    assert float(first[2].split(",")[1]) > float(second[2].split(",")[1])
    assert parallel_coordinates(axes[:1], [Thread((0.0,))], "one") == ""
    assert parallel_coordinates(axes, [], "none") == ""


def test_curves_of_one_point_are_left_out() -> None:
    x, y = Axis.of("epoch", [1.0, 3.0]), Axis.of("loss", [0.0, 1.0])
    chart = curves([Curve([(1.0, 0.5)]), Curve([(1.0, 0.5), (2.0, 0.2)])], x, y)
    assert chart.count("<polyline") == 1
    assert curves([Curve([(1.0, 0.5)])], x, y) == ""


def test_a_chart_becomes_a_file_with_its_name_its_legend_and_colours_written_out() -> None:
    x, y = Axis.of("x", [0.0, 1.0]), Axis.of(HOSTILE, [0.0, 1.0])
    text = svg_file(scatter([Point(0.0, 1.0, HOSTILE), Point(1.0, 0.0, style="second")], x, y, ("some", HOSTILE)))
    root = ElementTree.fromstring(text)
    shown = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert shown.count(HOSTILE) == 2
    assert "some" in shown
    assert "var(" not in text
    assert "circle.second{fill:#e0a34c}" in text.replace(" ", "")
