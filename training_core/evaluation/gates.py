"""Quality gates after a training: figures that must be met before what was trained goes any further."""

import math
from collections.abc import Iterable, Mapping

from training_core.config import Config
from training_core.errors import GateError
from training_core.quantities import NonNegativeFloat, UnitInterval


class GateConfig(Config):
    """What a run must reach. None: no such gate."""

    min_score: float | None = None
    """Least headline score on the test split, with every modality that a row has."""
    min_pattern_score: float | None = None
    """Least headline score under the worst availability pattern."""
    max_calibration_error: NonNegativeFloat | None = None
    """Largest expected calibration error on the test split; without effect on regression, which has none."""
    min_stability: UnitInterval | None = None
    """Least median stability of the nets' trainings, 0..1; see `evaluation.convergence.stability`."""
    min_cross_modal_gain: float | None = None
    """Least gain of all modalities together over the best one alone, in the headline score."""
    min_success_rate: UnitInterval | None = None
    """Least share of the learners begun that must have trained."""
    max_overfitting: UnitInterval | None = None
    """Largest median overfitting of the nets, 0..1; see `evaluation.convergence.overfitting_score`."""
    max_size_mb: NonNegativeFloat | None = None
    """Largest ensemble, in MB (1e6 bytes) on disk."""
    max_row_milliseconds: NonNegativeFloat | None = None
    """Longest time of an answer to one row, in ms, with rows asked one at a time; the median of some."""


ON_TEST_ROWS = ("min_score", "min_pattern_score", "max_calibration_error", "min_cross_modal_gain")
"""Gates on what the test split says; without one they cannot be passed."""


class GateResult(Config):
    """One gate and what was seen."""

    gate: str
    """Name of the field of `GateConfig`."""
    passed: bool
    value: float | None
    """What was seen; None when it could not be measured, which passes no gate."""
    limit: float
    message: str


def check_gates(config: GateConfig, figures: Mapping[str, float | None]) -> tuple[GateResult, ...]:
    """The results of every gate that is set, in the order of the settings.

    Args:
        config: the gates.
        figures: what was seen, by the gate's name without `min_` or `max_`, such as `score`. A gate whose figure is
            absent does not apply (calibration of a regression) and is left out; one whose figure is None or not a
            number was not measured, and is not passed.
    """
    results = []
    for gate in GateConfig.model_fields:
        limit = getattr(config, gate)
        side, _, name = gate.partition("_")
        if limit is None or name not in figures:
            continue
        value = figures[name]
        known = value is not None and not math.isnan(value)
        passed = known and (value >= limit if side == "min" else value <= limit)
        words = "at least" if side == "min" else "at most"
        seen = f"{value:.4g}" if known else "not measured"
        verdict = "met" if passed else "missed"
        message = f"{name.replace('_', ' ')} is {seen}, {words} {limit:.4g} is wanted: {verdict}"
        results.append(
            GateResult(gate=gate, passed=passed, value=value if known else None, limit=limit, message=message)
        )
    return tuple(results)


def require_gates(results: Iterable[GateResult]) -> None:
    """Go on only when every gate was passed.

    Raises:
        GateError: one was not; all that were missed are named with the value seen.
    """
    missed = [f"gates.{result.gate}: {result.message}" for result in results if not result.passed]
    if missed:
        raise GateError("; ".join(missed))
