from html.parser import HTMLParser

import numpy as np
from quality_world import World, a_clean_world

from training_core.data.quality import RowProblem, to_markdown, write_html
from training_core.schema import TaskSpec

HOSTILE = "<script>alert('x')</script>\"|`&\n](javascript:x)"
VOID = {"meta", "rect", "polygon", "polyline", "br"}


class Page(HTMLParser):
    """The tags, attributes and text of a page; refuses tags that are not closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        self.text += data


def a_hostile_world() -> World:
    draws = np.random.default_rng(0)
    return World(
        TaskSpec.classification((HOSTILE, "other")),
        np.arange(300) % 2,
        tables={"facts": {HOSTILE: [HOSTILE] * 300, f"{HOSTILE} 2": draws.normal(size=300)}},
        texts={"note": {HOSTILE: [f"{HOSTILE} {i} and the one of it is not" for i in range(300)]}},
        arrays={"v": draws.normal(size=(300, 20)).astype(np.float32)},
    )


def test_the_page_of_every_task_is_well_formed_and_needs_nothing_else():
    for kind in ("classification", "multilabel", "regression"):
        source = write_html(a_clean_world(kind).report(), kind)
        page = Page(source)
        assert not page.open
        assert not {"script", "link", "iframe", "object", "img"} & set(page.tags)
        assert not {"src", "href", "onclick", "srcset"} & {name for name, _ in page.attributes}
        assert "url(" not in source
        assert "@import" not in source
        assert "Nothing was found" in page.text


def test_hostile_names_are_text():
    world = a_hostile_world()
    problem = RowProblem(HOSTILE, np.arange(5), HOSTILE)
    report = world.report(ids=np.asarray([HOSTILE] * 300, object), rejected=[problem], unmatched={HOSTILE: 3})
    source = write_html(report, HOSTILE)
    page = Page(source)
    assert not page.open
    assert "script" not in page.tags
    assert "<script>" not in source
    assert HOSTILE in page.text
    allowed = {"charset", "class", "style", "title", "name", "content", "lang", "role", "aria-label", "aria-hidden"}
    drawing = {"viewbox", "preserveaspectratio", "x", "y", "width", "height", "points"}
    assert {name for name, _ in page.attributes} <= allowed | drawing


def test_markdown_keeps_hostile_names_in_their_cell():
    problem = RowProblem("code", np.arange(5), HOSTILE)
    text = to_markdown(a_hostile_world().report(rejected=[problem], unmatched={HOSTILE: 3}), HOSTILE)
    assert "<script>" not in text
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.replace("\\|", "").count("|") in {4, 5}


def test_findings_stand_on_the_page_with_their_advice_and_rows():
    world = a_clean_world().with_column("same", np.full(600, 1))
    report = world.report(rejected=[RowProblem("missing_target", np.arange(3), "the target is empty")])
    page = Page(write_html(report, "shop"))
    for finding in report.findings:
        assert finding.message in page.text
        assert finding.advice in page.text
    assert "id-0, id-1, id-2" in page.text
    assert page.text.startswith("shop: data quality")
    assert "2 warnings" in page.text
    assert all(finding.message in to_markdown(report, "shop").replace("\\", "") for finding in report.findings)


def test_what_is_accepted_or_was_not_found_is_said():
    world = a_clean_world().with_column("same", np.full(600, 1))
    page = Page(write_html(world.report(accept=("constant_column", "outliers")), "shop"))
    assert "1 accepted" in page.text
    assert "not found (any more): outliers" in page.text


def test_a_wide_table_and_many_classes_leave_the_page_readable():
    draws = np.random.default_rng(0)
    columns = {f"c{i}": draws.normal(size=400) for i in range(150)}
    world = World(
        TaskSpec.classification([f"k{i}" for i in range(100)]), np.arange(400) % 100, tables={"wide": columns}
    )
    page = Page(write_html(world.report(), "wide"))
    assert "and 90 more columns" in page.text
    assert "and 60 more" in page.text


def test_a_report_on_nothing_can_be_shown():
    world = a_clean_world(num_rows=1)
    assert "data quality" in write_html(world.report(), "tiny")
