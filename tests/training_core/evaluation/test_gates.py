"""Gates: what is met, what is missed, and what was never measured."""

import math

import pytest

from training_core.errors import GateError
from training_core.evaluation.gates import GateConfig, check_gates, require_gates


def test_no_gate_is_set_by_default() -> None:
    assert check_gates(GateConfig(), {"score": 0.0}) == ()
    require_gates(())


def test_a_limit_that_is_just_reached_is_met() -> None:
    config = GateConfig(min_score=0.9, max_calibration_error=0.05)
    results = check_gates(config, {"score": 0.9, "calibration_error": 0.05})
    assert [result.passed for result in results] == [True, True]
    require_gates(results)


@pytest.mark.parametrize("seen", [0.89, None, math.nan])
def test_what_is_missed_or_not_measured_stops_the_run(seen: float | None) -> None:
    results = check_gates(GateConfig(min_score=0.9), {"score": seen})
    with pytest.raises(GateError, match=r"gates\.min_score: score is .*, at least 0\.9 is wanted: missed"):
        require_gates(results)


def test_every_missed_gate_is_named() -> None:
    config = GateConfig(min_score=0.9, max_overfitting=0.1, min_stability=0.5)
    results = check_gates(config, {"score": 0.5, "overfitting": 0.4, "stability": 0.8})
    with pytest.raises(GateError, match=r"min_score.*max_overfitting") as error:
        require_gates(results)
    assert "stability" not in str(error.value)


def test_a_gate_that_does_not_apply_is_left_out() -> None:
    assert check_gates(GateConfig(max_calibration_error=0.05), {"score": 1.0}) == ()
