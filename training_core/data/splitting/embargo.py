"""Embargoes: how long before a later part of the data training has to end, and what time a row of a group has."""

import re
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator

from training_core.errors import ConfigError

_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}  # seconds


def duration_seconds(text: str) -> float:
    """Seconds of a duration such as `90s`, `30min`, `12h`, `7d` or `2w`.

    Raises:
        ValueError: it is none.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", text)
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"'{text}' is no duration; give a number and one of {', '.join(_UNITS)}, such as 7d")
    return float(match[1]) * _UNITS[match[2]]


def _checked(embargo: float | str) -> float | str:
    if isinstance(embargo, str):
        duration_seconds(embargo)
    elif not (embargo >= 0 and np.isfinite(embargo)):
        raise ValueError(f"an embargo of {embargo} is no length of time; give 0 or more")
    return embargo


Embargo = Annotated[float | str, AfterValidator(_checked)]
"""A number in the unit of numeric times, or a duration such as `7d` for dates; 0 for none."""


def embargo_of(embargo: Embargo, times: np.ndarray) -> Any:
    """The embargo as what can be subtracted from `times`: a float, or a timedelta64.

    Raises:
        ConfigError: it is negative, a number for dates, a duration for numbers, or not readable.
    """
    try:
        _checked(embargo)
    except ValueError as error:
        raise ConfigError(f"embargo: {error}") from None
    dates = np.issubdtype(np.asarray(times).dtype, np.datetime64)
    if isinstance(embargo, str):
        if not dates:
            raise ConfigError(f"embargo '{embargo}' is a duration, but the times are numbers; give it in their unit")
        return np.timedelta64(round(duration_seconds(embargo) * 1e6), "us")
    if dates and embargo:
        raise ConfigError(f"embargo {embargo} is a number, but the times are dates; give a duration such as '7d'")
    return np.timedelta64(0, "us") if dates else float(embargo)


def unit_times(times: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    """The time that counts for each row: its own, or with groups [N] the last one of its group."""
    if groups is None:
        return times
    _, group_of_row = np.unique(np.asarray(groups).astype(str), return_inverse=True)
    distinct, rank = np.unique(times, return_inverse=True)
    last = np.zeros(group_of_row.max(initial=0) + 1, np.int64)
    np.maximum.at(last, group_of_row, rank)
    return distinct[last[group_of_row]]
