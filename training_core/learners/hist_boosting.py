"""Gradient-boosted trees on binned columns: early fusion of all columns, usually the strongest on tables."""

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from training_core.learners.base import spec_width
from training_core.learners.binning import bin_edges, to_bins
from training_core.learners.boosting import UNJUDGED_ROUNDS, BoostingConfig, all_rounds, hold_out, tried_fraction
from training_core.learners.design_matrix import TREE_ONE_HOT, DesignMatrix
from training_core.learners.estimator import Estimator
from training_core.learners.linear_fit import sigmoid, softmax
from training_core.learners.saved_state import read_array
from training_core.learners.saved_trees import Trees, pack_boosted, restore_trees
from training_core.schema import DataSpec, ModalityKind, Samples

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

MAX_BINS = 63
"""A quarter of the usual number costs no accuracy that could be measured, and a third of the time."""


class HistBoostingConfig(BoostingConfig):
    """Histogram gradient boosting that finds its own number of rounds, then learns from all rows."""

    modality_kinds: ClassVar[frozenset[ModalityKind]] = frozenset({"vector", "tabular", "image", "sequence"})

    kind: Literal["hist_boosting"] = "hist_boosting"

    def build(self, spec: DataSpec, seed: int) -> "HistBoostingEstimator":
        """A fresh estimator for the encoded `spec`."""
        self.require(spec)
        return HistBoostingEstimator(self, spec, seed)

    def estimate_cost(self, spec: DataSpec, num_rows: int, epochs: int) -> tuple[float, float]:
        """Each tree bins its rows about log2(leaves) times and scans the bins of every leaf, in the tried columns."""
        width, leaves = spec_width(spec), self.leaves(num_rows)
        rounds = 2 * min(self.max_rounds, 100)  # once to find their number, once with all rows
        trees = rounds * (1 if spec.task.num_outputs == 2 else spec.task.num_outputs)
        per_tree = num_rows * math.log2(leaves) * width + leaves * MAX_BINS * width * tried_fraction(width) * 4
        return trees * per_tree, 9.0 * num_rows * width + 64.0 * trees * leaves


class HistBoostingEstimator(Estimator):
    """One boosted model for all classes; one per label, or per target column."""

    def __init__(self, config: HistBoostingConfig, spec: DataSpec, seed: int) -> None:
        super().__init__(spec, seed)
        self.config = config
        self.design = DesignMatrix(spec, max_one_hot=TREE_ONE_HOT, missing_as_nan=True)
        self._edges = np.zeros((0, MAX_BINS - 1))
        self._trees: Trees | None = None
        self._outputs = np.zeros(0, dtype=np.int32)
        """Which raw output each tree adds to: log-odds or values of the active outputs; two classes share one."""
        self._baseline = np.zeros(0)
        """The raw outputs before the first tree."""

    def _learn(self, samples: Samples, target: np.ndarray, weight: np.ndarray | None) -> None:
        numbers = np.asarray(self.design.fit(samples).transform(samples))
        self._edges = bin_edges(numbers, MAX_BINS)
        matrix = to_bins(numbers, self._edges)
        columns = [target] if target.ndim == 1 else list(target.T)
        trees, outputs, baselines = [], [], []
        for i, column in enumerate(columns):
            model: Any = self._boost(matrix, column, weight, samples.groups, i)
            for trees_of_round in model._predictors:  # one for each of more than two classes, else a single one
                trees += trees_of_round
                outputs += range(i, i + len(trees_of_round))
            baselines.append(np.ravel(model._baseline_prediction))
        self._trees = pack_boosted(trees, self.design.num_columns)
        self._outputs = np.array(outputs, dtype=np.int32)
        self._baseline = np.concatenate(baselines).astype(np.float64)

    def _answer(self, samples: Samples) -> np.ndarray:
        assert self._trees is not None, "predict before fit"
        matrix = to_bins(np.asarray(self.design.transform(samples)), self._edges)
        raw = np.tile(self._baseline, (len(samples), 1))
        for output, answer in zip(self._outputs, self._trees.answers(matrix), strict=True):
            raw[:, output] += answer[:, 0]
        if self.spec.task.kind == "regression":
            return raw
        if self.spec.task.kind == "multilabel":
            return sigmoid(raw)
        return softmax(raw if raw.shape[1] > 1 else np.hstack([np.zeros_like(raw), raw]))

    def _learnt(self) -> dict[str, Any]:
        assert self._trees is not None, "save before fit"
        return {
            "design": self.design.learnt(),
            "edges": self._edges,
            "trees": self._trees.learnt(),
            "outputs": self._outputs,
            "baseline": self._baseline,
        }

    def _restore(self, learnt: dict[str, Any]) -> None:
        self.design.restore(learnt["design"])
        self._edges = read_array(learnt, "edges", np.float64, self.design.num_columns, MAX_BINS - 1)
        self._trees = restore_trees(learnt["trees"], self.design.num_columns, width=1)
        shared = self.spec.task.kind == "classification" and len(self._active) == 2
        self._baseline = read_array(learnt, "baseline", np.float64, 1 if shared else len(self._active))
        self._outputs = read_array(learnt, "outputs", np.int32, len(self._trees))
        if not np.isin(self._outputs, np.arange(len(self._baseline))).all():
            raise ValueError("a tree adds to an output that is not there")

    def _boost(
        self, matrix: np.ndarray, target: np.ndarray, weight: np.ndarray | None, groups: np.ndarray | None, output: int
    ) -> "HistGradientBoostingClassifier | HistGradientBoostingRegressor":
        """Find the number of rounds on rows held out, then boost that often on all rows."""
        classes = None if self.spec.task.kind == "regression" else target
        held_out = hold_out(len(target), classes, groups, self.rng(f"rounds-{output}"))
        if held_out is None:
            rounds = min(UNJUDGED_ROUNDS, self.config.max_rounds)
        else:
            kept = ~held_out
            trial = self._model(len(target), self.config.max_rounds, early_stopping=True)
            trial.fit(
                _without_empty_columns(matrix[kept]),
                target[kept],
                None if weight is None else weight[kept],
                X_val=matrix[held_out],
                y_val=target[held_out],
                sample_weight_val=None if weight is None else weight[held_out],
            )
            # Scores are negative losses, the first that of no round at all.
            rounds = all_rounds(int(np.argmax(trial.validation_score_)), held_out)
        return self._model(len(target), rounds, early_stopping=False).fit(
            _without_empty_columns(matrix), target, weight
        )

    def _model(
        self, num_rows: int, rounds: int, *, early_stopping: bool
    ) -> "HistGradientBoostingClassifier | HistGradientBoostingRegressor":
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

        kind = HistGradientBoostingRegressor if self.spec.task.kind == "regression" else HistGradientBoostingClassifier
        settings: dict[str, Any] = {
            "learning_rate": self.config.learning_rate,
            "max_iter": rounds,
            "max_leaf_nodes": self.config.leaves(num_rows),
            "min_samples_leaf": max(min(10, num_rows // 10), 1),
            "max_features": tried_fraction(self.design.num_columns),
            "max_bins": MAX_BINS,
            # `saved_trees` knows no splits on categories; `design` has made 0/1 columns of them, or left them codes.
            "categorical_features": None,
            "early_stopping": early_stopping,
            "n_iter_no_change": self.config.patience,
            "tol": 0.0,
            "random_state": self.random_state,
        }
        return kind(**settings)


def _without_empty_columns(matrix: np.ndarray) -> np.ndarray:
    """Columns without a single number made constant: scikit-learn cannot bin them, and no tree splits a constant."""
    empty = np.isnan(matrix).all(axis=0)
    return np.where(empty, np.float32(0), matrix) if empty.any() else matrix
