"""Numbers with meaning: constrained types for configuration fields, and how a person reads them."""

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
