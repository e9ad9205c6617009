"""Learners that fit in one step: what they share, from aligning classes to saving without pickle."""

import sys
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from training_core.errors import DataError, StorageError
from training_core.learners.base import LearnerBase, spec_width
from training_core.learners.saved_state import MALFORMED, read_array, read_number, read_state, write_state
from training_core.schema import DataSpec, Samples
from training_core.seeding import derive_seed, generator

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

FILE_NAME = "estimator.npz"
MAX_SCALE_VALUES = 20
"""A regression target with at most this many distinct values, each met at least twice on average, is a rating scale:
predictions stay between its ends."""


class EstimatorConfig(LearnerBase):
    """Configuration of a learner that fits in one step and sees every modality as columns of one table."""

    family: ClassVar[Literal["net", "estimator"]] = "estimator"
    same_rows_same_learner: ClassVar[bool] = True
    max_columns: ClassVar[int] = 8192
    """Columns it is still quick with; an image of 64 x 64 pixels has 4096."""

    def supports(self, spec: DataSpec) -> str | None:
        """As `LearnerBase.supports`; too many columns is a reason as well."""
        reason = super().supports(spec)
        if reason is None and spec_width(spec) > self.max_columns:
            reason = f"{spec_width(spec)} columns are too many for it; it takes up to {self.max_columns}"
        return reason


class Estimator(ABC):
    """A learner that fits in one step on all rows.

    This class takes care of what no family should have to think about. Rows that occur several times (a bootstrap)
    are merged into weights. Only *active* outputs are learnt: the classes or labels that vary in the training rows.
    Probabilities are mixed with the uniform distribution as if one more row had said "I do not know" (weight
    1 / (rows + 1)), so that no class is ever ruled out by a few rows that lack it.
    """

    def __init__(self, spec: DataSpec, seed: int) -> None:
        self.spec = spec
        self.seed = seed
        self.random_state = derive_seed(seed, "estimator") % 2**32
        """What scikit-learn is given: it takes 32 bits."""
        self.num_rows = 0
        """Distinct rows it was fitted on; 0 before `fit`."""
        self._active = np.zeros(0, dtype=np.int64)
        self._constant = np.zeros(spec.task.num_outputs)
        self._bounds = np.zeros((2, 0))

    def fit(self, samples: Samples, weight: np.ndarray | None = None) -> Self:
        """Learn from encoded `samples`, each counting `weight` [N] (1 when not given).

        Raises:
            DataError: there are no rows, or their target is unknown.
        """
        samples, weight = _merge_repeats(samples, weight)
        if samples.target is None or not len(samples):
            raise DataError(f"an estimator needs rows with a target; got {len(samples)} rows")
        self.num_rows = len(samples)
        target = self._choose_outputs(np.asarray(samples.target))
        if len(self._active):
            with _one_thread():
                self._learn(samples, target, weight)
        return self

    def predict(self, samples: Samples) -> np.ndarray:
        """Probabilities or values, float64 [N, num_outputs], of encoded `samples`; their target is not looked at."""
        task = self.spec.task
        predicted = np.tile(self._constant, (len(samples), 1))
        if len(self._active) and len(samples):
            with _one_thread():
                predicted[:, self._active] = self._answer(samples)
        if task.kind != "regression":
            uniform = 1 / task.num_outputs if task.kind == "classification" else 0.5
            return (self.num_rows * predicted + uniform) / (self.num_rows + 1)
        if self._bounds.shape[1]:
            predicted = np.clip(predicted, self._bounds[0], self._bounds[1])
        return predicted

    def save(self, folder: Path) -> None:
        """Write `estimator.npz` into `folder`: arrays and plain values, no pickle."""
        state = {
            "num_rows": self.num_rows,
            "active": self._active,
            "constant": self._constant,
            "bounds": self._bounds,
            "learnt": self._learnt() if len(self._active) else {},
        }
        write_state(folder / FILE_NAME, state)

    def load(self, folder: Path) -> Self:
        """Become what was saved in `folder` by an estimator of the same configuration and spec.

        Call it on a freshly built estimator.

        Raises:
            StorageError: the file is missing, unreadable, or not of such an estimator.
        """
        path = folder / FILE_NAME
        try:
            state = read_state(path)
            self.num_rows = int(read_number(state, "num_rows", at_least=1))
            self._active = self._read_active(state)
            self._constant = read_array(state, "constant", np.float64, self.spec.task.num_outputs)
            num_bounded = state["bounds"].shape[1] and self.spec.task.num_outputs
            self._bounds = read_array(state, "bounds", np.float64, 2, num_bounded)
            if len(self._active):
                self._restore(state["learnt"])
        except MALFORMED as error:
            raise StorageError(f"{path} cannot be read as a saved estimator ({error}); train it again") from error
        return self

    def rng(self, name: str) -> np.random.Generator:
        """The generator of this estimator called `name`."""
        return generator(self.seed, "estimator", name)

    @abstractmethod
    def _learn(self, samples: Samples, target: np.ndarray, weight: np.ndarray | None) -> None:
        """Fit the active outputs: `target` is codes [N] in [0, active), labels 0/1 [N, active], or values [N, K]."""

    @abstractmethod
    def _answer(self, samples: Samples) -> np.ndarray:
        """Probabilities or values of the active outputs, [N, active]."""

    @abstractmethod
    def _learnt(self) -> dict[str, Any]:
        """What `_learn` found, as nested dictionaries of arrays and of what JSON can say."""

    @abstractmethod
    def _restore(self, learnt: dict[str, Any]) -> None:
        """Take back what `_learnt` gave; what is of a wrong type or shape raises one of `saved_state.MALFORMED`."""

    def _read_active(self, state: dict[str, Any]) -> np.ndarray:
        """The active outputs: ascending, each one of the task's."""
        active = read_array(state, "active", np.int64, None)
        if not np.isin(active, np.arange(self.spec.task.num_outputs)).all() or (np.diff(active) <= 0).any():
            raise ValueError(f"outputs {active.tolist()} of {self.spec.task.num_outputs} were learnt")
        return active

    def _choose_outputs(self, target: np.ndarray) -> np.ndarray:
        """Note what is constant, and give the target of the outputs that are not."""
        task = self.spec.task
        self._constant = np.zeros(task.num_outputs)
        self._active = np.arange(task.num_outputs)
        self._bounds = np.zeros((2, 0))
        if task.kind == "classification":
            present, codes = np.unique(target, return_inverse=True)
            self._active = present if len(present) > 1 else present[:0]
            self._constant[present] = 1.0  # only read when a single class is present
            return codes
        if task.kind == "multilabel":
            labels = target > 0.5
            self._constant = labels.all(axis=0).astype(np.float64)
            self._active = np.flatnonzero(labels.any(axis=0) & ~labels.all(axis=0))
            return labels[:, self._active].astype(np.int64)
        values = target.astype(np.float64)
        if all(len(np.unique(column)) <= min(MAX_SCALE_VALUES, len(column) // 2) for column in values.T):
            self._bounds = np.stack([values.min(axis=0), values.max(axis=0)])
        return values


def _one_thread() -> AbstractContextManager[object]:
    """Within the block numeric libraries use one thread: the same sums in the same order, and no cores fought over.

    Boosted trees enter a parallel region per tree; on cores that are busy with other processes each one waits for its
    slowest thread, which made predictions several times slower than one thread is.
    """
    return _thread_pools(len(sys.modules)).limit(limits=1)


@lru_cache(maxsize=1)
def _thread_pools(num_modules: int) -> "ThreadpoolController":
    """The thread pools of the libraries loaded so far.

    Looking for them takes some 20 ms, more than many a prediction; a library that came later shows in the number of
    modules.
    """
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def _merge_repeats(samples: Samples, weight: np.ndarray | None) -> tuple[Samples, np.ndarray | None]:
    """Each row once, its weight the sum over its repeats; rows are the same when their ids are.

    Without this a row drawn twice would be in both halves of an internal split and make every setting look good.
    """
    _, first, row_of = np.unique(samples.ids.astype(str), return_index=True, return_inverse=True)
    if len(first) == len(samples):
        return samples, None if weight is None else np.asarray(weight, dtype=np.float64)
    total = np.bincount(row_of, weights=weight, minlength=len(first)).astype(np.float64)
    order = np.argsort(first)
    return replace(samples.take(first[order])), total[order]
