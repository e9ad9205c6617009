"""The page of a study says what was found, honestly, and needs nothing else to be read."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from invented_study import BEYOND, FAILED, SPACE, invented_study

from training_core.campaigns.tuning.held_out import HeldOut
from training_core.campaigns.tuning.plots import best_first, study_plots
from training_core.campaigns.tuning.report import changed_settings, render_html, render_markdown, write_report
from training_core.evaluation.statistics import Difference, Interval

HOSTILE = "<script>alert('x')</script>\"|`&\n"
SVG = "{http://www.w3.org/2000/svg}"


def held_out(difference: float, p_value: float) -> HeldOut:
    found = Difference(
        difference=difference,
        interval=Interval(low=difference - 0.01, high=difference + 0.01),
        p_value=p_value,
        wilcoxon_p_value=p_value,
        num_rows=600,
        num_units=600,
    )
    scores = {"tuned_score": 0.9 + difference, "default_score": 0.9}
    return HeldOut(metric="accuracy", tuned="/a", default="/b", difference=found, num_rows=600, **scores)


def test_a_page_and_a_file_per_chart_are_written_and_need_nothing_else(tmp_path: Path) -> None:
    page = write_report(invented_study(tmp_path), tmp_path)
    text = page.read_text()
    assert page == tmp_path / "report.html"
    assert not re.search(r"(src|href)=|url\(|https?://(?!www\.w3\.org)", text)
    found = {path.stem for path in (tmp_path / "plots").glob("*.svg")}
    slices = {f"slice-{dimension.path}" for dimension in SPACE if dimension.path != "denoising.weight"}
    assert {"history-loss", "importances", "learning-curves", "parallel", *slices} <= found
    for path in (tmp_path / "plots").glob("*.svg"):
        drawing = ElementTree.parse(path).getroot()
        assert drawing.tag == f"{SVG}svg"
        assert "var(" not in path.read_text(), "not every viewer knows variables"


def test_charts_of_an_earlier_report_that_are_no_more_are_removed(tmp_path: Path) -> None:
    write_report(invented_study(tmp_path, ("loss", "seconds")), tmp_path)
    assert (tmp_path / "plots" / "front-seconds.svg").exists()
    write_report(invented_study(tmp_path), tmp_path)
    assert not (tmp_path / "plots" / "front-seconds.svg").exists()


def test_the_best_so_far_never_gets_worse_and_ignores_what_breaks_a_limit(tmp_path: Path) -> None:
    summary = invented_study(tmp_path)
    beyond = summary.trials[BEYOND].model_copy(update={"values": (0.0,)})
    trials = (*summary.trials[:BEYOND], beyond, *summary.trials[BEYOND + 1 :])
    chart = ElementTree.fromstring(study_plots(summary.model_copy(update={"trials": trials}))["history-loss"])
    line = next(one for one in chart.iter("polyline"))
    heights = [float(pair.split(",")[1]) for pair in line.attrib["points"].split()]
    assert heights == sorted(heights), "upright coordinates grow downwards"
    lowest = max(float(c.attrib["cy"]) for c in chart.iter("circle") if c.attrib["class"] == "fourth")
    assert heights[-1] < lowest, "the trial beyond a limit lies below the line"


def test_both_importances_are_named_with_what_they_mean(tmp_path: Path) -> None:
    text = render_html(invented_study(tmp_path))
    assert "PED-ANOVA" in text
    assert "fANOVA" in text
    assert "what the best trials have in common" in text


def test_the_changes_are_those_between_the_default_and_the_best_trial(tmp_path: Path) -> None:
    summary = invented_study(tmp_path)
    best, default = summary.best_trial, summary.default_trial
    assert best is not None and default is not None
    changed = {path for path, _, _ in changed_settings(summary)}
    assert changed == {path for path, value in best.params.items() if default.params.get(path) != value}
    assert f"polychoir train {summary.best_yaml}" in render_html(summary)


def test_when_the_default_is_best_nothing_has_to_change(tmp_path: Path) -> None:
    summary = invented_study(tmp_path).model_copy(update={"best": 0, "front": (0,)})
    assert changed_settings(summary) == []
    assert "nothing has to change" in render_html(summary)


@pytest.mark.parametrize(
    ("difference", "p_value", "said"),
    [
        (0.02, 0.01, "is better on 600 test rows"),
        (-0.02, 0.01, "is worse on 600 test rows"),
        (0.02, 0.3, "made no difference that can be shown"),
    ],
)
def test_what_the_test_rows_say_is_said_honestly(tmp_path: Path, difference: float, p_value: float, said: str) -> None:
    found = held_out(difference, p_value)
    assert said in found.sentence
    assert said in render_html(invented_study(tmp_path), found)
    assert said in render_markdown(invented_study(tmp_path), found)


def test_without_a_comparison_the_page_says_that_the_best_of_many_looks_better_than_it_is(tmp_path: Path) -> None:
    assert "the best of many looks better than it is" in render_html(invented_study(tmp_path))


def test_a_study_without_a_usable_trial_has_a_page_all_the_same(tmp_path: Path) -> None:
    summary = invented_study(tmp_path)
    failed = summary.trials[FAILED]
    for trials in ((), (failed,)):
        empty = summary.model_copy(
            update={"trials": trials, "best": None, "front": (), "importances": {}, "best_yaml": ""}
        )
        text = write_report(empty, tmp_path).read_text()
        assert "nothing to train with" in text
        assert not list((tmp_path / "plots").glob("*.svg"))
        assert render_markdown(empty)


def test_of_several_objectives_the_front_stands_out(tmp_path: Path) -> None:
    summary = invented_study(tmp_path, ("loss", "seconds"))
    chart = ElementTree.fromstring(study_plots(summary)["front-seconds"])
    front = [circle for circle in chart.iter("circle") if circle.attrib["class"] == "second"]
    assert len(front) == len(summary.front) > 1
    places = sorted((float(c.attrib["cx"]), float(c.attrib["cy"])) for c in front)
    assert [up for _, up in places] == sorted(up for _, up in places), "what costs more is better"


def test_a_score_is_better_when_it_is_larger(tmp_path: Path) -> None:
    summary = invented_study(tmp_path, ("score",))
    ranking = [trial.values[0] for trial in best_first(summary) if trial.values and trial.feasible]
    assert ranking == sorted(ranking, reverse=True)
    assert summary.best == best_first(summary)[0].number


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    summary = invented_study(tmp_path, title=HOSTILE)
    trial = summary.trials[0].model_copy(update={"params": {HOSTILE: HOSTILE}, "error": HOSTILE})
    dimension = SPACE[1].model_copy(update={"path": HOSTILE, "choices": (HOSTILE, "b")})
    other = summary.trials[1].model_copy(update={"params": {HOSTILE: "b"}})
    text = render_html(summary.model_copy(update={"trials": (trial, other), "space": (dimension,)}))
    assert "<script" not in text
