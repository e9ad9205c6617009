"""Checks of texts: blank, very short or long, repeated, and in several languages."""

from collections.abc import Iterator

from training_core.data.quality.evidence import Evidence
from training_core.data.quality.languages import UNCLEAR
from training_core.data.quality.problems import Finding

BLANK_TEXTS = 0.01
"""Share of texts of white space alone, which should be missing instead."""
SHORT_WORDS = 2
"""A text of so few words is a category rather than a text."""
OTHER_LANGUAGE = 0.05
"""Share of texts whose language is clear and not the main one."""
MIN_CLEAR_TEXTS = 50
"""Texts of clear language needed to speak of a share."""
LONG_WORDS = 5000.0
"""Words of a text that no learner here reads to its end …"""
LONG_TIMES = 50.0
"""… and that is so many times as long as the median one: several documents in one cell, or a broken quote."""
REPEATED_TEXTS = 0.2
"""Share of rows with a text that an earlier row has, too …"""
SENTENCE_WORDS = 5
"""… where half of the texts have so many words; titles and names repeat by nature."""
MIN_ROWS = 50
"""Below, shares are chance."""


def check_texts(evidence: Evidence) -> Iterator[Finding]:
    """Findings about text modalities."""
    for subject, modality, column in evidence.text_columns():
        if evidence.few:
            continue
        if not column.count:
            yield _warning("empty_column", subject, f"{subject} is empty in every row", "Remove it from the inputs.")
            continue
        blank = column.blank / column.count
        if blank >= BLANK_TEXTS:
            yield _warning(
                "blank_texts",
                subject,
                f"{column.blank} texts of {subject} ({blank:.1%}) are blank",
                "Leave such cells empty, so that the text counts as missing.",
                blank,
            )
        if not column.words or column.count < MIN_ROWS:
            continue
        median, longest = column.words[len(column.words) // 2], column.words[-1]
        if median <= SHORT_WORDS:
            yield _warning(
                "short_texts",
                subject,
                f"half of the texts of {subject} have {median:g} words or fewer, of {column.distinct} different texts",
                "If these are categories, give the column as a categorical one of a table.",
                median,
            )
        if longest >= LONG_WORDS and longest >= LONG_TIMES * max(median, 1):
            yield _warning(
                "long_texts",
                subject,
                f"the longest text of {subject} has {longest:.0f} words, half have {median:g} or fewer",
                "Look at the longest: several documents in one cell, or a quote that was never closed.",
                longest,
            )
        yield from _languages(subject, dict(column.languages))
        repeated = modality.repeated / max(modality.available, 1)
        if len(modality.columns) == 1 and median >= SENTENCE_WORDS and repeated >= REPEATED_TEXTS:
            yield _warning(
                "repeated_texts",
                subject,
                f"{repeated:.0%} of the texts of {subject} repeat an earlier one exactly",
                "Boilerplate or copied rows: check where they come from; repeated texts are learnt by heart.",
                repeated,
            )


def _languages(subject: str, languages: dict[str, int]) -> Iterator[Finding]:
    clear = {name: count for name, count in languages.items() if name != UNCLEAR}
    total = sum(clear.values())
    if total < MIN_CLEAR_TEXTS:
        return
    main = max(clear, key=lambda name: (clear[name], name))
    other = 1 - clear[main] / total
    if other >= OTHER_LANGUAGE:
        parts = ", ".join(f"{name} {count / total:.0%}" for name, count in list(clear.items())[:4])
        yield _warning(
            "mixed_languages",
            subject,
            f"{subject} is written in several languages, as far as script and commonest words tell: {parts}",
            "Check that every split has enough of each; one vocabulary has to serve all of them.",
            other,
        )


def _warning(code: str, subject: str, message: str, advice: str, value: float | None = None) -> Finding:
    return Finding(code=code, severity="warning", subject=subject, message=message, advice=advice, value=value)
