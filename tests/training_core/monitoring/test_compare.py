from dataclasses import replace

import numpy as np
import pytest
from monitored_world import SPEC, answer, held, table_of, world
from pydantic import ValidationError

from training_core.evaluation.predictions import Predictions
from training_core.monitoring import DriftConfig, DriftReport, ProfileConfig, compare, make_profile
from training_core.schema import TaskSpec

SMALL = ProfileConfig(num_frequencies=128, num_projections=16)


@pytest.fixture(scope="module")
def profile():
    return make_profile(held(world(4000)), "world", answer, SMALL)


def shown(profile, samples, config=None):
    return compare(profile, held(samples), config, predict=answer)


def test_more_of_the_same_is_no_drift(profile):
    report = shown(profile, world(400, 7))
    assert report.verdict == "ok"
    assert report.drifted == ()
    assert report.num_tests > 20
    assert report.expected_score == pytest.approx(profile.tally.performance.score, abs=0.03)


@pytest.mark.parametrize("modality", ["left", "photo", "clicks", "review"])
def test_an_array_that_moves_is_found_and_nothing_else(profile, modality):
    report = shown(profile, world(400, 7, shift={modality: 1.0}))
    assert report.verdict == "drift"
    assert report.check(f"array/{modality}").verdict == "drift"
    own = {f"array/{modality}"}
    assert {name for name in report.drifted if not name.startswith(f"input/{modality}")} == own


def test_a_table_that_moves_takes_predictions_and_answers_with_it(profile):
    report = shown(profile, world(400, 7, shift={"facts": 1.5}))
    size = report.check("input/facts.size")
    assert (size.verdict, report.verdict) == ("drift", "drift")
    assert size.wasserstein == pytest.approx(1.5, abs=0.15)
    assert size.window_value - size.reference_value == pytest.approx(1.5, abs=0.15)
    assert 0 < size.js_divergence < 1
    assert size.ks_p_value < 1e-6
    assert size.chi_squared_p_value < 1e-6
    for name in ("prediction/class", "target/class"):
        assert report.check(name).verdict in {"warning", "drift"}
    assert report.check("input/facts.colour").verdict == "ok"
    assert report.check("array/left").verdict == "ok"
    assert report.drifted[0] == report.checks[0].name


def test_a_modality_that_goes_missing_is_found(profile):
    report = shown(profile, world(400, 7, missing={"photo": 0.6}))
    missing = report.check("missing/photo")
    assert missing.verdict == "drift"
    assert missing.change == pytest.approx(0.5, abs=0.07)
    assert report.check("pattern/available").verdict in {"warning", "drift"}
    assert report.check("array/photo").verdict == "ok"  # what is there is as it was


def test_a_modality_that_is_gone_gives_no_verdict_on_its_values(profile):
    report = shown(profile, world(400, 7, missing={"photo": 1.1}))
    assert report.check("missing/photo").verdict == "drift"
    assert report.check("array/photo").verdict == "insufficient_data"
    assert report.check("array/photo").q_value is None


def test_cells_that_go_missing_and_new_categories_are_found(profile):
    samples = world(400, 7)
    samples.inputs["facts"][:100, 1] = np.nan
    samples.inputs["facts"][:, 2] = 2.0
    report = shown(profile, samples)
    assert report.check("missing/facts.age").verdict == "drift"
    colour = report.check("input/facts.colour")
    assert colour.verdict == "drift"
    assert colour.window_shape[colour.labels.index("blue")] == 1


def test_unknown_patterns_count_as_another():
    whole = world(600, missing=dict.fromkeys(SPEC.names, 0.0))
    made = make_profile(held(whole), "whole", config=SMALL)
    report = compare(made, held(world(300, 1, missing={**dict.fromkeys(SPEC.names, 0.0), "left": 0.5})))
    pattern = report.check("pattern/available")
    assert pattern.verdict == "drift"
    assert "other" in pattern.labels


def test_answers_that_become_wrong_are_found(profile):
    samples = world(400, 7)
    turned = replace(samples, target=1 - samples.target)
    report = shown(profile, turned)
    performance = report.check("performance/accuracy")
    assert performance.verdict == "drift"
    assert performance.window_value < 0.5 < performance.reference_value
    assert report.drifted == ("performance/accuracy",)
    assert report.expected_score > 0.6  # confidence does not see it


def test_answers_that_become_better_do_not_warn(profile):
    samples = world(400, 7)
    right = replace(samples, target=np.argmax(answer(samples).values, axis=1))
    assert shown(profile, right).check("performance/accuracy").verdict == "ok"


def test_without_labels_or_predictions_the_rest_is_compared(profile):
    report = compare(profile, held(replace(world(400, 7), target=None)))
    families = {check.name.partition("/")[0] for check in report.checks}
    assert families == {"input", "missing", "array", "pattern"}
    assert report.expected_score is None
    unknown = compare(profile, held(replace(world(400, 7), target=np.full(400, -1))), predict=answer)
    assert unknown.check("target/class").verdict == "insufficient_data"
    assert not any(check.kind == "performance" for check in unknown.checks)


@pytest.mark.parametrize("rows", [0, 1, 49])
def test_too_few_rows_give_no_verdict_however_far_they_are(profile, rows):
    report = shown(profile, world(rows, 7, shift={"facts": 50.0, "left": 50.0}))
    assert report.verdict == "insufficient_data"
    assert {check.verdict for check in report.checks} == {"insufficient_data"}
    assert report.score == 0


def test_fifty_rows_are_enough_for_a_large_shift(profile):
    assert shown(profile, world(60, 7, shift={"left": 2.0})).verdict == "drift"


def test_of_many_rows_a_small_difference_is_significant_but_no_drift():
    reference = np.random.default_rng(0).normal(size=(20_000, 1))
    made = make_profile(table_of(reference), "many")
    report = compare(made, table_of(np.random.default_rng(1).normal(size=(20_000, 1)) + 0.1))
    check = report.check("input/facts.x0")
    assert check.q_value < 1e-6
    assert check.verdict == "ok"


def test_a_medium_shift_warns_by_its_distance_where_the_divergence_does_not():
    made = make_profile(table_of(np.random.default_rng(0).normal(size=(20_000, 1))), "medium")
    report = compare(made, table_of(np.random.default_rng(1).normal(size=(1000, 1)) + 0.45))
    check = report.check("input/facts.x0")
    assert check.verdict == "warning"
    assert check.js_divergence < 0.1
    assert 1 < check.strength < 2


@pytest.mark.parametrize("value", [4.0, 2.0, np.nextafter(3.0, 4.0)])
def test_a_constant_that_changes_is_found(value):
    made = make_profile(table_of(np.full((20_000, 1), 3.0)), "constant")
    check = compare(made, table_of(np.full((50, 1), value))).check("input/facts.x0")
    assert check.verdict == "drift"
    assert check.js_divergence > 0.9
    assert compare(made, table_of(np.full((50, 1), 3.0))).verdict == "ok"


def test_an_outlier_is_no_drift():
    made = make_profile(table_of(np.random.default_rng(0).normal(size=(5000, 1))), "tails")
    values = np.random.default_rng(1).normal(size=(300, 1))
    values[0] = 1e12
    assert compare(made, table_of(values)).verdict == "ok"


def test_what_is_ignored_is_shown_and_raises_nothing(profile):
    ignored = tuple(shown(profile, world(400, 7, shift={"left": 1.0})).drifted)
    report = shown(profile, world(400, 7, shift={"left": 1.0}), DriftConfig(ignore=ignored))
    assert report.verdict == "ok"
    assert report.check("array/left").strength > 1


@pytest.mark.parametrize("kind", ["regression", "multilabel"])
def test_other_tasks_have_their_performance_watched(kind):
    random = np.random.default_rng(0)
    task = TaskSpec.regression(("price",)) if kind == "regression" else TaskSpec.multilabel(("a", "b"))

    def rows(num, noise, seed):
        random = np.random.default_rng(seed)
        values = random.normal(size=(num, 2))
        noisy = values + noise * random.normal(size=values.shape)
        target = noisy[:, :1] if kind == "regression" else (noisy > 0).astype(np.float32)
        return table_of(values, task, target)

    def predict(samples):
        values = samples.inputs["facts"]
        said = values[:, :1] if kind == "regression" else 1 / (1 + np.exp(-3 * values))
        return Predictions(said, random.uniform(0.8, 0.9, len(said)), np.ones(len(said), np.int64))

    made = make_profile(rows(3000, 0.3, 1), kind, predict)
    name = f"performance/{task.metric}"
    assert compare(made, rows(500, 0.3, 2), predict=predict).check(name).verdict == "ok"
    worse = compare(made, rows(500, 2.0, 3), predict=predict)
    assert worse.check(name).verdict == "drift"
    families = {check.name for check in worse.checks}
    assert {"prediction/price", "target/price"} <= families or {"prediction/a", "target/b"} <= families


def test_few_windows_without_drift_raise_anything():
    made = make_profile(table_of(np.random.default_rng(0).normal(size=(20_000, 20))), "null")
    raised = [
        bool(compare(made, table_of(np.random.default_rng(100 + seed).normal(size=(50, 20)))).drifted)
        for seed in range(40)
    ]
    assert sum(raised) <= 2  # if 1 in 100 did, more would be seen once in 130 times


def test_three_of_twenty_features_shifted_by_one_deviation_are_seen_in_200_rows():
    made = make_profile(table_of(np.random.default_rng(0).normal(size=(20_000, 20))), "power")
    moved = np.r_[np.ones(3), np.zeros(17)]
    reports = [
        compare(made, table_of(np.random.default_rng(100 + seed).normal(size=(200, 20)) + moved)) for seed in range(20)
    ]
    assert all(report.verdict == "drift" for report in reports)
    assert all(set(report.drifted) == {f"input/facts.x{i}" for i in range(3)} for report in reports)


def test_the_report_survives_json(profile):
    samples = world(300, 7, shift={"left": 1.0})
    samples.inputs["left"][:] = 7.0
    report = shown(profile, samples)
    assert DriftReport.model_validate_json(report.to_json()) == report
    with pytest.raises(KeyError, match="no check 'input/none'"):
        report.check("input/none")


def test_thresholds_out_of_order_are_refused():
    with pytest.raises(ValidationError, match=r"shift_warning is 0\.7 and shift_drift is 0\.6"):
        DriftConfig(shift_warning=0.7)
