"""What can be wrong with data: rows that cannot be used, and findings about the data as a whole."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from training_core.config import Config

Severity = Literal["error", "warning"]
ROWS_NAMED = 10
"""Ids listed with a finding: enough to go and look."""


@dataclass(frozen=True)
class RowProblem:
    """Rows that cannot be used, and why; whoever reads the data sets them aside.

    `rows` are positions, int64 [n]. `message` is a clause about them: "the target is empty".
    """

    code: str
    rows: np.ndarray
    message: str


class Finding(Config):
    """Something seen in the data that a person should know before training on them."""

    code: str
    """What kind of finding, such as `label_leakage`; what `accept` entries name."""
    severity: Severity
    """An error makes results misleading or training impossible; a warning may be as it should be."""
    subject: str
    """Where: `modality`, `modality.column`, `modality[feature]`, `target`, `split`, `rows` or a file."""
    message: str
    """What was seen, in numbers."""
    advice: str
    """What to do about it."""
    rows: tuple[str, ...] = ()
    """Ids of some of the rows it is about."""
    value: float | None = None
    """The number that was judged: mostly a share, 0..1."""
    accepted: bool = False
    """Whether the owner of the data knows and accepts it."""

    def matches(self, entry: str) -> bool:
        """Whether an `accept` entry, `code` or `code:subject`, means this finding."""
        return entry in {self.code, f"{self.code}:{self.subject}"}


def accept(findings: Iterable[Finding], entries: Iterable[str]) -> tuple[list[Finding], tuple[str, ...]]:
    """The findings, those that an entry means marked as accepted, worst first; and the entries that meant none."""
    entries = tuple(entries)
    marked = [f.model_copy(update={"accepted": any(f.matches(e) for e in entries)}) for f in findings]
    unused = tuple(entry for entry in entries if not any(f.matches(entry) for f in marked))
    marked.sort(key=lambda f: (f.accepted, f.severity != "error", f.code, f.subject))
    return marked, unused
