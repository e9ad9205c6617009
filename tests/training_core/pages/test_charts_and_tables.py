import itertools
import xml.etree.ElementTree as ElementTree

import pytest

from training_core.pages.charts import DotRow, Line, dot_plot, line_chart, reliability_diagram, ticks
from training_core.pages.document import document, figures, lead
from training_core.pages.tables import CODE, markdown_table, table

HOSTILE = "<script>alert('x')</script>\"|`&\n](javascript:x)"


def circles(chart, style):
    root = ElementTree.fromstring(chart)
    return [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in root.iter("circle") if c.attrib["class"] == style]


def test_a_line_goes_up_where_its_values_do():
    chart = line_chart([Line("a", [(0, 0.2), (0.5, 0.4), (1, 0.9)])], "rate", "score", percent=True)
    points = circles(chart, "first")
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert [y for _, y in points] == sorted((y for _, y in points), reverse=True)
    assert points[1][1] - points[0][1] == pytest.approx((points[2][1] - points[1][1]) * 2 / 5, abs=0.2)
    assert "50%" in chart or "60%" in chart


def test_bands_are_drawn_and_lines_of_one_point_are_not():
    band = Line("a", [(0, 1.0), (1, 2.0)], [0.5, 1.5], [1.5, 2.5])
    root = ElementTree.fromstring(line_chart([band, Line("b", [(0, 1.0)])], "x", "y"))
    assert len(list(root.iter("polygon"))) == 1
    assert len(list(root.iter("polyline"))) == 1
    assert line_chart([Line("a", [(0, 1.0)])], "x", "y") == ""
    assert line_chart([Line("a", [(0, 1.0), (1, float("nan"))])], "x", "y") == ""


def test_a_flat_line_has_a_scale_all_the_same():
    assert circles(line_chart([Line("a", [(0, 0.5), (1, 0.5)])], "x", "y"), "first")


def test_dots_stand_in_the_order_of_their_values_with_their_interval():
    chart = dot_plot([DotRow("all", (0.9, 0.8, None), 0.85, 0.95), DotRow("few", (0.5, 0.6, 0.4))], "abc", "scores")
    first, second = circles(chart, "first"), circles(chart, "second")
    assert len(circles(chart, "third")) == 1
    assert first[0][0] > second[0][0] > second[1][0] > first[1][0]
    bars = [line for line in ElementTree.fromstring(chart).iter("line") if line.attrib["class"] == "bar"]
    assert float(bars[0].attrib["x1"]) < first[0][0] < float(bars[0].attrib["x2"])
    assert dot_plot([DotRow("all", (None,))], "a", "scores") == ""


def test_on_the_diagonal_confidence_is_what_it_says():
    chart = reliability_diagram([(0.6, 0.6, 10), (0.9, 0.8, 90)], "told")
    root = ElementTree.fromstring(chart)
    gaps = [line for line in root.iter("line") if line.attrib["class"] == "gap"]
    assert gaps[0].attrib["y1"] == gaps[0].attrib["y2"]
    assert float(gaps[1].attrib["y2"]) > float(gaps[1].attrib["y1"])
    assert reliability_diagram([], "told") == ""
    assert circles(reliability_diagram([(1.0, 1.0, 5)], "told"), "first")


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.983, 0.991), (-3.2, 14), (5, 5), (0, 0), (1e-9, 2e-9), (-1e6, 1e6)]
)
def test_ticks_are_round_and_hold_all_values(low, high):
    marks = ticks(low, high)
    assert marks[0] <= low
    assert marks[-1] >= high
    assert 2 <= len(marks) <= 9
    assert len({round(b - a, 12) for a, b in itertools.pairwise(marks)}) == 1


def test_hostile_names_stay_text():
    chart = dot_plot([DotRow(HOSTILE, (0.1,)), DotRow("b", (0.2,))], [HOSTILE], HOSTILE)
    chart += line_chart([Line(HOSTILE, [(0, 1), (1, 2)]), Line("b", [(0, 1), (1, 2)])], HOSTILE, HOSTILE)
    chart += reliability_diagram([(0.5, 0.5, 1)], HOSTILE)
    page = document(HOSTILE, [figures([(HOSTILE, HOSTILE)]), lead(HOSTILE), table((HOSTILE,), [(HOSTILE,)]), chart])
    assert "<script" not in page
    assert "url(" not in page
    ElementTree.fromstring(f"<div>{chart}</div>")
    row = markdown_table(("a", "b"), [(HOSTILE, "1")])[2]
    assert "\n" not in row
    assert row.replace("\\|", "").count("|") == 3
    assert "<script" not in row


def test_columns_of_numbers_are_set_to_the_right():
    page = table(
        ("name", "score", "interval", "lead", "times"),
        [("a1", "0.5", "0.1 to 0.2", "+0.01 (-0.02 to +0.04)", "540 × 5"), ("to", "<.001", "", "–", "12%")],
    )
    assert page.count('<th class="number"') + page.count("<th class=number") == 4
    assert "<td>a1</td>" in page
    assert "<td>to</td>" in page
    assert f"{table(('', ''), [('a', CODE + 'b')])}".count("<code>b</code>") == 1
    assert "<thead>" not in table(("", ""), [("a", "b")])
    assert "<tbody></tbody>" in table(("a",), [])
