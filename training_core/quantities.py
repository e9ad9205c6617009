"""Numbers with meaning: constrained types for configuration fields, what tuning may try of them, and how they read.

A field says beside itself over what it is worth searching, and tuning reads it there:

    lr: Annotated[PositiveFloat, SearchRange(1e-4, 1e-2, log=True)] = 1e-3
    fill_missing: Annotated[bool, SearchChoices(False, True), SearchOn(several_modalities=True)] = False
"""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt
from pydantic import PositiveFloat, PositiveInt

__all__ = [
    "NonNegativeFloat",
    "NonNegativeInt",
    "OpenUnit",
    "PositiveFloat",
    "PositiveInt",
    "Rate",
    "SearchChoices",
    "SearchOn",
    "SearchRange",
    "SearchWhen",
    "Seed",
    "UnitInterval",
    "format_bytes",
    "format_seconds",
]

UnitInterval = Annotated[float, Ge(0.0), Le(1.0)]
"""A fraction in [0, 1]."""
OpenUnit = Annotated[float, Gt(0.0), Lt(1.0)]
"""A fraction in (0, 1): neither nothing nor everything."""
Rate = Annotated[float, Ge(0.0), Lt(1.0)]
"""A probability in [0, 1), such as a dropout rate: 1 would leave nothing."""
NonNegativeFloat = Annotated[float, Ge(0.0)]
NonNegativeInt = Annotated[int, Ge(0)]
Seed = Annotated[int, Ge(0), Lt(2**63)]
"""A root seed."""


@dataclass(frozen=True)
class SearchRange:
    """From where to where a number is worth searching, both ends included.

    Raises:
        ValueError: the range is empty, logarithmic from 0, logarithmic in steps, or does not end on a step.
    """

    low: float
    high: float
    log: bool = False
    """Whether equal ratios are equally far apart, as they are of learning rates."""
    step: float | None = None
    """Distance between the values that are tried, from `low` on; None: any number (any whole one of whole numbers)."""

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"a range from {self.low} to {self.high} is empty; `low` must be below `high`")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range must begin above 0, not at {self.low}")
        if self.step is not None:
            if self.log:
                raise ValueError("a logarithmic range has no steps; leave out `step` or `log`")
            steps = (self.high - self.low) / self.step if self.step > 0 else 0.5
            if abs(steps - round(steps)) > 1e-9:
                raise ValueError(f"steps of {self.step} from {self.low} do not end at {self.high}")


@dataclass(frozen=True, init=False)
class SearchChoices:
    """The values of a field that are worth trying, in no order."""

    values: tuple[object, ...]

    def __init__(self, *values: object) -> None:
        """`values`: numbers, texts, booleans, None, or tuples of texts; two or more, each once.

        Raises:
            ValueError: there are fewer, or one comes twice.
        """
        if len(values) < 2 or len({(type(value), value) for value in values}) < len(values):
            raise ValueError(f"choices are two or more different values, not {', '.join(map(repr, values)) or 'none'}")
        object.__setattr__(self, "values", values)


@dataclass(frozen=True, init=False)
class SearchWhen:
    """The field means something only while another field of the same configuration has one of some values."""

    field: str
    values: tuple[object, ...]

    def __init__(self, field: str, *values: object) -> None:
        """`field` must be one of `values`; a field that holds a tuple must hold one of them."""
        object.__setattr__(self, "field", field)
        object.__setattr__(self, "values", values)


@dataclass(frozen=True)
class SearchOn:
    """The field means something only on some data."""

    tasks: tuple[str, ...] = ()
    """Kinds of task; empty: all."""
    modality_kinds: tuple[str, ...] = ()
    """Kinds of modality, one of which must be there; empty: any."""
    several_modalities: bool = False
    """Whether it takes two modalities or more."""


def format_seconds(seconds: float) -> str:
    """A duration as a person says it: `0.42 s`, `12.3 s`, `3 min 05 s`, `2 h 07 min`."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def format_bytes(num_bytes: float) -> str:
    """A size in decimal units: `512 B`, `1.2 kB`, `34.0 MB`, `5.1 GB`."""
    if num_bytes < 1000:
        return f"{num_bytes:.0f} B"
    for unit in ("kB", "MB", "GB"):
        num_bytes /= 1000
        if num_bytes < 1000:
            return f"{num_bytes:.1f} {unit}"
    return f"{num_bytes / 1000:.1f} TB"
