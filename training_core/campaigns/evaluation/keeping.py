"""Where an evaluation is kept: a page and a JSON file in a folder, Markdown for places that render it, the tracker."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from training_core.artifacts import storage_errors, write_text_atomically
from training_core.campaigns.evaluation.outcome import ENSEMBLE, EvaluationReport
from training_core.campaigns.evaluation.page import write_html
from training_core.campaigns.evaluation.sections import label
from training_core.campaigns.recording import tracker_at
from training_core.config import Config, canonical_json
from training_core.pages.tables import markdown_table
from training_core.tracking import flat_params

PAGE, FIGURES = "evaluation.html", "evaluation.json"


class KeptEvaluation(Config):
    """An evaluation and where it is."""

    result: EvaluationReport
    folder: str
    """Holds `evaluation.html` and `evaluation.json`."""
    report: str
    """Path of the page."""
    run_id: str
    """In the tracker."""
    tracking: str
    """Where the tracker keeps its runs."""


def keep(
    report: EvaluationReport, store: Path, out: Path | None = None, tags: Mapping[str, str] | None = None
) -> KeptEvaluation:
    """Write an evaluation to `out`, by default a folder of the store named by what was asked, and tell the tracker.

    Raises:
        StorageError: the folder cannot be written.
    """
    folder = out or store / "evaluations" / _key(report)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    page, figures = write_html(report), report.model_dump_json(indent=1)
    write_text_atomically(folder / PAGE, page)
    write_text_atomically(folder / FIGURES, figures)
    tracker = tracker_at(report.request.trackers, str(store))
    run_id = tracker.start(
        f"evaluation of {report.model}",
        tags={
            "polychoir.evaluation_of": report.model,
            "polychoir.ensemble": report.ensemble,
            "polychoir.dataset": report.dataset,
            **({"polychoir.training_run": report.cost.run_id} if report.cost.run_id else {}),
            **(tags or {}),
        },
        params=flat_params(report.request.model_dump(mode="json")),
    )
    tracker.log_metrics(run_id, headline_figures(report))
    tracker.log_text(run_id, page, PAGE)
    tracker.log_text(run_id, figures, FIGURES)
    tracker.finish(run_id)
    return KeptEvaluation(
        result=report, folder=str(folder), report=str(folder / PAGE), run_id=run_id, tracking=tracker.location
    )


def headline_figures(report: EvaluationReport) -> dict[str, float]:
    """The numbers that evaluations are compared by, flat."""
    found = {f"test/{name}": value for name, value in report.predictors[0].metrics.items()}
    found |= {f"interval/{end}": getattr(report.full.interval, end) for end in ("low", "high")}
    for one in report.patterns[1:]:
        kept = "+".join(one.ensemble.available)
        found[f"pattern/{kept}/{report.metric}"] = one.ensemble.score
        if one.oracle is not None:
            found[f"pattern/{kept}/oracle_gap"] = one.oracle.gap.difference
    for missingness in ("random", "block"):
        curve = report.curve(ENSEMBLE, missingness)
        found[f"robustness/{missingness}/area"] = curve.area
        if curve.relative_area is not None:
            found[f"robustness/{missingness}/relative_area"] = curve.relative_area
    found |= {"selective/area": report.selective.area, "selective/risk_at_80": report.selective.at(0.8).risk}
    found["conflict/risk"] = report.conflict[0].spoilt
    for one in report.modalities:
        found |= {f"modality/{one.modality}/shapley": one.shapley, f"modality/{one.modality}/weight": one.weight_share}
    found |= {
        "cost/milliseconds_single": report.cost.milliseconds_single,
        "cost/milliseconds_batch": report.cost.milliseconds_batch,
        "cost/size_bytes": float(report.cost.size_bytes),
    }
    return found


def pattern_rows(report: EvaluationReport) -> list[dict[str, object]]:
    """One row per pattern, for a table in a user interface."""
    return [
        {
            "modalities": label(one),
            report.metric: round(one.ensemble.score, 4),
            "low": round(one.interval.low, 4),
            "high": round(one.interval.high, 4),
            "calibration error": None if one.ensemble.ece is None else round(one.ensemble.ece, 4),
            "confidence": round(one.ensemble.confidence, 4),
            "over best single": round(one.lead_over_best_single.difference, 4),
            "oracle gap": None if one.oracle is None else round(one.oracle.gap.difference, 4),
            "rows": one.ensemble.num_rows,
        }
        for one in report.patterns
    ]


def to_markdown(report: EvaluationReport) -> str:
    """The headline and the table of patterns."""
    full, curve = report.full, report.curve(ENSEMBLE, "random")
    rows = [
        (
            label(one),
            f"{one.ensemble.score:.4f}",
            f"{one.interval.low:.3f} to {one.interval.high:.3f}",
            "–" if one.ensemble.ece is None else f"{one.ensemble.ece:.3f}",
            f"{one.lead_over_best_single.difference:+.4f}",
            "–" if one.oracle is None else f"{one.oracle.gap.difference:+.4f}",
            str(one.ensemble.num_rows),
        )
        for one in report.patterns
    ]
    header = (
        "modalities",
        report.metric,
        "interval",
        "calibration error",
        "lead over best single",
        "oracle gap",
        "rows",
    )
    kept = "" if curve.relative_area is None else f"; {curve.relative_area:.3f} of it kept over growing missing rates"
    worth = [
        (one.modality, f"{one.shapley_share:.1%}", f"{one.weight_share:.1%}", str(one.num_rows))
        for one in report.modalities
    ]
    lines = [
        f"# {report.model} on {report.dataset}",
        "",
        f"{report.metric} {report.score:.4f} ({full.interval.low:.3f} to {full.interval.high:.3f}) on "
        f"{report.rows.num_rows} rows{kept}.",
        "",
        *markdown_table(header, rows),
        "",
        *markdown_table(("modality", "share of worth", "share of weights", "rows"), worth),
    ]
    return "\n".join(lines) + "\n"


def _key(report: EvaluationReport) -> str:
    asked = [report.ensemble, report.dataset, report.request.model_dump(mode="json", exclude={"trackers"})]
    return hashlib.sha256(canonical_json(asked).encode()).hexdigest()[:16]
