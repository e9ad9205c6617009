"""What learners said about rows they were not trained on, lined up under one availability pattern after the other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training_core.errors import DataError
from training_core.evaluation.calibration import apply_temperature
from training_core.schema import DataSpec, Pattern, pattern_key
from training_core.selection.combination import CombinationConfig, drawn_rows
from training_core.selection.temperatures import learner_temperatures
from training_core.selection.units import of_rows


@dataclass(frozen=True)
class Candidate:
    """A trained learner that may become a member.

    `rows` int64 [n]: data set positions of the rows outside its bag. `predictions`: what it says about them, [n, C] per
    pattern of its own modalities (`schema.pattern_key` in the spec's order), NaN where it cannot say anything; a
    pattern it is not listed for is one under which it stays silent.
    """

    name: str
    kind: str
    modalities: tuple[str, ...]
    folder: Path
    rows: np.ndarray
    predictions: Mapping[str, np.ndarray]
    score: float | None = None
    team: str = ""
    """What it shares with learners trained alike on other folds; its own name where empty."""


@dataclass(frozen=True)
class Evidence:
    """What a pattern is learned from, out of bag.

    `rows` [N]: positions among the training rows. `target` [N, …] as in `Samples`; `predictions` [L, N, C] of the
    learners `names`, each calibrated, NaN where one has nothing to say. `teams`: theirs, see `Candidate.team`.
    """

    rows: np.ndarray
    target: np.ndarray
    predictions: np.ndarray
    names: tuple[str, ...]
    teams: tuple[str, ...]
    units: np.ndarray | None = None
    """int64 [N], rows that belong together (`units.units_of`); None where every row stands for itself."""


class OutOfBag:
    """The candidates' answers on the training rows outside their bags."""

    def __init__(
        self,
        spec: DataSpec,
        candidates: Sequence[Candidate],
        rows: np.ndarray,
        target: np.ndarray,
        available: Mapping[str, np.ndarray],
        config: CombinationConfig,
        seed: int,
        units: np.ndarray | None = None,
    ) -> None:
        """Find every candidate's rows among the training rows; takes what `conclude.conclude` takes.

        Raises:
            DataError: a candidate was judged on rows that are not among `rows`.
        """
        self.spec, self.candidates, self.target, self.units = spec, candidates, target, units
        self._available, self._config, self._seed = available, config, seed
        self._places = [_positions(candidate, rows) for candidate in candidates]
        self.temperatures: list[dict[str, float]] = [{} for _ in candidates]
        """Per candidate and set of modalities it is left with, what its answers are calibrated with."""

    def calibrate_learners(self) -> None:
        """Learn every candidate's `temperatures`; a set's is learned on the rows that have all of it.

        See `temperatures.learner_temperatures`. Nothing happens for regression, or when it is switched off.
        """
        strength = self._config.learner_calibration
        if self.spec.task.kind == "regression" or strength is None:
            return
        for index, (candidate, place) in enumerate(zip(self.candidates, self._places, strict=True)):
            heard = {}
            for key, said in candidate.predictions.items():
                whole = np.logical_and.reduce([self._available[name][place] for name in key.split("+")])
                heard[key] = np.where(whole[:, None], said, np.nan)
            full = pattern_key(candidate.modalities, self.spec.names)
            own = self.target[place]
            self.temperatures[index] = learner_temperatures(self.spec.task, own, heard, full, strength)

    def under(self, pattern: Pattern) -> Evidence:
        """The evidence for one pattern: rows that have all its modalities.

        When fewer than `min_calibration_rows` do, all rows that have any of them, as if what they lack had been hidden
        too. The same rows however often it is asked.
        """
        num_rows, width = len(self.target), self.spec.task.num_outputs
        heard = np.zeros(num_rows, bool)
        keys = []
        for candidate, place in zip(self.candidates, self._places, strict=True):
            key = pattern_key(pattern, [n for n in self.spec.names if n in candidate.modalities])
            keys.append(key)
            if key in candidate.predictions:
                heard[place[np.isfinite(candidate.predictions[key]).all(axis=1)]] = True
        whole = heard & np.logical_and.reduce([self._available[n] for n in self.spec.names if n in pattern])
        used = np.flatnonzero(whole if whole.sum() >= self._config.min_calibration_rows else heard)
        used = drawn_rows(used, num_rows, len(self.candidates), width, self._config, self._seed)
        index_of = np.full(num_rows, -1)
        index_of[used] = np.arange(len(used))
        stack = np.full((len(self.candidates), len(used), width), np.nan)
        members = zip(stack, self.candidates, self._places, keys, self.temperatures, strict=True)
        for slot, candidate, place, key, own in members:
            if key in candidate.predictions:
                kept = index_of[place] >= 0
                said = candidate.predictions[key][kept]
                slot[index_of[place][kept]] = apply_temperature(self.spec.task, said, own[key]) if key in own else said
        names = tuple(candidate.name for candidate in self.candidates)
        teams = tuple(candidate.team or candidate.name for candidate in self.candidates)
        return Evidence(used, self.target[used], stack, names, teams, of_rows(self.units, used))


def _positions(candidate: Candidate, rows: np.ndarray) -> np.ndarray:
    """Where in `rows` each of the candidate's rows is, int64 [n]."""
    order = np.argsort(rows, kind="stable")
    place = order[np.minimum(np.searchsorted(rows, candidate.rows, sorter=order), len(rows) - 1)]
    strangers = int(np.sum(rows[place] != candidate.rows))
    if strangers:
        raise DataError(
            f"{candidate.name}: {strangers} of its {len(place)} out-of-bag rows are not training rows of this data "
            "set; it was trained on another version, so train it again"
        )
    return place
