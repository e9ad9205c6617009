"""When a model is trained again: a confirmed drift or loss of score, large enough, and not too soon after the last.

What holds a retraining back, in this order: the rule is switched off; nothing confirmed is large enough; the last one
is too recent; the last one had the same data, so that another would end the same. A drift is confirmed by `DriftWatch`,
so that one odd window starts nothing.
"""

from collections.abc import Sequence
from typing import Literal

from training_core.config import Config
from training_core.monitoring import DriftReport, DriftWatch
from training_core.quantities import NonNegativeFloat, UnitInterval

_DAY_SECONDS = 86_400
Outcome = Literal["started", "promoted", "challenger", "refused", "failed"]


class RetrainRule(Config):
    """What has to happen before a model is trained again by itself."""

    degradation: UnitInterval = 0.1
    """Confirmed loss of headline score, as a share of the reference's; for regression, gain of the error."""
    drift: UnitInterval = 0.2
    """Confirmed drift, as the Jensen-Shannon divergence of a feature; other effects count by how far they are beyond
    their threshold of warning, which stands for a divergence of `drift.warning`."""
    min_days: NonNegativeFloat = 7.0
    """Days that have to lie between two retrainings of a model; fractions are allowed."""
    enabled: bool = True
    """Whether models are trained again by themselves at all."""


class RetrainRecord(Config):
    """One retraining of a model, as it is remembered."""

    time: NonNegativeFloat
    """Seconds since 1970."""
    reason: str
    """What it was for: drift, degradation, manual, schedule."""
    window: str = ""
    """Label of the window that started it."""
    dataset: str
    """`name@version` that was the latest, out of which its rows were taken."""
    champion: str = ""
    """The version that answered when it began."""
    outcome: Outcome = "started"
    """started: it runs, or was killed. challenger: trained, and left for somebody to promote. refused: not better."""
    version: str = ""
    """URI of what was trained."""
    why: str = ""
    """Why it was promoted or not."""


class RetrainVerdict(Config):
    """Whether to train again, and why."""

    retrain: bool
    reason: str
    """A sentence with figures."""
    cause: Literal["none", "drift", "degradation"] = "none"
    strength: NonNegativeFloat = 0.0
    """The largest effect over its threshold of warning."""
    checks: tuple[str, ...] = ()
    """Names of what is beyond the rule, the most serious first."""


def should_retrain(
    report: DriftReport,
    watch: DriftWatch,
    rule: RetrainRule,
    past: Sequence[RetrainRecord] = (),
    dataset: str = "",
    now: float = 0.0,
) -> RetrainVerdict:
    """What a window calls for.

    Args:
        report: of the window.
        watch: after the window.
        rule: thresholds and the cool-down.
        past: retrainings of the model, oldest first.
        dataset: `name@version` a retraining would take its rows from.
        now: seconds since 1970.
    """
    confirmed = watch.confirmed
    serious = [check for check in report.of("drift", "warning") if check.name in confirmed]
    worse = [c for c in serious if c.kind == "performance" and (c.change or 0.0) >= rule.degradation]
    moved = [c for c in serious if c.kind != "performance" and c.strength * report.config.warning >= rule.drift]
    beyond = [*worse, *moved]
    if not beyond:
        most = serious[0] if serious else None
        return RetrainVerdict(
            retrain=False,
            reason=f"{most.name} is confirmed, and not beyond the rule" if most else "no drift is confirmed",
        )
    cause = "degradation" if worse else "drift"
    named = ", ".join(check.name for check in beyond[:3]) + (f" and {len(beyond) - 3} more" if len(beyond) > 3 else "")
    found = (
        f"the score is {worse[0].change:.0%} worse than in the reference"
        if worse
        else f"{named} drifted, {moved[0].strength:.1f} times the threshold of warning"
    )
    found = f"{found}, in {watch.min_consecutive} successive windows"
    held = "retraining by itself is switched off (`retrain.enabled`)" if not rule.enabled else ""
    held = held or held_back(rule, past, dataset, now)
    return RetrainVerdict(
        retrain=not held,
        reason=f"{found}; {held}" if held else found,
        cause=cause,
        strength=max(check.strength for check in beyond),
        checks=tuple(check.name for check in beyond),
    )


def held_back(rule: RetrainRule, past: Sequence[RetrainRecord], dataset: str, now: float) -> str:
    """Why a model is not trained again yet, as a sentence; empty when nothing speaks against it.

    One that failed or was killed does not count: the next one goes on with what it has trained.
    """
    done = [record for record in past if record.outcome not in ("started", "failed")]
    if not done:
        return ""
    days = (now - done[-1].time) / _DAY_SECONDS
    if days < rule.min_days:
        return (
            f"it was trained again {max(days, 0.0):.1f} days ago ({done[-1].outcome}), and there have to be "
            f"{rule.min_days:g} days between (`min_days`)"
        )
    if dataset and any(record.dataset == dataset for record in done):
        return f"it was trained again on {dataset} before; there have to be new rows"
    return ""
