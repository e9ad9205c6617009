"""Tables of plain text, as HTML and as Markdown: hostile names cannot end a cell, a line, or start HTML."""

import html
from collections.abc import Iterable, Sequence

CODE = "\0"
"""A cell that starts with this is set as code in HTML."""
_NUMERIC = set("0123456789.,+-−%<×() to")
_MANY_COLUMNS = 7
"""More are set closer together: a page is 68 rem wide."""


def table(header: Sequence[str], rows: Iterable[Sequence[str]], unused: Sequence[bool] = ()) -> str:
    """A table as HTML; a column of numbers is set to the right.

    Args:
        header: names of the columns; no head is shown when all are empty.
        rows: their cells.
        unused: which rows are set in soft type.
    """
    rows = list(rows)
    right = [any(map(_is_number, column)) for column in zip(*rows, strict=True)] if rows else [False] * len(header)
    lines = []
    for index, row in enumerate(rows):
        style = ' class="unused"' if unused and unused[index] else ""
        cells = "".join(_cell("td", *cell) for cell in zip(row, right, strict=True))
        lines.append(f"<tr{style}>{cells}</tr>")
    names = "".join(_cell("th", *cell) for cell in zip(header, right, strict=True)) if any(header) else ""
    head = f"<thead><tr>{names}</tr></thead>" if names else ""
    style = "plain dense" if len(header) > _MANY_COLUMNS else "plain"
    return f'<div class="scroll"><table class="{style}">{head}<tbody>{"".join(lines)}</tbody></table></div>'


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table as lines of Markdown."""
    cells = [[_plain(cell) for cell in row] for row in rows]
    return [f"| {' | '.join(line)} |" for line in [list(header), ["---"] * len(header), *cells]]


def _plain(text: str) -> str:
    return html.escape(" ".join(text.removeprefix(CODE).split()), quote=False).replace("|", "\\|")


def _cell(tag: str, text: str, right: bool) -> str:
    if text.startswith(CODE):
        return f"<{tag}><code>{html.escape(text[1:])}</code></{tag}>"
    return f"<{tag}{' class=number' if right else ''}>{html.escape(text)}</{tag}>"


def _is_number(text: str) -> bool:
    """A number, or several with an interval or a share: `0.98`, `<.001`, `+0.01 (-0.02 to +0.04)`, `540 × 5`."""
    return set(text) <= _NUMERIC and any(mark.isdigit() for mark in text)
