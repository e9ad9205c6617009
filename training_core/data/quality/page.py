"""The quality report as one self-contained HTML page, and as Markdown for places that render it."""

import html
import re
from collections.abc import Iterable

from training_core.data.quality.plots import availability_matrix, feature_band, grouped_bars, histogram, ranking
from training_core.data.quality.problems import Finding
from training_core.data.quality.report import QualityReport, TargetSummary
from training_core.data.quality.streaming import EXACT_DISTINCT
from training_core.data.quality.summary import CategorySummary, ModalitySummary, NumericSummary, TextSummary
from training_core.pages.document import document

_CLASSES_SHOWN = 40
_COLUMNS_SHOWN = 60  # per modality; more are in the JSON
_FINDINGS_IN_MARKDOWN = 50


def write_html(report: QualityReport, name: str) -> str:
    """The report on data set `name` as HTML that needs no other file and no network."""
    figures = [
        (f"{report.num_rows:,}", "rows"),
        *((f"{rows:,}", "set aside" if split == "quarantined" else split) for split, rows in report.splits.items()),
        (str(len(report.profile.modalities)), "modalities"),
    ]
    shown = "".join(f"<div><b>{value}</b><span>{label}</span></div>" for value, label in figures)
    parts = [
        f'<h1>{html.escape(name)}</h1><p class="lead">{html.escape(_verdict(report))}</p>',
        f'<div class="figures">{shown}</div>',
        f"<h2>Findings</h2>{_findings(report)}",
        f"<h2>Who has what</h2>{availability_matrix(report.availability, _used(report))}",
    ]
    if report.target:
        parts.append(f"<h2>Target</h2>{_target(report.target)}")
    parts += [_modality(modality, report.profile.num_rows) for modality in report.profile.modalities]
    parts.append(f'<p class="foot">{html.escape(_method(report))}</p>')
    return document(f"{name}: data quality", parts)


def to_markdown(report: QualityReport, name: str) -> str:
    """The findings and who has what, without the plots."""
    shown = report.findings[:_FINDINGS_IN_MARKDOWN]
    splits = _used(report)
    lines = [f"# {_cell(name)}: data quality", "", _verdict(report), ""]
    if shown:
        lines += ["| | where | what was seen | what to do |", "|---|---|---|---|"]
        lines += [
            f"| {_label(f)} `{_cell(f.code)}` | {_cell(f.subject)} | {_cell(f.message)} | {_cell(f.advice)} |"
            for f in shown
        ]
        if len(report.findings) > len(shown):
            lines.append(f"\n… and {len(report.findings) - len(shown)} more in the HTML report.")
        lines.append("")
    lines += ["| modality | " + " | ".join(f"{split} ({rows} rows)" for split, rows in splits.items()) + " |"]
    lines += ["|---|" + "---:|" * len(splits)]
    lines += [
        f"| {_cell(modality)} | " + " | ".join(f"{shares[s]:.1%}" for s in splits) + " |"
        for modality, shares in report.availability.items()
    ]
    return "\n".join(lines) + "\n"


def _used(report: QualityReport) -> dict[str, int]:
    """Rows per split, without those set aside."""
    return {split: rows for split, rows in report.splits.items() if split != "quarantined"}


def _verdict(report: QualityReport) -> str:
    num_errors, num_warnings, num_accepted = map(len, (report.errors, report.warnings, report.accepted))
    if not report.findings:
        return "Nothing was found that stands in the way."
    found = [
        f"{number} {what}{'s' if number != 1 else ''}"
        for number, what in ((num_errors, "error"), (num_warnings, "warning"))
        if number
    ]
    accepted = f"{num_accepted} accepted" if num_accepted else ""
    sentence = ", ".join([*found, *([accepted] if accepted else [])])
    if not num_errors + num_warnings:
        return f"Nothing was found beyond {accepted}."
    meaning = "Errors make results misleading." if num_errors else "Warnings may be as it should be: look at each."
    return f"{sentence}. {meaning}"


def _findings(report: QualityReport) -> str:
    rows = [
        f'<div class="finding {"accepted" if f.accepted else f.severity}"><div class="kind">{_label(f)}'
        f"<code>{html.escape(f.code)}</code></div><div><p>{html.escape(f.message)}.</p>"
        f'<p class="advice">{_advice(f)}</p>{_rows(f)}</div>'
        f'<div class="subject">{html.escape(f.subject)}</div></div>'
        for f in report.findings
    ]
    unused = ""
    if report.unused_accept:
        names = ", ".join(f"<code>{html.escape(entry)}</code>" for entry in report.unused_accept)
        unused = f'<p class="lead">Accepted, but not found (any more): {names}</p>'
    return ("".join(rows) or '<p class="lead">None.</p>') + unused


def _advice(finding: Finding) -> str:
    """What stands between back quotes in an advice is set as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(finding.advice))


def _rows(finding: Finding) -> str:
    if not finding.rows:
        return ""
    ids = ", ".join(html.escape(row) for row in finding.rows)
    return f'<p class="rows">rows <code>{ids}</code></p>'


def _label(finding: Finding) -> str:
    return "accepted" if finding.accepted else finding.severity


def _target(target: TargetSummary) -> str:
    if target.kind == "regression":
        plots = [
            _card(f"{name}, {split}", "target", histogram(bins[place], name), [])
            for place, name in enumerate(target.names)
            for split, bins in target.bins.items()
        ]
        return f'<div class="cards">{"".join(plots)}</div>'
    totals = {split: sum(values) for split, values in target.counts.items()}
    counts = {split: values[:_CLASSES_SHOWN] for split, values in target.counts.items()}
    more = len(target.names) - _CLASSES_SHOWN
    rest = f'<p class="lead">and {more} more</p>' if more > 0 else ""
    return grouped_bars(target.names[:_CLASSES_SHOWN], counts, totals) + rest


def _modality(modality: ModalitySummary, num_rows: int) -> str:
    shape = " × ".join(map(str, modality.shape))
    about = [f"{modality.kind}{f' [{shape}]' if shape else ''}", f"{modality.available:,} of {num_rows:,} rows"]
    if modality.repeated:
        about.append(f"{modality.repeated:,} repeat an earlier one")
    cards = _array_cards(modality)
    for column in modality.columns[:_COLUMNS_SHOWN]:
        if isinstance(column, NumericSummary):
            cards.append(_numeric_card(column, modality.available))
        elif isinstance(column, CategorySummary):
            cards.append(_category_card(column))
        else:
            cards.append(_text_cards(column))
    more = len(modality.columns) - _COLUMNS_SHOWN
    rest = f'<p class="lead">and {more} more columns</p>' if more > 0 else ""
    lead = html.escape(" · ".join(about))
    return f'<h2>{html.escape(modality.name)} <small>{lead}</small></h2><div class="cards">{"".join(cards)}</div>{rest}'


def _numeric_card(column: NumericSummary, available: int) -> str:
    if not column.count:
        return _card(column.name, column.dtype, "", [("missing", f"{column.missing:,}")])
    facts = [
        ("mean", _number(column.mean)),
        ("std", _number(column.std)),
        ("min", _number(column.min)),
        ("median", _number(column.quantiles[len(column.quantiles) // 2] if column.quantiles else None)),
        ("max", _number(column.max)),
        ("distinct", _distinct(column.distinct)),
        *([("missing", f"{column.missing:,}")] if column.missing else []),
        *(
            [("zeros", f"{column.zeros / column.count:.0%}")]
            if column.zeros >= 0.01 * column.count and column.distinct > 2
            else []
        ),
    ]
    return _card(column.name, column.dtype, histogram(column.bins, column.name), facts)


def _distinct(count: int) -> str:
    """A number of distinct values, as exactly as it is known."""
    return f"{count:,}" if count <= EXACT_DISTINCT else f"≈ {round(count, 2 - len(str(count))):,}"


def _category_card(column: CategorySummary) -> str:
    facts = [
        ("categories", _distinct(column.distinct)),
        *([("missing", f"{column.missing:,}")] if column.missing else []),
    ]
    return _card(column.name, "categories", ranking(column.top, column.count), facts)


def _text_cards(column: TextSummary) -> str:
    middle = len(column.words) // 2
    facts = [
        ("texts", f"{column.count:,}"),
        ("different", _distinct(column.distinct)),
        *([("missing", f"{column.missing:,}")] if column.missing else []),
        *([("blank", f"{column.blank:,}")] if column.blank else []),
        *(
            [("median words", f"{column.words[middle]:g}"), ("most", f"{column.words[-1]:,.0f}")]
            if column.words
            else []
        ),
        *([("median characters", f"{column.characters[middle]:g}")] if column.characters else []),
        *([("letters not Latin", f"{column.non_latin:.1%}")] if column.non_latin >= 0.001 else []),
    ]
    sampled = sum(count for _, count in column.languages)
    languages = _card(f"{column.name}: language", "guessed, of a sample", ranking(column.languages, sampled), [])
    words = histogram(column.bins, f"words of {column.name}")
    return _card(column.name, "words per text", words, facts) + (languages if sampled else "")


def _array_cards(modality: ModalitySummary) -> list[str]:
    array = modality.array
    if array is None:
        return []
    facts = [
        ("mean", _number(array.mean)),
        ("std", _number(array.std)),
        ("min", _number(array.min)),
        ("max", _number(array.max)),
        *([("blank rows", f"{array.constant_rows:,}")] if array.constant_rows else []),
        *([("all-zero rows", f"{array.zero_rows:,}")] if array.zero_rows else []),
        *([("dead features", f"{array.dead_features:,}")] if array.dead_features else []),
        *([("not finite", f"{array.non_finite:,}")] if array.non_finite else []),
    ]
    cards = [_card("mean of each row", array.dtype, histogram(array.row_means, modality.name), facts)]
    if modality.kind == "vector" and len(array.feature_mean) > 1:
        band = feature_band(array.feature_mean, array.feature_std, f"features of {modality.name}")
        least, greatest = min(array.feature_std), max(array.feature_std)
        facts = [("features", f"{len(array.feature_mean):,}"), ("std from", _number(least)), ("to", _number(greatest))]
        cards.append(_card("each feature", "mean ± one standard deviation", band, facts))
    return cards


def _card(title: str, kind: str, plot: str, facts: Iterable[tuple[str, str]]) -> str:
    listed = "".join(f"<div><dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd></div>" for k, v in facts)
    return (
        f'<div class="card"><h3 title="{html.escape(title)}">{html.escape(title)}</h3>'
        f'<span class="type">{html.escape(kind)}</span>{plot}<dl>{listed}</dl></div>'
    )


def _method(report: QualityReport) -> str:
    return (
        f"Counts, means, extremes, gaps and copies are of all {report.num_rows:,} rows; quantiles, histograms and the "
        f"checks of single features of a fixed sample of {report.profile.sampled_rows:,}."
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}" if abs(value) < 1e5 else f"{value:.3e}"


def _cell(text: str) -> str:
    """Text as the cell of a Markdown table: hostile names cannot end the cell, the line, or start HTML or links."""
    escaped = html.escape(" ".join(text.split()), quote=False)
    for mark in "\\`*_[]|":
        escaped = escaped.replace(mark, f"\\{mark}")
    return escaped
