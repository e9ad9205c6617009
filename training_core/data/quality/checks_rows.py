"""Findings about rows that were left out: set aside because they cannot be used, or of no sample."""

from collections.abc import Iterator

import numpy as np

from training_core.data.quality.evidence import QUARANTINED, Evidence
from training_core.data.quality.problems import Finding

MANY_SET_ASIDE = 0.5
"""Share of rows set aside from which on the rest says little about the whole."""


def check_rows(evidence: Evidence) -> Iterator[Finding]:
    """Findings about rows that are not used."""
    num_rows = max(evidence.profile.num_rows, 1)
    rejected = [problem for problem in evidence.known.rejected if len(problem.rows)]
    for code in dict.fromkeys(problem.code for problem in rejected):
        messages = [problem.message for problem in rejected if problem.code == code]
        rows = np.unique(np.concatenate([problem.rows for problem in rejected if problem.code == code]))
        share = len(rows) / num_rows
        more = f" (and {len(messages) - 1} more such problems)" if len(messages) > 1 else ""
        yield Finding(
            code=code,
            severity="error" if share >= MANY_SET_ASIDE else "warning",
            subject="rows",
            message=f"{len(rows)} rows ({share:.1%}) cannot be used: {messages[0]}{more}",
            advice="They are set aside and in no split. Mend or remove them in the source.",
            rows=evidence.name_rows(rows),
            value=share,
        )
    explained = np.concatenate([np.empty(0, np.int64), *(problem.rows for problem in rejected)])
    unexplained = np.setdiff1d(np.flatnonzero(evidence.known.split == QUARANTINED), explained)
    if len(unexplained):
        yield Finding(
            code="set_aside",
            severity="warning",
            subject="rows",
            message=f"{len(unexplained)} rows ({len(unexplained) / num_rows:.1%}) were set aside, no reason given",
            advice="They are in no split; an earlier report may say why.",
            rows=evidence.name_rows(unexplained),
            value=len(unexplained) / num_rows,
        )
    for file, count in evidence.known.unmatched.items():
        if count:
            share = count / (count + num_rows)
            yield Finding(
                code="unmatched_rows",
                severity="warning",
                subject=file,
                message=f"{count} rows of {file} belong to no sample (next to {num_rows} samples: {share:.0%})",
                advice="Check that ids are written alike in all files; else these rows are simply not needed.",
                value=share,
            )
