"""Settings of a made-up data set."""

from collections.abc import Iterable
from typing import Literal, Self

from pydantic import model_validator

from training_core.config import Config
from training_core.errors import DataError
from training_core.quantities import NonNegativeFloat, NonNegativeInt, OpenUnit, PositiveInt, Rate, Seed, UnitInterval
from training_core.schema import ModalityKind, TaskKind

SEQUENCE_FEATURES = 3
"""Numbers per step of a sequence."""


class SyntheticModality(Config):
    """One modality: what kind it is and what it tells of the answer."""

    name: str
    kind: ModalityKind = "vector"
    role: Literal["informative", "redundant", "complementary", "noise"] = "informative"
    """Informative: tells of the answer by itself. Redundant: tells exactly what `copies` tells. Complementary: tells
    nothing alone, and of the answer together with all other complementary ones. Noise: tells nothing."""
    copies: str | None = None
    """Redundant: the modality whose information it repeats."""
    strength: NonNegativeFloat = 1.5
    """Classification: how far the class means are apart, in standard deviations over the square root of 2, and so for
    the two states of a label. Regression: standard deviation of the share of the target that it tells."""
    size: PositiveInt = 8
    """Vector: numbers. Table: columns, a quarter of them categories. Image: pixels of a side. Sequence: steps. Text:
    words that mean nothing."""
    missing: Rate = 0.0
    """Share of rows that lack it, whatever they are."""
    missing_by_label: Rate = 0.0
    """Share that lack it besides of those rows whose clean answer is high: classes of the upper half, first label on,
    first value above 0."""

    @property
    def num_categorical(self) -> int:
        """Columns of a table that hold categories."""
        return self.size // 4 if self.kind == "tabular" else 0

    @property
    def width(self) -> int:
        """Numbers in one sample; for a text it is 0, which has as many as there are outputs."""
        widths = {
            "vector": self.size,
            "tabular": self.size - self.num_categorical,
            "image": self.size**2,
            "sequence": self.size * SEQUENCE_FEATURES,
        }
        return widths.get(self.kind, 0)


class DriftConfig(Config):
    """What changes from some point in time on."""

    start: OpenUnit = 0.5
    """Share of the rows before it."""
    covariate: NonNegativeFloat = 0.0
    """How far every modality is shifted, in standard deviations, along one direction; the answer stays what it was."""
    concept: UnitInterval = 0.0
    """Share of rows whose answer is another one although they look as before: the next class, all labels inverted, the
    values negated."""


_DEFAULT = (
    SyntheticModality(name="photo", kind="image"),
    SyntheticModality(name="facts", kind="tabular", strength=1.0),
    SyntheticModality(name="echo", role="redundant", copies="photo"),
    SyntheticModality(name="left", role="complementary"),
    SyntheticModality(name="right", role="complementary"),
    SyntheticModality(name="hum", kind="sequence", role="noise"),
)


class SyntheticConfig(Config):
    """A made-up data set."""

    name: str = "synthetic"
    task: TaskKind = "classification"
    num_rows: PositiveInt = 1000
    num_outputs: PositiveInt = 3
    """Classes (2 or more, equally frequent), labels or target columns."""
    positive_rate: OpenUnit = 0.3
    """Multilabel: how often each label is on."""
    modalities: tuple[SyntheticModality, ...] = _DEFAULT
    label_noise: Rate = 0.0
    """Classification: share of rows given another class. Multilabel: share of labels flipped. Regression: share of the
    target's variance that is noise."""
    num_groups: NonNegativeInt = 0
    """0 for none. Rows belong to one at random."""
    group_effect: NonNegativeFloat = 0.0
    """Standard deviation of a group's own offset in every number of every modality."""
    times: bool = False
    """Give every row a time, one hour after the row before; drift needs none to happen, but shows only then."""
    drift: DriftConfig = DriftConfig()
    seed: Seed = 0

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        names = [modality.name for modality in self.modalities]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"modality {', '.join(repeated)} is listed twice")
        if self.task == "classification" and self.num_outputs < 2:
            raise ValueError("a classification needs `num_outputs` of 2 or more")
        for modality in self.modalities:
            if (modality.copies is not None) != (modality.role == "redundant"):
                raise ValueError(f"modality '{modality.name}': `copies` goes with role redundant, and only with it")
            if modality.copies is not None and modality.copies not in self.sources:
                raise ValueError(f"'{modality.name}' copies '{modality.copies}', which tells nothing of its own")
            if modality.kind != "text" and modality.width < self.num_outputs:
                raise ValueError(
                    f"modality '{modality.name}' has {modality.width} numbers for {self.num_outputs} outputs"
                )
        if len(self.complementary) == 1:
            raise ValueError(f"'{self.complementary[0].name}' is complementary to nothing; add another such modality")
        if not self.sources:
            raise ValueError("no modality tells anything; make one informative")
        return self

    @property
    def informative(self) -> tuple[SyntheticModality, ...]:
        """The informative modalities."""
        return tuple(modality for modality in self.modalities if modality.role == "informative")

    @property
    def complementary(self) -> tuple[SyntheticModality, ...]:
        """The complementary modalities."""
        return tuple(modality for modality in self.modalities if modality.role == "complementary")

    @property
    def sources(self) -> dict[str, SyntheticModality]:
        """The modalities that tell something that is not a copy, by name."""
        return {modality.name: modality for modality in (*self.informative, *self.complementary)}

    @property
    def joint_strength(self) -> float:
        """Regression: standard deviation of what the complementary modalities tell together, the mean of theirs."""
        strengths = [modality.strength for modality in self.complementary]
        return sum(strengths) / len(strengths) if strengths else 0.0

    def told_by(self, pattern: Iterable[str]) -> tuple[tuple[SyntheticModality, ...], bool]:
        """The informative modalities that those of `pattern` are or copy, and whether all complementary ones are too.

        Raises:
            DataError: there is no such modality.
        """
        by_name = {modality.name: modality for modality in self.modalities}
        pattern = tuple(pattern)
        if unknown := [name for name in pattern if name not in by_name]:
            raise DataError(f"no modality '{unknown[0]}'; this data has {', '.join(by_name)}")
        told = {by_name[name].copies or name for name in pattern}
        complete = bool(self.complementary) and all(modality.name in told for modality in self.complementary)
        return tuple(modality for modality in self.informative if modality.name in told), complete
