"""Whether a window still looks like the reference: an effect that is large, and evidence that it is no chance."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from training_core.data.views import RowSource
from training_core.errors import DataError
from training_core.monitoring.arrays import kernel_shift
from training_core.monitoring.config import DriftConfig
from training_core.monitoring.observe import CONFIDENCE, OTHER, Predict
from training_core.monitoring.profile import ReferenceProfile
from training_core.monitoring.report import Check, CheckKind, DriftReport, Verdict, worst
from training_core.monitoring.tally import (
    CategoryTally,
    NumberTally,
    PerformanceTally,
    ShareTally,
    Tally,
)
from training_core.monitoring.two_samples import (
    chi_squared_test,
    corrected_js_divergence,
    false_discovery_q_values,
    g_test,
    kolmogorov_smirnov,
    pool_small_bins,
    population_stability_index,
    share_test,
    wasserstein,
    worse_mean_test,
    worse_share_test,
)
from training_core.schema import TaskSpec

_LABELS_SHOWN = 12
_SHAPE_POINTS = 20


@dataclass(frozen=True)
class _Compared:
    """A check before it is judged: `warnings` and `drifts` are its effects, each over its threshold."""

    name: str
    kind: CheckKind
    rows: tuple[int, int]
    p_value: float | None  # None where nothing could differ: not a test
    warnings: tuple[float, ...]
    drifts: tuple[float, ...]
    shown: Mapping[str, Any] = field(default_factory=dict)


def compare(
    profile: ReferenceProfile,
    window: RowSource | Tally,
    config: DriftConfig | None = None,
    predict: Predict | None = None,
    label: str = "",
) -> DriftReport:
    """Compare a window with a profile.

    Every check has one p-value; over all checks of the window they are adjusted together, so that of windows without
    drift at most a share `significance` raises anything. A warning or drift is an effect beyond its threshold *and* a
    q-value below `significance`: of many rows every difference is significant, of few every effect is large.

    Rows are taken as independent draws. In a stream whose neighbouring rows are alike there is less evidence than rows,
    and seasons are differences: take a rolling or seasonal reference (`references`) and confirm over windows (`watch`).

    Args:
        profile: the reference.
        window: rows, or what `profile.measure` made of them.
        config: thresholds.
        predict: as for `profile.measure`, when `window` is rows.
        label: how the window is called.

    Raises:
        DataError: the window does not have the modalities of the profile, or was measured with another one.
        StorageError: a file does not read back.
    """
    config = config or DriftConfig()
    tally = window if isinstance(window, Tally) else profile.measure(window, predict)
    reference = profile.tally
    if tally.scale != reference.scale:
        raise DataError("this window was measured with another profile; measure it with the one it is compared with")
    found = [*_numbers(reference, tally, config), *_categories(profile, tally, config)]
    found += [*_shares(reference, tally, config), *_arrays(profile, tally, config)]
    found += _performance(profile.scales.spec.task, reference.performance, tally.performance, config)
    enough = min(reference.num_rows, tally.num_rows) >= config.min_rows
    judged = {one.name for one in found if enough and min(one.rows) >= config.min_rows}
    tests = {
        one.name: one.p_value for one in found if one.name in judged - {*config.ignore} and one.p_value is not None
    }
    q_values = dict(zip(tests, false_discovery_q_values(np.array(list(tests.values()))).tolist(), strict=True))
    checks = [_judged(one, q_values.get(one.name), one.name in judged, profile.usual, config) for one in found]
    order = {"drift": 0, "warning": 1, "ok": 2, "insufficient_data": 3}
    checks.sort(key=lambda check: (order[check.verdict], -check.strength))
    return DriftReport(
        name=profile.name,
        window=label,
        verdict=worst(check.verdict for check in checks) if enough else "insufficient_data",
        reference=config.reference,
        reference_rows=reference.num_rows,
        window_rows=tally.num_rows,
        checks=tuple(checks),
        num_tests=len(tests),
        expected_score=_expected_score(profile.scales.spec.task, reference, tally),
        config=config,
    )


def _judged(
    one: _Compared, q_value: float | None, has_rows: bool, usual: Mapping[str, float], config: DriftConfig
) -> Check:
    """Effects count as multiples of their threshold, or of what is usual between windows where that is more."""
    verdict: Verdict = "ok"
    allowed = max(1.0, usual.get(one.name, 0.0))
    if not has_rows:
        verdict = "insufficient_data"
    elif q_value is not None and q_value < config.significance:
        verdict = "drift" if max(one.drifts) >= allowed else "warning" if max(one.warnings) >= allowed else "ok"
    return Check(
        name=one.name,
        kind=one.kind,
        verdict=verdict,
        strength=max(one.warnings) if has_rows else 0.0,
        usual=usual.get(one.name),
        p_value=one.p_value if has_rows else None,
        q_value=q_value,
        reference_rows=one.rows[0],
        window_rows=one.rows[1],
        **one.shown,
    )


def _numbers(reference: Tally, window: Tally, config: DriftConfig) -> list[_Compared]:
    return [
        _number(name, before, window.numbers[name], config)
        for name, before in reference.numbers.items()
        if name in window.numbers
    ]


def _number(name: str, before: NumberTally, now: NumberTally, config: DriftConfig) -> _Compared:
    rows = before.num_rows, now.num_rows
    if not min(rows):
        return _Compared(name, "number", rows, 1.0, (0.0,), (0.0,))
    p_value, js, shown = _histograms(before.counts, now.counts)
    ks = kolmogorov_smirnov(before.quantiles, now.quantiles, *rows)
    moved = wasserstein(before.quantiles, now.quantiles) / before.std if before.std > 0 else None
    step = len(before.quantiles) // _SHAPE_POINTS
    shown |= {
        "reference_value": before.mean,
        "window_value": now.mean,
        "ks": ks.statistic,
        "ks_p_value": ks.p_value,
        "wasserstein": moved,
        "reference_shape": tuple(before.quantiles[step // 2 :: step].tolist()),
        "window_shape": tuple(now.quantiles[step // 2 :: step].tolist()),
    }
    warnings = js / config.warning, (moved or 0.0) / config.shift_warning
    drifts = js / config.drift, (moved or 0.0) / config.shift_drift
    return _Compared(name, "number", rows, p_value, warnings, drifts, shown)


def _categories(profile: ReferenceProfile, window: Tally, config: DriftConfig) -> list[_Compared]:
    names = profile.scales.categories
    return [
        _category(name, before, window.categories[name], (*names[name], OTHER), config)
        for name, before in profile.tally.categories.items()
        if name in window.categories
    ]


def _category(
    name: str, before: CategoryTally, now: CategoryTally, labels: tuple[str, ...], config: DriftConfig
) -> _Compared:
    rows = before.num_rows, now.num_rows
    if not min(rows):
        return _Compared(name, "category", rows, 1.0, (0.0,), (0.0,))
    order = np.argsort(-before.counts, kind="stable")  # rare ones side by side, where they are put together
    p_value, js, shown = _histograms(before.counts[order], now.counts[order])
    first, second = before.counts / rows[0], now.counts / rows[1]
    most = np.argsort(-np.maximum(first, second), kind="stable")[:_LABELS_SHOWN]
    most = most[np.maximum(first, second)[most] > 0]
    shown |= {
        "labels": tuple(labels[i] for i in most),
        "reference_shape": tuple(first[most].tolist()),
        "window_shape": tuple(second[most].tolist()),
    }
    return _Compared(name, "category", rows, p_value, (js / config.warning,), (js / config.drift,), shown)


def _histograms(before: np.ndarray, now: np.ndarray) -> tuple[float, float, dict[str, Any]]:
    """p-value of the G-test, corrected divergence, and what else counts [bin] tell."""
    places = pool_small_bins(before, now)
    before, now = np.bincount(places, before), np.bincount(places, now)
    js = corrected_js_divergence(before, now)
    shown: dict[str, Any] = {
        "js_divergence": js,
        "psi": population_stability_index(before, now),
        "chi_squared_p_value": chi_squared_test(before, now).p_value,
    }
    return g_test(before, now).p_value, js, shown


def _shares(reference: Tally, window: Tally, config: DriftConfig) -> list[_Compared]:
    return [
        _share(name, before, window.shares[name], config)
        for name, before in reference.shares.items()
        if name in window.shares
    ]


def _share(name: str, before: ShareTally, now: ShareTally, config: DriftConfig) -> _Compared:
    rows = before.num_rows, now.num_rows
    change = now.share - before.share if min(rows) else 0.0
    may_differ = 0 < before.hits + now.hits < sum(rows)  # else no rows could have shown a difference
    p_value = share_test((before.hits, rows[0]), (now.hits, rows[1])) if may_differ else None
    shown = {"reference_value": before.share, "window_value": now.share, "change": change}
    effects = (abs(change) / config.share_warning,), (abs(change) / config.share_drift,)
    return _Compared(name, "share", rows, p_value, *effects, shown)


def _arrays(profile: ReferenceProfile, window: Tally, config: DriftConfig) -> list[_Compared]:
    found = []
    for name, scale in profile.scales.arrays.items():
        before, now = profile.tally.arrays[name], window.arrays[name]
        rows = before.num_rows, now.num_rows
        shift, p_value = kernel_shift(scale, before, now) if min(rows) else (0.0, 1.0)
        effects = (shift / config.array_warning,), (shift / config.array_drift,)
        found.append(_Compared(f"array/{name}", "array", rows, p_value, *effects, {"shift": shift}))
    return found


def _performance(
    task: TaskSpec, before: PerformanceTally | None, now: PerformanceTally | None, config: DriftConfig
) -> list[_Compared]:
    """How much worse, as a share of the reference: the headline score, for regression the root mean squared error."""
    if before is None or now is None:
        return []
    rows = before.num_rows, now.num_rows
    if task.kind == "regression":
        then, error = np.sqrt(before.loss), np.sqrt(now.loss)
        worse = error / then - 1 if then > 0 else (0.0 if error == 0 else np.inf)
    else:
        worse = (before.score - now.score) / before.score if before.score > 0 else 0.0
    if before.hits is not None and now.hits is not None:
        p_value = worse_share_test((before.hits, rows[0]), (now.hits, rows[1]))
    else:
        losses = (before.loss, before.loss_std, rows[0]), (now.loss, now.loss_std, rows[1])
        p_value = worse_mean_test(*losses)
    lost = max(0.0, float(worse))
    shown = {"reference_value": before.score, "window_value": now.score, "change": float(worse)}
    effects = (lost / config.degradation_warning,), (lost / config.degradation_drift,)
    return [_Compared(f"performance/{task.metric}", "performance", rows, p_value, *effects, shown)]


def _expected_score(task: TaskSpec, reference: Tally, window: Tally) -> float | None:
    """Mean confidence of the window, less what the reference's promised too much; classification only.

    Confidence-based performance estimation: calibrated confidences average to the accuracy (Guillory et al. 2021,
    arXiv:2107.03315, difference of confidences).
    """
    known, now = reference.performance, window.numbers.get(CONFIDENCE)
    if task.kind != "classification" or known is None or now is None or not now.num_rows:
        return None
    return float(np.clip(known.score + now.mean - known.confidence, 0.0, 1.0))
