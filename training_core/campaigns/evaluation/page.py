"""The evaluation as one self-contained HTML page."""

import html

from training_core.campaigns.evaluation import sections
from training_core.campaigns.evaluation.outcome import BEST_SINGLE, ENSEMBLE, EvaluationReport
from training_core.pages.document import document, figures, lead


def write_html(report: EvaluationReport) -> str:
    """The evaluation as HTML that needs no other file and no network."""
    return document(
        f"{report.model} on {report.dataset}: {report.metric} {report.score:.4f}",
        [
            f"<h1>{html.escape(report.model)} <small>on {html.escape(report.dataset)}</small></h1>",
            lead(_lead(report)),
            figures(_figures(report)),
            *_section("How good it is", sections.scores(report)),
            *_section("When modalities are missing", sections.patterns(report)),
            *_section("As more and more is missing", sections.curves(report)),
            *_section("Whether its confidence can be believed", sections.calibration(report)),
            *_section("Answering only where it is sure", sections.selective(report)),
            *_section("When modalities contradict each other", sections.conflict(report)),
            *_section("What each modality is worth", sections.modalities(report)),
            *_section("How differently its learners err", sections.diversity(report)),
            *_section("What it takes", sections.cost(report)),
            f'<p class="foot">{html.escape(_method(report))}</p>',
        ],
    )


def _section(title: str, body: list[str]) -> list[str]:
    return [f"<h2>{html.escape(title)}</h2>", *body] if body else []


def _figures(report: EvaluationReport) -> list[tuple[str, str]]:
    full, worst = report.full, report.worst
    curve = report.curve(ENSEMBLE, "random")
    best = next(one for one in report.predictors if one.predictor == BEST_SINGLE)
    shown = [
        (f"{report.score:.4f}", f"{report.metric}, {full.interval.low:.3f} to {full.interval.high:.3f}"),
        (f"{best.score:.4f}", "best single learner"),
        (f"{worst.ensemble.score:.4f}", f"worst pattern ({sections.label(worst)})"),
    ]
    if curve.relative_area is not None:
        shown.append((f"{curve.relative_area:.3f}", f"of the score kept, mean over 0 to {curve.points[-1].rate:.0%}"))
    if full.calibration.ece is not None:
        shown.append((f"{full.calibration.ece:.3f}", "calibration error"))
    shown.append((f"{report.cost.milliseconds_batch:.3g} ms", f"a row, {report.cost.batch_rows} at a time"))
    return shown


def _lead(report: EvaluationReport) -> str:
    rows = report.rows
    which = "of the test split" if rows.which == "test" else "it was not trained on"
    left = f"; {rows.trained_on:,} more were left out, the model was trained on them" if rows.trained_on else ""
    unsure = "" if rows.checked else "; the version it was trained on is gone, so only the split keeps them apart"
    return f"Trained on {report.trained_on}, judged on {rows.num_rows:,} rows {which}{left}{unsure}."


def _method(report: EvaluationReport) -> str:
    rows = report.rows
    unit = {"row": "rows", "group": "groups", "block": "blocks of successive rows"}[rows.unit]
    return (
        f"Intervals hold {report.request.level:.0%}: percentiles of {rows.num_resamples:,} draws with replacement of "
        f"{rows.num_units:,} {unit}; the same draws for all that is compared. What is missing was drawn "
        f"{report.request.repeats} times per rate, the same for all predictors; a row keeps at least one modality. "
        f"Seed {report.request.seed}. The evaluation took {report.seconds:.1f} s."
    )
