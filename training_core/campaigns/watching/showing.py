"""What a look at a model found, for people and for automations: rows of a table, Markdown, and the alarm."""

from typing import Any

from training_core.campaigns.watching.monitor import MonitorConfig, MonitorReport
from training_core.campaigns.watching.retraining import RetrainReport, called_for
from training_core.monitoring import Check
from training_core.pages.tables import markdown_table

_ROWS_SHOWN = 50
SAYS = {
    "ok": "no drift",
    "warning": "warning",
    "drift": "drift",
    "insufficient_data": "not enough rows yet to say",
}


def check_rows(report: MonitorReport) -> list[dict[str, Any]]:
    """One row per check, the most serious first; at most 50."""
    checks = report.drift.checks[:_ROWS_SHOWN] if report.drift else ()
    return [
        {
            "check": check.name,
            "verdict": check.verdict,
            "confirmed": check.name in report.confirmed,
            "effect / threshold": round(check.strength, 3),
            "q": None if check.q_value is None else round(check.q_value, 5),
            "reference": _rounded(check.reference_value),
            "window": _rounded(check.window_value),
            "rows": check.window_rows,
        }
        for check in checks
    ]


def to_markdown(report: MonitorReport) -> str:
    """What was found in a few lines, and what moved as a table."""
    lines = [
        f"# {report.model}: {SAYS[report.verdict]}",
        "",
        f"Window {report.window}: {report.num_rows} new rows of {report.dataset}, met by {report.version}.",
    ]
    if report.num_late:
        lines.append(f"Answers of {report.num_late} earlier rows have become known.")
    if report.not_counted:
        lines.append(_sentence(report.not_counted))
    lines += ["", _sentence(report.retrain.reason)]
    serious = report.drift.of("drift", "warning") if report.drift else ()
    if serious:
        header = ("check", "verdict", "confirmed", "effect / threshold", "q")
        rows = [_row(check, check.name in report.confirmed) for check in serious[:_ROWS_SHOWN]]
        lines += ["", *markdown_table(header, rows)]
    return "\n".join(lines) + "\n"


def alarm(request: MonitorConfig, report: MonitorReport) -> dict[str, Any]:
    """What the event of a drift says: the whole request of the retraining it calls for, and what people are told."""
    return {
        "retrain": called_for(request, report).model_dump(mode="json"),
        "model": report.model,
        "version": report.version,
        "dataset": report.dataset,
        "window": report.window,
        "verdict": report.verdict,
        "cause": report.retrain.cause,
        "strength": round(report.retrain.strength, 4),
        "checks": list(report.retrain.checks),
        "reason": report.retrain.reason,
        "report": report.report,
    }


def retraining_markdown(report: RetrainReport) -> str:
    """What came of a retraining, and on how many rows."""
    plan = report.plan
    lines = [f"# {plan.model}: {report.outcome}", "", _sentence(report.why), ""]
    figures = [
        ("champion before", plan.champion),
        ("trained", report.version or "nothing"),
        ("rows from", plan.latest),
        ("new rows", str(plan.num_new)),
        ("rows trained on", f"{plan.num_training}{f': {plan.trains_on}' if plan.trains_on else ''}"),
        ("rows that judged", str(plan.num_hold_out)),
    ]
    return "\n".join([*lines, *markdown_table(("", ""), figures)]) + "\n"


def _row(check: Check, confirmed: bool) -> tuple[str, ...]:
    q_value = "" if check.q_value is None else f"{check.q_value:.2g}"
    return (check.name, check.verdict, "yes" if confirmed else "", f"{check.strength:.2f}", q_value)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""
