"""The parts of an evaluation's page: each a list of HTML pieces, empty where there is nothing to say."""

import html
from collections.abc import Sequence

from training_core.campaigns.evaluation.outcome import (
    BEST_SINGLE,
    ENSEMBLE,
    PLAIN_MEAN,
    EvaluationReport,
    PatternEvaluation,
)
from training_core.campaigns.report import pattern_label
from training_core.evaluation.robustness import MissingRateCurve
from training_core.evaluation.statistics import Difference, Interval
from training_core.pages.charts import DotRow, Line, dot_plot, line_chart, reliability_diagram
from training_core.pages.tables import table
from training_core.quantities import format_bytes, format_seconds

_PAIRS_SHOWN = 20
_DIAGRAMS = 3


def label(pattern: PatternEvaluation) -> str:
    """How a pattern is called beside a plot."""
    return pattern_label(pattern.ensemble)


def scores(report: EvaluationReport) -> list[str]:
    """The ensemble, what it is made of, and other models."""
    rows = []
    for one in report.predictors:
        p_value = (
            None if one.lead is None else one.lead.p_value if one.adjusted_p_value is None else one.adjusted_p_value
        )
        rows.append(
            (
                one.predictor,
                one.detail,
                f"{one.score:.4f}",
                _interval(one.interval),
                "" if one.lead is None else f"{one.lead.difference:+.4f}",
                "" if one.lead is None else _interval(one.lead.interval, signed=True),
                "" if p_value is None else p(p_value),
                "" if one.lead is None else p(one.lead.wilcoxon_p_value),
                f"{one.num_rows:,}",
            )
        )
    header = ("predictor", "", report.metric, "interval", "ensemble leads by", "interval", "p", "p of losses", "rows")
    measured = report.predictors[0].metrics
    names = [name for name in measured if name != report.metric]
    return [
        table(header, rows),
        _note(
            "p: paired bootstrap of the score; of losses: Wilcoxon's signed ranks of the loss per "
            f"{report.rows.unit}. Below .05 luck alone would hardly do it."
        ),
        table(
            ("predictor", *names),
            [(one.predictor, *(f"{one.metrics[n]:.4f}" if n in one.metrics else "–" for n in names))
             for one in report.predictors],
        ),
    ]  # fmt: skip


def patterns(report: EvaluationReport) -> list[str]:
    """One row per availability pattern, against the predictors it is compared with and the oracles."""
    oracle = any(one.oracle for one in report.patterns)
    dots = [
        DotRow(
            label(one),
            (
                one.ensemble.score,
                one.best_single,
                one.plain_mean,
                *((one.oracle.score if one.oracle else None,) if oracle else ()),
            ),
            one.interval.low,
            one.interval.high,
        )
        for one in report.patterns
    ]
    names = (ENSEMBLE, BEST_SINGLE, PLAIN_MEAN, *(("oracle",) if oracle else ()))
    header = ["modalities", report.metric, "interval", "calibration error", "confidence", "lead over best single",
              "lead over mean", *(["oracle", "gap to it"] if oracle else []), "rows"]  # fmt: skip
    rows = []
    for one in report.patterns:
        found = [
            label(one),
            f"{one.ensemble.score:.4f}",
            _interval(one.interval),
            "–" if one.ensemble.ece is None else f"{one.ensemble.ece:.3f}",
            f"{one.ensemble.confidence:.3f}",
            _difference(one.lead_over_best_single),
            _difference(one.lead_over_mean),
        ]
        if oracle:
            found += ["–", "–"] if one.oracle is None else [f"{one.oracle.score:.4f}", _difference(one.oracle.gap)]
        rows.append((*found, f"{one.ensemble.num_rows:,}"))
    parts = [
        dot_plot(dots, names, f"{report.metric} under every pattern; the bar is the ensemble's interval"),
        table(header, rows),
        _note("A lead or gap stands with its interval: where that holds 0, it may be luck."),
    ]
    if oracle:
        parts.append(_note("An oracle is an ensemble trained anew on just the modalities that a pattern leaves."))
    return parts


def curves(report: EvaluationReport) -> list[str]:
    """The score at growing missing rates, cells at random and in outages."""
    parts, rows = [], []
    names = {"random": "cells missing at random", "block": "long outages of a modality"}
    for missingness, title in names.items():
        found = [curve for curve in report.curves if curve.missingness == missingness]
        parts.append(line_chart([_line(curve) for curve in found], "missing rate", f"{report.metric}, {title}", True))
        rows += [
            (
                title,
                curve.predictor,
                *(f"{_at(curve, rate):.4f}" for rate in _listed(curve)),
                f"{curve.area:.4f}",
                "–" if curve.relative_area is None else f"{curve.relative_area:.4f}",
                f"{curve.num_rows:,} × {curve.repeats}",
            )
            for curve in found
        ]
    listed = [f"{rate:.0%}" for rate in _listed(report.curves[0])]
    header = ("missing", "predictor", *listed, "area", "of clean", "rows × draws")
    hidden = report.curve(ENSEMBLE, "random").points[-1]
    return [
        f'<div class="charts">{"".join(parts)}</div>',
        table(header, rows),
        _note(
            "Area: mean score over the rates. Of clean: area over the score with nothing missing. As a row keeps one "
            f"modality, at {hidden.rate:.0%} {hidden.hidden:.0%} of the cells are really hidden. The band is one "
            "standard deviation over the draws."
        ),
    ]


def calibration(report: EvaluationReport) -> list[str]:
    """Reliability diagrams, errors per pattern, and coverage of sets or intervals."""
    parts = []
    told = [one for one in report.patterns if one.calibration.bins]
    if told:
        worst = sorted(told[1:], key=lambda one: -(one.calibration.ece or 0.0))[: _DIAGRAMS - 1]
        drawn = [
            reliability_diagram(
                [(b.confidence, b.accuracy, b.num_rows) for b in one.calibration.bins],
                f"Accuracy against confidence, {label(one)} ({one.calibration.num_rows:,} rows)",
            )
            for one in [told[0], *worst]
        ]
        header = ("modalities", "error, equal mass", "if calibrated", "equal width", "class-wise", "worst class",
                  "log loss", "Brier", "accuracy", "confidence", "rows")  # fmt: skip
        rows = [
            (
                label(one),
                *(_figure(getattr(one.calibration, name)) for name in _CALIBRATION),
                f"{one.calibration.num_rows:,}",
            )
            for one in told
        ]
        parts += [f'<div class="charts">{"".join(drawn)}</div>', table(header, rows)]
    regions = [(one, one.calibration.regions) for one in report.patterns if one.calibration.regions]
    if regions:
        kind, source = regions[0][1].kind, regions[0][1].source
        size = "classes or labels in a set" if kind == "sets" else "width, in standard deviations of the target"
        rows = [
            (
                label(one),
                "–" if region.asked is None else f"{region.asked:.0%}",
                f"{region.coverage:.3f}",
                f"{region.size:.2f}",
                _figure(region.worst_group),
                f"{region.num_rows:,}",
            )
            for one, region in regions
        ]
        header = ("modalities", "asked", "inside", size, "least covered class", "rows")
        parts += [_note(f"{kind.capitalize()} that should hold the truth ({source}):"), table(header, rows)]
    return parts


def selective(report: EvaluationReport) -> list[str]:
    """Risk against coverage."""
    found = report.selective
    rows = [
        (f"{point.coverage:.0%}", f"{point.risk:.4f}", _figure(point.threshold), f"{point.num_rows:,}")
        for point in found.points
    ]
    told = "" if found.error_auroc is None else (
        f" A right row is surer than a wrong one in {found.error_auroc:.1%} of pairs (AUROC of telling errors)."
    )  # fmt: skip
    header = ("answered", found.risk_name, "surer than", "rows")
    chart = line_chart([Line("risk", found.curve)], "share of rows answered", found.risk_name, True)
    return [
        f'<div class="charts">{chart}<div>{table(header, rows)}</div></div>',
        _note(
            f"Area under the curve {found.area:.4f}; the best order of these rows would have {found.best_area:.4f}."
            f"{told}"
        ),
    ]


def conflict(report: EvaluationReport) -> list[str]:
    """Spoilt rows."""
    settings = report.request.conflict
    rows = [
        (
            one.predictor,
            f"{one.clean:.4f}",
            f"{one.spoilt:.4f}",
            _figure(one.swapped),
            _figure(one.noisy),
            f"{one.confidence_drop:.3f}",
            _figure(one.conflict_auroc),
            f"{one.num_rows:,}",
        )
        for one in report.conflict
    ]
    risk = report.selective.risk_name
    first = report.conflict[0]
    return [
        table(("predictor", f"{risk}, clean", "spoilt", "rows swapped", "rows with noise", "confidence falls by",
               "conflict told by confidence", "rows"), rows),
        _note(
            f"{first.num_swapped:,} of {first.num_rows:,} rows have one modality swapped for that of a row with "
            f"another answer, {first.num_noisy:,} have noise of {settings.noise_std:g} of each number's range on some."
        ),
    ]  # fmt: skip


def modalities(report: EvaluationReport) -> list[str]:
    """Weight and Shapley shares."""
    ranked = sorted(report.modalities, key=lambda one: -one.shapley)
    rows = [
        (
            one.modality,
            f"{one.weight_share:.1%}",
            f"{one.shapley_share:.1%}",
            f"{one.shapley:+.4f}",
            _interval(one.interval, signed=True),
            f"{one.alone:.4f}",
            f"{one.drop:+.4f}",
            f"{one.num_rows:,}",
        )
        for one in ranked
    ]
    header = ("modality", "share of weights", "share of worth", f"worth in {report.metric}", "interval", "alone",
              "lost without it", "rows")  # fmt: skip
    dots = [DotRow(one.modality, (one.shapley_share, one.weight_share)) for one in ranked]
    return [
        dot_plot(dots, ("share of worth", "share of weights"), "What each modality is worth"),
        table(header, rows),
        _note("Worth: Shapley's value, the mean gain of adding it to every set of the others."),
    ]


def diversity(report: EvaluationReport) -> list[str]:
    """Pairwise diversity and the split of the error."""
    found = report.diversity
    if found is None:
        return [_note("One learner alone answers when everything is present.")]
    split = table(
        ("learners", "mean error of one", "what their mean gains", "error of the mean", "disagreement", "Q",
         "both wrong", "correlation of errors", "rows"),
        [(str(found.num_learners), f"{found.learner_loss:.4f}", f"{found.ambiguity:.4f}", f"{found.ensemble_loss:.4f}",
          _figure(found.disagreement), _figure(found.q), _figure(found.double_fault),
          _figure(found.error_correlation), f"{found.num_rows:,}")],
    )  # fmt: skip
    pairs = sorted(found.pairs, key=lambda pair: -(pair.error_correlation or 0.0))
    rows = [
        (pair.first, pair.second, _figure(pair.disagreement), _figure(pair.q), _figure(pair.double_fault),
         _figure(pair.error_correlation), f"{pair.num_rows:,}")
        for pair in pairs[:_PAIRS_SHOWN]
    ]  # fmt: skip
    header = ("learner", "learner", "disagreement", "Q", "both wrong", "correlation of errors", "rows")
    return [
        split,
        _note("Squared errors of the weighted mean before calibration: mean error of one, less what the mean gains."),
        f"<details><summary>The most alike of {len(pairs):,} pairs</summary>{table(header, rows)}</details>",
    ]


def cost(report: EvaluationReport) -> list[str]:
    """Time, memory, disk, failures."""
    found = report.cost
    rows = [
        ("a row by itself", f"{found.milliseconds_single:.3g} ms"),
        (f"a row of {found.batch_rows:,} at a time", f"{found.milliseconds_batch:.3g} ms"),
        ("loading, to the first answer", format_seconds(found.load_seconds)),
        ("on disk", format_bytes(found.size_bytes)),
        ("learners, and those with a weight", f"{found.num_learners}, {found.num_kept}"),
    ]
    if found.cpu_seconds is not None and found.seconds is not None and found.peak_bytes is not None:
        rows += [
            ("training", f"{format_seconds(found.seconds)}, {format_seconds(found.cpu_seconds)} of CPU"),
            ("most memory of a learner's process", format_bytes(found.peak_bytes)),
        ]
    parts = [table(("", ""), rows)]
    if found.run_id is None:
        parts.append(_note("This store has no record of the training run, so what it took is not known."))
    if report.failures:
        parts.append(table(("failed learner", "why"), list(report.failures.items())))
    return parts


_CALIBRATION = ("ece", "ece_if_calibrated", "ece_width", "classwise_ece", "worst_class_ece", "log_loss", "brier",
                "accuracy", "mean_confidence")  # fmt: skip


def p(value: float) -> str:
    """A p-value as a person reads it."""
    return "<.001" if value < 0.001 else f"{value:.3f}"


def _line(curve: MissingRateCurve) -> Line:
    return Line(
        curve.predictor,
        [(point.rate, point.score) for point in curve.points],
        [point.score - point.std for point in curve.points],
        [point.score + point.std for point in curve.points],
        dashed=curve.predictor != ENSEMBLE,
    )


def _listed(curve: MissingRateCurve) -> Sequence[float]:
    """About five of the rates, the last one among them."""
    rates = [point.rate for point in curve.points]
    step = max(1, round((len(rates) - 1) / 4))
    return sorted({*rates[::step], rates[-1]})


def _at(curve: MissingRateCurve, rate: float) -> float:
    return min(curve.points, key=lambda point: abs(point.rate - rate)).score


def _interval(interval: Interval, signed: bool = False) -> str:
    form = "+.3f" if signed else ".3f"
    return f"{interval.low:{form}} to {interval.high:{form}}"


def _difference(found: Difference) -> str:
    return f"{found.difference:+.4f} ({_interval(found.interval, signed=True)})"


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _note(text: str) -> str:
    return f'<p class="note">{html.escape(text)}</p>'
