"""The safety report: worst cases that were planted, redundancy that can be counted, times from a clock that is ours."""

import numpy as np
import pytest
from judged_world import judged

from training_core.errors import DataError
from training_core.evaluation.domains.safety import SafetyConfig, Speed, measure_speed, safety_report
from training_core.schema import Samples, TaskSpec

TASK = TaskSpec.classification(2)
MODALITIES = ("camera", "lidar", "radar")


def right(share: float, num_rows: int = 100) -> np.ndarray:
    """Probabilities for rows whose class is 0: this share of them right."""
    yes = np.where(np.arange(num_rows) < share * num_rows, 1.0, 0.0)
    return np.stack([yes, 1 - yes], axis=1)


def patterns(alone: float, pairs: float) -> dict[str, np.ndarray]:
    singles = {name: right(alone) for name in MODALITIES}
    return singles | {"camera+lidar": right(pairs), "camera+radar": right(pairs), "lidar+radar": right(pairs)}


def test_the_worst_group_is_found_and_small_ones_do_not_count() -> None:
    weather = np.array(["sun"] * 50 + ["rain"] * 45 + ["hail"] * 5)
    rows = judged(TASK, np.zeros(100, np.int64), right(0.8), modalities=MODALITIES, weather=weather)
    report = safety_report(rows, SafetyConfig(min_score=0.7), group_columns=("weather",))
    assert report.worst_group is not None
    assert (report.worst_group.name, report.worst_group.num_rows) == ("weather=rain", 45)
    assert report.worst_group.score == pytest.approx(30 / 45)
    assert not report.is_safe
    assert [(g.name, g.score, g.judged) for g in report.groups][-1] == ("weather=hail", 0.0, False)


@pytest.mark.parametrize(
    ("alone", "pairs", "whole", "redundancy"),
    [(0.95, 0.97, 0.99, 2), (0.8, 0.97, 0.99, 1), (0.8, 0.85, 0.99, 0), (0.8, 0.85, 0.89, -1)],
)
def test_redundancy_is_how_many_may_fail(alone: float, pairs: float, whole: float, redundancy: int) -> None:
    rows = judged(TASK, np.zeros(100, np.int64), right(whole), patterns(alone, pairs), MODALITIES)
    report = safety_report(rows, SafetyConfig(min_score=0.9, min_redundancy=1))
    assert report.redundancy == redundancy
    met = {requirement.name: requirement.met for requirement in report.requirements}
    assert met["redundancy"] == (redundancy >= 1)


def test_redundancy_is_not_claimed_of_patterns_nobody_judged() -> None:
    judged_pairs = {"camera+lidar": right(0.99), "camera+radar": right(0.99)}
    rows = judged(TASK, np.zeros(100, np.int64), right(0.99), judged_pairs, MODALITIES)
    report = safety_report(rows, SafetyConfig(min_score=0.9, min_redundancy=1))
    assert report.redundancy is None
    assert not report.is_safe


def test_a_requirement_that_was_not_measured_is_not_met() -> None:
    rows = judged(TASK, np.zeros(100, np.int64), right(1.0))
    config = SafetyConfig(max_latency_ms=5, max_memory_mb=100)
    assert not safety_report(rows, config).is_safe
    quick = Speed(latency_p50_ms=1, latency_p99_ms=5, rows_per_second=9, batch_rows=1, num_answers=1, peak_memory_mb=99)
    assert safety_report(rows, config, speed=quick).is_safe
    assert safety_report(rows).is_safe, "nothing is asked for"


def test_answers_are_timed_one_by_one_and_in_a_batch() -> None:
    samples = Samples({"a": np.zeros((3, 1))}, {"a": np.ones(3, bool)}, np.array(["x", "y", "z"], object))
    now = [0.0]
    asked: list[int] = []

    def predict(given: Samples) -> None:
        asked.append(len(given))
        now[0] += 0.002 if len(given) == 1 else 0.5

    speed = measure_speed(predict, samples, num_answers=10, batch_rows=100, clock=lambda: now[0])
    assert speed.latency_p50_ms == pytest.approx(2.0)
    assert speed.latency_p99_ms == pytest.approx(2.0)
    assert speed.rows_per_second == pytest.approx(200.0)
    assert asked == [1] * 11 + [100] * 2
    with pytest.raises(DataError, match="no rows"):
        measure_speed(predict, samples.take(np.arange(0)))
