import pytest

from training_core.campaigns.watching.trigger import RetrainRecord, RetrainRule, held_back, should_retrain
from training_core.monitoring import Check, DriftConfig, DriftReport, DriftWatch
from training_core.monitoring.report import CheckKind

DAY = 86_400.0


def report(strength: float, *, kind: CheckKind = "number", change: float | None = None, label: str = "") -> DriftReport:
    """A window in which one thing moved by `strength` times the threshold of warning."""
    config = DriftConfig()
    verdict = "drift" if strength >= 2 else "warning" if strength >= 1 else "ok"
    name = "performance/accuracy" if kind == "performance" else "input/facts.size"
    check = Check(
        name=name, kind=kind, verdict=verdict, strength=strength, change=change, reference_rows=500, window_rows=500
    )
    return DriftReport(
        name="shoes",
        window=label,
        verdict=verdict,
        reference="training",
        reference_rows=500,
        window_rows=500,
        checks=(check,),
        num_tests=1,
        config=config,
    )


def seen(*reports: DriftReport) -> DriftWatch:
    watch = DriftWatch()
    for one in reports:
        watch = watch.seen(one)
    return watch


def test_one_odd_window_starts_nothing_and_two_in_a_row_do():
    odd, next_one = report(3.0, label="1"), report(3.0, label="2")
    assert not should_retrain(odd, seen(odd), RetrainRule()).retrain
    found = should_retrain(next_one, seen(odd, next_one), RetrainRule())
    assert found.retrain
    assert found.cause == "drift"
    assert found.checks == ("input/facts.size",)
    assert "3.0 times" in found.reason


def test_a_window_without_it_between_two_starts_nothing():
    windows = report(3.0, label="1"), report(0.1, label="2"), report(3.0, label="3")
    assert not should_retrain(windows[-1], seen(*windows), RetrainRule()).retrain


@pytest.mark.parametrize(("strength", "rule", "retrain"), [(1.9, 0.2, False), (2.0, 0.2, True), (1.2, 0.1, True)])
def test_a_confirmed_drift_has_to_reach_the_rule(strength: float, rule: float, retrain: bool):
    windows = report(strength, label="1"), report(strength, label="2")
    assert should_retrain(windows[-1], seen(*windows), RetrainRule(drift=rule)).retrain is retrain


@pytest.mark.parametrize(("change", "retrain"), [(0.09, False), (0.1, True)])
def test_a_loss_of_score_counts_by_the_score_that_is_lost(change: float, retrain: bool):
    windows = [report(9.0, kind="performance", change=change, label=label) for label in "12"]
    found = should_retrain(windows[-1], seen(*windows), RetrainRule())
    assert found.retrain is retrain
    assert found.cause == ("degradation" if retrain else "none")


def test_nothing_starts_by_itself_where_it_is_switched_off():
    windows = report(3.0, label="1"), report(3.0, label="2")
    found = should_retrain(windows[-1], seen(*windows), RetrainRule(enabled=False))
    assert not found.retrain
    assert "switched off" in found.reason


def record(days: float, outcome: str = "promoted", dataset: str = "shoes@1") -> RetrainRecord:
    return RetrainRecord.model_validate({"time": days * DAY, "reason": "drift", "dataset": dataset, "outcome": outcome})


@pytest.mark.parametrize("outcome", ["promoted", "refused", "challenger"])
def test_days_have_to_lie_between_two_retrainings_whatever_came_of_the_first(outcome: str):
    past = [record(100, outcome)]
    assert "7 days between" in held_back(RetrainRule(), past, "shoes@2", 106.9 * DAY)
    assert held_back(RetrainRule(), past, "shoes@2", 107 * DAY) == ""


@pytest.mark.parametrize("outcome", ["failed", "started"])
def test_one_that_was_killed_or_failed_holds_back_nothing(outcome: str):
    assert held_back(RetrainRule(), [record(100, outcome)], "shoes@1", 100.1 * DAY) == ""


def test_the_same_rows_are_not_tried_twice_however_long_ago():
    past = [record(0, "refused"), record(10, "refused", "shoes@2")]
    assert "new rows" in held_back(RetrainRule(), past, "shoes@1", 900 * DAY)
    assert held_back(RetrainRule(), past, "shoes@3", 900 * DAY) == ""


def test_a_clock_that_was_set_back_ends_no_cool_down():
    assert "0.0 days ago" in held_back(RetrainRule(), [record(100)], "shoes@2", 50 * DAY)


def test_a_verdict_that_is_held_back_says_both_why_and_why_not():
    windows = report(3.0, label="1"), report(3.0, label="2")
    found = should_retrain(windows[-1], seen(*windows), RetrainRule(), [record(100)], "shoes@2", 101 * DAY)
    assert not found.retrain
    assert found.cause == "drift"
    assert "drifted" in found.reason
    assert "1.0 days ago" in found.reason
