"""The frame of a page: head, style, the figures in large type, and the parts in the order they are given."""

import html
from collections.abc import Iterable

from training_core.pages.style import STYLE


def document(title: str, parts: Iterable[str]) -> str:
    """A whole page; `title` is plain text, `parts` are HTML."""
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style>"
    )
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(parts)}</body></html>\n"


def figures(shown: Iterable[tuple[str, str]]) -> str:
    """A row of (value, what it is) in large type; both plain text."""
    blocks = "".join(
        f"<div><b>{html.escape(value)}</b><span>{html.escape(label)}</span></div>" for value, label in shown
    )
    return f'<div class="figures">{blocks}</div>'


def lead(text: str) -> str:
    """A paragraph in soft type; plain text."""
    return f'<p class="lead">{html.escape(text)}</p>'
