"""Records in the form MLflow's database accepts: legal keys, finite numbers, curves of bounded length."""

import re
import zlib
from collections.abc import Iterable, Sequence

MAX_KEY_LENGTH = 250
"""MLflow's limit for the names of metrics, params and tags."""
MAX_CURVE_POINTS = 500
"""A chart shows no more, and each point is a row in the database."""


def legal_keys(keys: Iterable[str]) -> dict[str, str]:
    """For every key the name MLflow accepts for it; different keys keep different names.

    MLflow allows letters, digits, `_ - . / :` and space, and wants a key to be a tidy relative path. A key that has
    to change and then collides with another one gets a checksum of itself appended.
    """
    given = list(keys)
    legal: dict[str, str] = {key: key for key in given if _tidy(key) == key}
    taken = set(legal)
    for key in given:
        if key in legal:
            continue
        name = _tidy(key)
        if name in taken:
            name = f"{name[: MAX_KEY_LENGTH - 9]}_{zlib.crc32(key.encode()):08x}"
        legal[key] = name
        taken.add(name)
    return legal


def thin(curve: Sequence[tuple[int, float]], limit: int = MAX_CURVE_POINTS) -> list[tuple[int, float]]:
    """At most `limit` points, evenly spaced over the curve's positions, the first and the last among them."""
    if len(curve) <= limit:
        return list(curve)
    last = len(curve) - 1
    return [curve[round(position * last / (limit - 1))] for position in range(limit)]


def finite_or_nan(value: float) -> float:
    """NaN for an infinity, which MLflow would store (and draw) as 1.8e308."""
    value = float(value)
    return value if abs(value) != float("inf") else float("nan")


def _tidy(key: str) -> str:
    steps = [step for step in re.sub(r"[^\w\-. /:]", "_", key).split("/") if step not in {"", ".", ".."}]
    return "/".join(steps)[:MAX_KEY_LENGTH] or "_"
