"""What the checks look at: the profile of the rows, and what is known about them besides."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from training_core.data.quality.hashing import ABSENT
from training_core.data.quality.problems import ROWS_NAMED, RowProblem
from training_core.data.quality.profile import Profile, Sample
from training_core.data.quality.summary import (
    CategorySummary,
    ModalitySummary,
    NumericSummary,
    ProfileSummary,
    TextSummary,
)
from training_core.errors import DataError
from training_core.schema import DataSpec

QUARANTINED = "quarantined"
FEW_ADDED = 50
"""Added rows below which a constant column, an absent modality or a rare class is chance."""


@dataclass(frozen=True)
class Known:
    """What is known about the rows of a profile besides their inputs; N rows, in the order they were profiled.

    `target` as in `Samples`, NaN or a negative code where it is unknown; None when there is none. `split` str objects
    [N]: "train", "validation", "test" or "quarantined". `groups` str objects [N], `times` float64 or datetime64 [N].
    `unmatched`: per file the number of its rows that belong to no sample. `rejected`: rows set aside, and why.
    `base`: the profile of the rows before these when they are added to a version, `base_spec` the spec of that
    version: of a few added rows nobody expects that they have everything. `accept`: findings that are known and
    accepted, `code` or `code:subject`.
    """

    spec: DataSpec
    target_names: tuple[str, ...]
    target: np.ndarray | None
    split: np.ndarray
    ids: np.ndarray
    groups: np.ndarray | None = None
    times: np.ndarray | None = None
    unmatched: Mapping[str, int] = field(default_factory=dict)
    rejected: Sequence[RowProblem] = ()
    base: ProfileSummary | None = None
    base_spec: DataSpec | None = None
    accept: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """A profile with its summary and sample, and what is known besides.

    Raises:
        DataError: something known is not about as many rows as were profiled.
    """

    profile: Profile
    known: Known

    def __post_init__(self) -> None:
        for name in ("split", "ids", "groups", "times", "target"):
            values = getattr(self.known, name)
            if values is not None and len(values) != self.profile.num_rows:
                raise DataError(f"{self.profile.num_rows} rows were profiled, but `{name}` has {len(values)} entries")

    @cached_property
    def summary(self) -> ProfileSummary:
        """The numbers that are kept."""
        return self.profile.summary()

    @property
    def added(self) -> bool:
        """Whether the rows are added to a version that has others."""
        return self.known.base is not None or self.known.base_spec is not None

    @property
    def few(self) -> bool:
        """Whether the rows are too few to expect that every column varies: some rows added to many."""
        return self.added and self.profile.num_rows < FEW_ADDED

    @cached_property
    def sample(self) -> Sample:
        """The sampled rows."""
        return self.profile.sample()

    @cached_property
    def usable(self) -> np.ndarray:
        """Which rows are not set aside, bool [N]."""
        return self.known.split != QUARANTINED

    @cached_property
    def labelled(self) -> np.ndarray:
        """Which rows are not set aside and have a whole target, bool [N]."""
        target = self.known.target
        if target is None:
            return np.zeros(len(self.usable), bool)
        return self.usable & self.known.spec.task.answered(target)

    def available(self, modality: str) -> np.ndarray:
        """Which rows have a modality, bool [N]."""
        return self._available[modality]

    @cached_property
    def _available(self) -> dict[str, np.ndarray]:
        return {name: self.profile.hashes(name) != ABSENT for name in self.profile.spec.names}

    def in_split(self, split: str) -> np.ndarray:
        """Which rows are in a split, bool [N]."""
        return self.known.split == split

    def name_rows(self, rows: np.ndarray) -> tuple[str, ...]:
        """Ids of the first few of the rows at positions `rows`."""
        return tuple(str(name) for name in self.known.ids[rows[:ROWS_NAMED]])

    def numeric_columns(self) -> list[tuple[str, ModalitySummary, NumericSummary]]:
        """Every numeric table column with its full name `modality.column` and its modality."""
        return [(f"{m.name}.{c.name}", m, c) for m in self._modalities for c in m.columns if c.kind == "numeric"]

    def category_columns(self) -> list[tuple[str, ModalitySummary, CategorySummary]]:
        """Every column of categories, likewise."""
        return [(f"{m.name}.{c.name}", m, c) for m in self._modalities for c in m.columns if c.kind == "category"]

    def text_columns(self) -> list[tuple[str, ModalitySummary, TextSummary]]:
        """Every column of texts, likewise."""
        return [(f"{m.name}.{c.name}", m, c) for m in self._modalities for c in m.columns if c.kind == "text"]

    @property
    def _modalities(self) -> tuple[ModalitySummary, ...]:
        return self.summary.modalities
