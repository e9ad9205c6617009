"""What a small finished run teaches, from its reports and files to the page."""

import pytest
from planted_world import planted_run, trained, write_world

from training_core.campaigns import bagging
from training_core.campaigns.advice.insight import RunInsight, gate_figures, study_run
from training_core.campaigns.advice.page import render_insight_html, render_insight_markdown
from training_core.campaigns.advice.remedies import without_denoising
from training_core.campaigns.judgement import judge
from training_core.errors import GateError
from training_core.evaluation.analytics import report_training
from training_core.evaluation.gates import GateConfig, require_gates


@pytest.fixture(scope="module")
def insight(tmp_path_factory: pytest.TempPathFactory) -> RunInsight:
    """Of a run with denoising and the same without."""
    store = tmp_path_factory.mktemp("store")
    run = planted_run(write_world(store / "world", num_rows=200), training={"epochs": 4}, denoising={"enabled": True})
    ref = bagging.resolve_dataset(run.dataset, store)
    reports, plain = trained(run, store), trained(without_denoising(run), store)
    ensemble = bagging.conclude_run(run, ref, reports, store)
    gates = GateConfig(min_score=2.0, min_success_rate=1.0, min_stability=0.1, max_size_mb=50, min_cross_modal_gain=-1)
    gates = gates.model_copy(update={"max_row_milliseconds": 60_000})
    return study_run(
        run, ref, reports, judge(ensemble, ref), seconds=9.0, ensemble=ensemble, without_denoising=plain, gates=gates
    )


def test_the_report_knows_the_learners_and_what_they_depend_on(insight: RunInsight) -> None:
    report = insight.report
    assert (report.num_learners, report.success_rate) == (3, 1.0)
    assert report.samples_per_second and report.epoch_seconds and report.convergence_epoch
    whole = next(one for one in report.learners if one.name == "bag-00/fusion_net")
    assert set(whole.modality_weights) <= {"left", "right"}
    assert any(key.startswith("consistency") for key in whole.denoising)


def test_denoising_is_compared_only_where_it_was(insight: RunInsight) -> None:
    impact = insight.report.denoising_impact
    assert impact is not None and impact.num_pairs == 1, "nets on one modality have none"


def test_gates_are_held_against_what_was_seen(insight: RunInsight) -> None:
    assert {gate.gate: gate.passed for gate in insight.gates} == {
        "min_score": False,
        "min_stability": True,
        "min_cross_modal_gain": True,
        "min_success_rate": True,
        "max_size_mb": True,
        "max_row_milliseconds": True,
    }
    milliseconds = insight.gates[-1].value
    assert milliseconds is not None and 0 < milliseconds < 60_000
    with pytest.raises(GateError, match=r"gates\.min_score"):
        require_gates(insight.gates)
    assert not insight.is_good_enough


def test_without_a_judgement_scores_are_not_measured() -> None:
    figures = gate_figures(report_training([]), None)
    assert figures["score"] is None and figures["cross_modal_gain"] is None
    assert "stability" not in figures, "nothing trained in epochs"


def test_the_page_says_it_all_and_survives_hostile_names(insight: RunInsight) -> None:
    page = render_insight_html(insight, "<b>shoes</b>")
    assert "&lt;b&gt;shoes" in page and "<b>shoes" not in page
    text = render_insight_markdown(insight, "shoes")
    for said in ("bag-00/fusion_net", "min_score", "missed", "paired"):
        assert said in page and said in text
    for advice in insight.advice:
        assert advice.diagnosis.evidence.split(";")[0][:40] in text


def test_it_survives_json(insight: RunInsight) -> None:
    assert RunInsight.model_validate_json(insight.to_json()).report == insight.report
