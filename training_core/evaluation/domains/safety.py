"""The safety-critical report: not how good predictions are on average, but how bad they get and how long they take."""

import math
import time
from collections.abc import Callable
from typing import Literal

import numpy as np

from training_core.config import Config
from training_core.errors import DataError
from training_core.evaluation.domains.judged import JudgedRows
from training_core.evaluation.metrics import score
from training_core.quantities import NonNegativeFloat, NonNegativeInt, PositiveInt
from training_core.schema import Samples


class SafetyConfig(Config):
    """What is required. None: not asked for."""

    min_score: float | None = None
    """Least headline score in every group and under every pattern judged."""
    max_latency_ms: NonNegativeFloat | None = None
    """Longest time to answer for one row, in ms; 99 of 100 answers must be quicker."""
    min_rows_per_second: NonNegativeFloat | None = None
    """Least throughput in large batches."""
    max_memory_mb: NonNegativeFloat | None = None
    """Most memory of the process that answers, in MB (1e6 bytes)."""
    min_redundancy: NonNegativeInt | None = None
    """How many modalities may fail at once, whichever they are, with `min_score` still reached."""
    min_group_rows: PositiveInt = 10
    """Rows below which a group is listed and not judged: its score would be luck."""


class Speed(Config):
    """How quickly a predictor answers on this machine."""

    latency_p50_ms: float
    """Of a single row: half of the answers are quicker."""
    latency_p99_ms: float
    """99 of 100 answers are quicker."""
    rows_per_second: float
    """In batches of `batch_rows`."""
    batch_rows: int
    num_answers: int
    """Single rows that were timed."""
    peak_memory_mb: float | None = None
    """Of the process, in MB (1e6 bytes); None when nobody looked."""


class GroupScore(Config):
    """How good predictions are for some of the rows."""

    kind: Literal["group", "pattern"]
    name: str
    """`column=value`, or the modalities that are there."""
    score: float
    num_rows: int
    judged: bool
    """Whether it has rows enough to count."""


class Requirement(Config):
    """One requirement and what was seen."""

    name: str
    met: bool
    seen: float | None
    limit: float


class SafetyReport(Config):
    """The worst cases of a predictor."""

    num_rows: int
    score: float
    worst_group: GroupScore | None
    """Of the groups with enough rows; None when there are no groups."""
    worst_pattern: GroupScore | None
    groups: tuple[GroupScore, ...]
    """The worst first."""
    redundancy: int | None
    """The most modalities that may be missing at once, whichever they are, with `min_score` reached; -1 when it is not
    reached with all of them. None without that requirement, or where not all patterns needed were judged."""
    speed: Speed | None
    requirements: tuple[Requirement, ...]

    @property
    def is_safe(self) -> bool:
        """Whether everything that was asked for was met."""
        return all(requirement.met for requirement in self.requirements)


def safety_report(
    rows: JudgedRows,
    config: SafetyConfig | None = None,
    group_columns: tuple[str, ...] = (),
    speed: Speed | None = None,
) -> SafetyReport:
    """Worst group, worst pattern, redundancy and speed, against what is required.

    Args:
        rows: what is judged.
        config: what is required.
        group_columns: columns of `rows` whose values make groups, such as the weather.
        speed: from `measure_speed`; a requirement on it that was not measured is not met.

    Raises:
        DataError: there is no such column.
    """
    config = config or SafetyConfig()
    groups = [found for name in group_columns for found in _groups(rows, name, config.min_group_rows)]
    patterns = [
        GroupScore(kind="pattern", name=_spell(rows, pattern), score=value, num_rows=len(rows), judged=True)
        for pattern, value in rows.pattern_scores().items()
    ]
    everything = sorted([*groups, *patterns], key=lambda found: (not found.judged, found.score, found.name))
    judged = [found for found in everything if found.judged]
    redundancy = None if config.min_score is None else _redundancy(rows, config.min_score)
    worst = min([rows.score(), *(found.score for found in judged)])
    return SafetyReport(
        num_rows=len(rows),
        score=rows.score(),
        worst_group=next((found for found in judged if found.kind == "group"), None),
        worst_pattern=next((found for found in judged if found.kind == "pattern"), None),
        groups=tuple(everything),
        redundancy=redundancy,
        speed=speed,
        requirements=tuple(
            _requirement(name, seen, limit, at_least)
            for name, seen, limit, at_least in (
                ("worst score", worst, config.min_score, True),
                ("latency, ms", speed and speed.latency_p99_ms, config.max_latency_ms, False),
                ("rows per second", speed and speed.rows_per_second, config.min_rows_per_second, True),
                ("memory, MB", speed and speed.peak_memory_mb, config.max_memory_mb, False),
                ("redundancy", redundancy, config.min_redundancy, True),
            )
            if limit is not None
        ),
    )


def measure_speed(
    predict: Callable[[Samples], object],
    samples: Samples,
    num_answers: int = 100,
    batch_rows: int = 1000,
    clock: Callable[[], float] = time.perf_counter,
    peak_memory_mb: float | None = None,
) -> Speed:
    """Time answers for single rows, taken in turn, and for one batch; both after an answer that is not counted.

    Raises:
        DataError: there are no rows.
    """
    if not len(samples):
        raise DataError("there are no rows to time answers for; give at least one")
    singles = [samples.take(np.array([row % len(samples)])) for row in range(num_answers)]
    batch = samples.take(np.arange(batch_rows) % len(samples))
    predict(singles[0])
    seconds = np.array([_timed(predict, one, clock) for one in singles])
    predict(batch)
    return Speed(
        latency_p50_ms=float(np.quantile(seconds, 0.5)) * 1e3,
        latency_p99_ms=float(np.quantile(seconds, 0.99)) * 1e3,
        rows_per_second=batch_rows / max(_timed(predict, batch, clock), 1e-9),
        batch_rows=batch_rows,
        num_answers=num_answers,
        peak_memory_mb=peak_memory_mb,
    )


def _timed(predict: Callable[[Samples], object], samples: Samples, clock: Callable[[], float]) -> float:
    began = clock()
    predict(samples)
    return clock() - began


def _groups(rows: JudgedRows, column: str, min_rows: int) -> list[GroupScore]:
    values = rows.column(column, "which group a row belongs to").astype(str)
    found = []
    for value in np.unique(values):
        inside = np.flatnonzero(values == value)
        found.append(
            GroupScore(
                kind="group",
                name=f"{column}={value}",
                score=score(rows.task, rows.target[inside], rows.predictions.values[inside]),
                num_rows=len(inside),
                judged=len(inside) >= min_rows,
            )
        )
    return found


def _redundancy(rows: JudgedRows, min_score: float) -> int | None:
    """How many modalities may be missing at once, whichever they are."""
    scores = rows.pattern_scores()
    scores[frozenset(rows.modalities)] = rows.score()
    if not rows.modalities:
        return None
    if rows.score() < min_score:
        return -1
    for num_missing in range(1, len(rows.modalities)):
        level = [value for pattern, value in scores.items() if len(pattern) == len(rows.modalities) - num_missing]
        if level and min(level) < min_score:
            return num_missing - 1
        if len(level) < math.comb(len(rows.modalities), num_missing):
            return None  # what was not judged might be the one that fails
    return len(rows.modalities) - 1


def _spell(rows: JudgedRows, pattern: frozenset[str]) -> str:
    return "+".join(name for name in rows.modalities if name in pattern) or "+".join(sorted(pattern))


def _requirement(name: str, seen: float | None, limit: float, at_least: bool) -> Requirement:
    met = seen is not None and (seen >= limit if at_least else seen <= limit)
    return Requirement(name=name, met=met, seen=seen, limit=limit)
