"""What a person sees of a dataset: lists, schema, who has what, findings, samples, what changed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from flows.console import facts
from training_core.data.storage.description import DatasetDescription
from training_core.quantities import format_bytes

if TYPE_CHECKING:
    from training_core.data.quality import Finding
    from training_core.data.storage.history import DatasetDiff
    from training_core.data.storage.store import Collected, Dataset

_STYLES = {"error": "bold red", "warning": "yellow"}
_MAX_SAMPLE_COLUMNS = 8
_TELLING = 0.01  # divergence below which a change is not worth a line


def datasets_table(found: "Sequence[tuple[Dataset, tuple[str, ...]]]") -> Table:
    """One row per dataset: its latest version."""
    table = _table("Datasets")
    for name in ("dataset", "task", "modalities", "made"):
        table.add_column(name, overflow="fold")
    for name in ("rows", "on disk", "versions"):
        table.add_column(name, justify="right")
    for dataset, versions in found:
        table.add_row(
            dataset.ref,
            dataset.spec.task.kind,
            ", ".join(f"{modality.name} ({modality.kind})" for modality in dataset.spec.modalities),
            _day(dataset.manifest["created"]),
            f"{dataset.num_rows:,}",
            format_bytes(dataset.num_bytes()),
            str(len(versions)),
        )
    return table


def show_published(console: Console, dataset: "Dataset", before: "Dataset | None" = None) -> None:
    """What `prepare` and `append` say: rows per split, who has what, what the quality gate found.

    `before` was the latest version until now.
    """
    if before is not None and before.version == dataset.version:
        console.print(Text(f"{dataset.ref} has all of this already; nothing was written", style="yellow"))
    elif before is not None and before.num_rows > dataset.num_rows:
        lost = f"{before.ref} with {before.num_rows:,} rows is no longer the latest version; it is kept"
        console.print(Text(lost, style="yellow"))
    splits = dataset.manifest["splits"]
    parts = ", ".join(f"{splits[part]:,} {part}" for part in ("train", "validation", "test") if splits.get(part))
    aside = splits.get("quarantined", 0)
    console.print(f"{dataset.num_rows:,} rows ({parts}{f', {aside:,} set aside' if aside else ''})")
    grid = Table.grid(padding=(0, 2))
    for modality in dataset.spec.modalities:
        have, served = dataset.manifest["available"][modality.name], dataset.num_rows - aside
        who = "all rows" if have == served else f"{have:,} of {served:,} rows"
        grid.add_row(f"  {modality.name}", f"[dim]{modality.kind}[/]", who)
    console.print(grid)
    for file, count in dataset.manifest["lineage"].get("rows_without_sample", {}).items():
        if count:
            console.print(Text(f"{count:,} rows of {file} belong to no sample and were left out", style="yellow"))
    from training_core.data.quality import Finding

    findings = [Finding.model_validate(finding) for finding in (dataset.quality() or {}).get("findings", ())]
    for entry in (dataset.quality() or {}).get("unused_accept", ()):
        console.print(Text(f"nothing was found that quality.accept calls {entry}", style="yellow"))
    counting = [finding for finding in findings if not finding.accepted]
    for finding in counting[:5]:
        console.print(Text.assemble((f"{finding.severity} ", _STYLES[finding.severity]), _said(finding)))
    if len(counting) > 5:
        console.print(f"and {len(counting) - 5} more findings: polychoir inspect {dataset.name}", style="dim")


def show_description(console: Console, found: DatasetDescription) -> None:
    """Everything `inspect` shows, from the schema to the lineage."""
    splits = ", ".join(f"{count:,} {part}" for part, count in found.splits.items())
    head = facts()
    head.add_row("dataset", Text(found.dataset, style="bold"))
    head.add_row("rows", f"{found.num_rows:,} ({splits})")
    head.add_row("task", Text(_task(found)))
    head.add_row("on disk", f"{format_bytes(found.num_bytes)} in {found.num_parts} part{'s' * (found.num_parts > 1)}")
    head.add_row("made", _day(found.created))
    if found.set_aside:
        head.add_row("set aside", ", ".join(f"{code} {count:,}" for code, count in found.set_aside.items()))
    console.print(head)
    if found.report:  # in one piece, to be copied
        console.print(Text.assemble(("report   ", "dim"), (found.report, "cyan")), soft_wrap=True)
    console.print(_schema_table(found))
    if len(found.modalities) > 1:
        console.print(_patterns_table(found))
    console.print(_findings_table(found.findings, found.judged))
    if found.samples:
        console.print(_samples_table(found.samples))
    if len(found.lineage) > 1:
        console.print(_lineage_table(found.lineage))


def show_diff(console: Console, found: "DatasetDiff") -> None:
    """What changed from one version to another, the plain sentences first."""
    console.print(Text(f"{found.old} → {found.new}", style="bold"))
    for sentence in found.sentences():
        console.print(f"  {escape(sentence)}")
    shifts = sorted(found.shifts, key=lambda shift: (not shift.flagged, -(shift.divergence or 0.0)))
    shown = [shift for shift in shifts if shift.flagged or (shift.divergence or 0.0) >= _TELLING]
    if shown:
        table = _table("Distributions, the most changed first")
        for name in ("what", "change"):
            table.add_column(name, overflow="fold")
        for name in ("before", "after", "divergence"):
            table.add_column(name, justify="right")
        for shift in shown:
            style = "yellow" if shift.flagged else None
            table.add_row(Text(shift.subject), Text(shift.message), _number(shift.before), _number(shift.after),
                          _number(shift.divergence), style=style)  # fmt: skip
        console.print(table)
    if len(shown) < len(shifts):
        same = len(shifts) - len(shown)
        console.print(f"  {same} distribution{'s' * (same > 1)} changed by less than {_TELLING}.", style="dim")


def collected_line(name: str, collected: "Collected", dry_run: bool) -> str:
    """One line on what a collection removed."""
    would = "would remove" if dry_run else "removed"
    counts = (
        (len(collected.versions), f"version{'s' * (len(collected.versions) > 1)} ({', '.join(collected.versions)})"),
        (len(collected.parts), f"part{'s' * (len(collected.parts) > 1)}"),
        (collected.leftovers, f"leftover{'s' * (collected.leftovers > 1)} of killed writers"),
    )
    gone = ", ".join(f"{count} {what}" for count, what in counts if count)
    spared = f"; {len(collected.spared)} in use stay" if collected.spared else ""
    return f"{name}: {f'{would} {gone}, {format_bytes(collected.num_bytes)}' if gone else 'nothing to remove'}{spared}"


def _schema_table(found: DatasetDescription) -> Table:
    table = _table("Modalities")
    for name in ("name", "kind", "one sample", "stored as"):
        table.add_column(name, overflow="fold")
    parts = list(dict.fromkeys(part for line in found.modalities for part in line.available))
    for part in parts:
        table.add_column(f"available\n{part}", justify="right")
    for line in found.modalities:
        shares = [_share(line.available[part]) for part in parts]
        table.add_row(line.name, line.kind, escape(line.form), line.dtype, *shares)
    return table


def _patterns_table(found: DatasetDescription) -> Table:
    """Availability as a matrix: one row per combination of modalities."""
    table = _table("Which modalities samples have")
    names = [line.name for line in found.modalities]
    for name in names:
        table.add_column(name, justify="center")
    table.add_column("rows", justify="right")
    table.add_column("share", justify="right")
    total = sum(pattern.num_rows for pattern in found.patterns)
    for pattern in found.patterns:
        marks = [Text("●", style="green") if name in pattern.present else Text("–", style="dim") for name in names]
        table.add_row(*marks, f"{pattern.num_rows:,}", _share(pattern.num_rows / max(total, 1)))
    return table


def _findings_table(findings: "Sequence[Finding]", judged: str) -> Table | Text:
    if not findings:
        return Text(f"\n The quality gate found nothing to say about {judged}.\n", style="green")
    table = _table(f"What the quality gate found in {judged}")
    table.add_column("severity", no_wrap=True)
    for name in ("finding", "what to do"):
        table.add_column(name, overflow="fold")
    for finding in findings:
        severity = "accepted" if finding.accepted else finding.severity
        style = "dim" if finding.accepted else _STYLES[finding.severity]
        table.add_row(Text(severity, style=style), _said(finding), Text(finding.advice))
    return table


def _samples_table(samples: Sequence[dict[str, Any]]) -> Table:
    """Samples side by side, one column each: a data set has few samples on a screen and many columns."""
    table = _table("Samples")
    table.add_column("")
    for sample in samples[:_MAX_SAMPLE_COLUMNS]:
        table.add_column(Text(str(sample.get("id", ""))), overflow="ellipsis", max_width=24)
    for key in samples[0]:
        if key != "id":
            cells = [sample.get(key) for sample in samples[:_MAX_SAMPLE_COLUMNS]]
            table.add_row(
                Text(key, style="dim"), *(Text("–", style="dim") if c is None else Text(_number(c)) for c in cells)
            )
    return table


def _lineage_table(lineage: Sequence[dict[str, Any]]) -> Table:
    table = _table("Where it comes from")
    for name in ("version", "made", "how", "rows"):
        table.add_column(name, justify="right" if name == "rows" else "left")
    for step in lineage:
        table.add_row(step["version"], _day(step["created"]), step["action"], f"{step['num_rows']:,}")
    return table


def _said(finding: "Finding") -> Text:
    about = "" if finding.subject in {"", finding.message[: len(finding.subject)]} else f"{finding.subject}: "
    return Text.assemble((f"{finding.code} ", "bold"), about, finding.message)


def _task(found: DatasetDescription) -> str:
    task = found.task
    if task.kind == "regression":
        return f"regression of {', '.join(task.targets)}"
    if not found.class_counts:
        return f"{task.kind} with {len(task.classes)} labels: {', '.join(task.classes)}"
    counts = sorted(found.class_counts.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{name} {count:,}" for name, count in counts[:10])
    return f"classification into {len(counts)} classes: {shown}{' …' * (len(counts) > 10)}"


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=SIMPLE_HEAD)


def _share(value: float) -> str:
    return "all" if value == 1 else "none" if value == 0 else f"{value:.1%}"


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _day(created: str) -> str:
    return created[:16].replace("T", " ")
