"""`JudgedRows`: what every domain report is made from, predictions of rows whose answers are known."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from training_core.errors import DataError
from training_core.evaluation.metrics import score
from training_core.evaluation.predictions import Predictions
from training_core.schema import Pattern, TaskSpec

_WORDS = {
    **dict.fromkeys(("true", "t", "yes", "y", "1", "1.0"), True),
    **dict.fromkeys(("false", "f", "no", "n", "0", "0.0"), False),
}
"""What cells of text may say."""


@dataclass(frozen=True)
class JudgedRows:
    """N rows with known answers, what was predicted for them, and whatever else is known of them.

    `target` as in `Samples`. `patterns`: predictions of the same rows with every modality outside the pattern hidden,
    in any number; `predictions` are those with nothing hidden. `columns`: whatever else a report asks for, [N] each, by
    name: groups, returns of the market, whether a user is new.
    """

    task: TaskSpec
    target: np.ndarray
    predictions: Predictions
    modalities: tuple[str, ...] = ()
    """All modalities, in order."""
    patterns: Mapping[Pattern, Predictions] = field(default_factory=dict)
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Find out what does not fit together.

        Raises:
            DataError: there are no rows, or something has another number of them.
        """
        if not len(self.target):
            raise DataError("there are no rows to report on; give rows with known targets")
        lengths = {"predictions": len(self.predictions)}
        lengths |= {f"pattern {'+'.join(sorted(pattern))}": len(found) for pattern, found in self.patterns.items()}
        lengths |= {f"column '{name}'": len(values) for name, values in self.columns.items()}
        wrong = [f"{name} has {length}" for name, length in lengths.items() if length != len(self.target)]
        if wrong:
            raise DataError(f"{wrong[0]} rows, the target has {len(self.target)}; give one entry per row, in its order")

    def __len__(self) -> int:
        return len(self.target)

    def column(self, name: str, purpose: str) -> np.ndarray:
        """A column [N] by name.

        Raises:
            DataError: there is none; says what it would be for.
        """
        if name not in self.columns:
            known = ", ".join(self.columns) or "none"
            raise DataError(f"no column '{name}', which would say {purpose}; there are: {known}")
        return np.asarray(self.columns[name])

    def flags(self, name: str, purpose: str) -> np.ndarray:
        """A column by name whose cells are true or false, bool [N]; as bool, 0 and 1, or words such as yes and no.

        Raises:
            DataError: there is none, or a cell is neither; says what it would be for.
        """
        column = self.column(name, purpose)
        if column.dtype == np.bool_:
            return column
        cells = [_flag(cell) for cell in column]
        if None in cells:
            row = cells.index(None)
            raise DataError(
                f"column '{name}' says {purpose}, and is {column[row]!r} in row {row}; give true or false, 1 or 0, yes "
                "or no in every row"
            )
        return np.array(cells, dtype=bool)

    def pattern_scores(self) -> dict[Pattern, float]:
        """The headline score under each pattern, the fullest first."""
        order = sorted(self.patterns, key=lambda pattern: (-len(pattern), sorted(pattern)))
        return {p: score(self.task, self.target, self.patterns[p].values) for p in order}

    def score(self) -> float:
        """The headline score with nothing hidden."""
        return score(self.task, self.target, self.predictions.values)


def _flag(cell: object) -> bool | None:
    """What a cell says; None where it is neither true nor false."""
    if isinstance(cell, bool | np.bool_ | int | float | np.number):
        return {0: False, 1: True}.get(cell)  # pyright: ignore[reportCallIssue, reportArgumentType]
    return _WORDS.get(str(cell).strip().lower())
