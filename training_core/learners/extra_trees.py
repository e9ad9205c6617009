"""Extremely randomised trees (Geurts et al. 2006, doi:10.1007/s10994-006-6226-1): robust, no tuning needed."""

import math
import warnings
from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from training_core.learners.base import spec_width
from training_core.learners.design_matrix import TREE_ONE_HOT, DesignMatrix
from training_core.learners.estimator import Estimator, EstimatorConfig
from training_core.learners.linear_fit import row_losses, sigmoid, softmax
from training_core.learners.saved_state import read_array, read_number
from training_core.learners.saved_trees import Trees, pack_forest, restore_trees
from training_core.quantities import PositiveInt, SearchChoices, SearchRange
from training_core.schema import DataSpec, ModalityKind, Samples

SMALLEST_PROBABILITY = 1e-4
"""Probabilities are kept this far from 0 and 1 before their logarithm is sharpened: what a forest of a few hundred
trees cannot tell from 0."""


class ExtraTreesConfig(EstimatorConfig):
    """A forest of extremely randomised trees, its probabilities sharpened by out-of-bag rows."""

    modality_kinds: ClassVar[frozenset[ModalityKind]] = frozenset({"vector", "tabular", "image", "sequence"})
    same_rows_same_learner: ClassVar[bool] = False
    quality_prior: ClassVar[float] = 0.7

    kind: Literal["extra_trees"] = "extra_trees"
    num_trees: Annotated[PositiveInt, SearchRange(100, 600, log=True)] = 300
    min_samples_leaf: Annotated[PositiveInt | None, SearchChoices(None, 1, 2, 4, 8, 16)] = None
    """Rows a leaf must hold; more smooth the probabilities. None: one per 4,000 rows and at least 2, which keeps a
    forest of 300 trees below about 8,000 nodes each, however many rows there are."""

    def leaf_rows(self, num_rows: int) -> int:
        """Rows a leaf must hold when there are `num_rows`."""
        return self.min_samples_leaf or max(2, num_rows // 4000)

    def build(self, spec: DataSpec, seed: int) -> "ExtraTreesEstimator":
        """A fresh estimator for the encoded `spec`."""
        self.require(spec)
        return ExtraTreesEstimator(self, spec, seed)

    def estimate_cost(self, spec: DataSpec, num_rows: int, epochs: int) -> tuple[float, float]:
        """A tree sorts its rows into halves about log2(rows) times, looking at sqrt(columns) columns each time."""
        width, depth = spec_width(spec), math.log2(max(num_rows, 2))
        tried = math.sqrt(width) if spec.task.kind != "regression" else width / 3
        num_nodes = 1.0 * num_rows / self.leaf_rows(num_rows)
        node_bytes = 64 + 8 * spec.task.num_outputs
        return (
            self.num_trees * num_rows * depth * tried * 10,
            self.num_trees * num_nodes * node_bytes + 4.0 * num_rows * width,
        )


class ExtraTreesEstimator(Estimator):
    """One forest for all outputs.

    A forest's votes are too timid: averaged over trees they rarely come near 0 or 1. Each tree leaves rows out, so
    the votes of the trees that did not see a row tell how much: their log-odds are multiplied by the factor that
    makes the left-out rows most likely (temperature scaling, Guo et al. 2017, arXiv:1706.04599, on out-of-bag rows).
    Values get the like: their deviations from the mean are scaled to the least squared error on left-out rows.
    """

    def __init__(self, config: ExtraTreesConfig, spec: DataSpec, seed: int) -> None:
        super().__init__(spec, seed)
        self.config = config
        self.design = DesignMatrix(spec, max_one_hot=TREE_ONE_HOT)
        self.sharpness = 1.0
        """What log-odds, or deviations from the mean, are multiplied by."""
        self._centre = np.zeros(spec.task.num_outputs)
        self._trees: Trees | None = None

    def _learn(self, samples: Samples, target: np.ndarray, weight: np.ndarray | None) -> None:
        from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor

        matrix = np.asarray(self.design.fit(samples).transform(samples), dtype=np.float32)
        settings: dict[str, Any] = {
            "n_estimators": self.config.num_trees,
            "min_samples_leaf": self.config.leaf_rows(len(target)),
            "bootstrap": True,
            "oob_score": True,
            "random_state": self.random_state,
            "n_jobs": 1,
        }
        regression = self.spec.task.kind == "regression"
        # A third of the columns: Breiman's advice for regression, where the square root is too few.
        forest: Any = (
            ExtraTreesRegressor(max_features=1 / 3, **settings) if regression else ExtraTreesClassifier(**settings)
        )
        with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
            # With few trees some rows are in every tree's sample; they do not judge the sharpness.
            warnings.filterwarnings("ignore", "Some inputs do not have OOB scores", UserWarning)
            # The score of the left-out rows is undefined for a single one of them; it is not used.
            warnings.filterwarnings("ignore", "R.2 score is not well-defined", UserWarning)
            forest.fit(matrix, target[:, 0] if target.shape[1:] == (1,) else target, sample_weight=weight)
        if regression:
            self._centre = np.average(target, axis=0, weights=weight)
            self.sharpness = self._find_slope(np.asarray(forest.oob_prediction_).reshape(target.shape), target)
        else:
            self.sharpness = self._find_sharpness(np.asarray(forest.oob_decision_function_), target)
        classes = self.spec.task.kind == "classification"
        members = [member.tree_ for member in forest.estimators_]
        self._trees = pack_forest(members, self.design.num_columns, classes=classes)

    def _answer(self, samples: Samples) -> np.ndarray:
        assert self._trees is not None, "predict before fit"
        matrix = np.asarray(self.design.transform(samples), dtype=np.float32)
        values = np.zeros((len(samples), len(self._active)))
        for answer in self._trees.answers(matrix):
            values += answer
        values /= len(self._trees)
        if self.spec.task.kind == "regression":
            return self._centre + self.sharpness * (values - self._centre)
        raw = self.sharpness * self._log_odds(values)
        return softmax(raw) if self.spec.task.kind == "classification" else sigmoid(raw)

    def _learnt(self) -> dict[str, Any]:
        assert self._trees is not None, "save before fit"
        return {
            "design": self.design.learnt(),
            "trees": self._trees.learnt(),
            "sharpness": self.sharpness,
            "centre": self._centre,
        }

    def _restore(self, learnt: dict[str, Any]) -> None:
        self.design.restore(learnt["design"])
        self._trees = restore_trees(learnt["trees"], self.design.num_columns, len(self._active))
        self.sharpness = read_number(learnt, "sharpness")
        self._centre = read_array(learnt, "centre", np.float64, self.spec.task.num_outputs)

    def _log_odds(self, probabilities: np.ndarray) -> np.ndarray:
        kept = np.clip(probabilities, SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
        return np.log(kept) if self.spec.task.kind == "classification" else np.log(kept) - np.log1p(-kept)

    def _find_slope(self, values: np.ndarray, target: np.ndarray) -> float:
        """The factor in [0, 2] by which left-out rows' deviations from the mean have the least squared error."""
        guess, truth = values - self._centre, target - self._centre
        # A row that every tree saw was given 0, or NaN, instead of a prediction.
        judged = np.isfinite(values).all(axis=1) & values.any(axis=1)
        power = float((guess[judged] ** 2).sum())
        return min(max(float((guess[judged] * truth[judged]).sum()) / power, 0.0), 2.0) if power > 0 else 1.0

    def _find_sharpness(self, votes: np.ndarray, target: np.ndarray) -> float:
        """The factor in [1/4, 8] with the smallest log loss of out-of-bag votes [N, C] or [N, 2, L]."""
        from scipy.optimize import minimize_scalar

        kind = self.spec.task.kind
        if kind == "multilabel":
            votes = votes[:, 1, :] if votes.ndim == 3 else votes[:, [1]]
        # A row that every tree saw has NaN or, in some versions, all zeros.
        judged = np.isfinite(votes).all(axis=1) & (votes.any(axis=1) | (kind == "multilabel"))
        if not judged.any():
            return 1.0
        raw, truth = self._log_odds(votes[judged]), target[judged]

        def loss(log_factor: float) -> float:
            return float(row_losses(kind, np.exp(log_factor) * raw, truth).mean())

        found = minimize_scalar(loss, bounds=(math.log(0.25), math.log(8.0)), method="bounded")
        return float(np.exp(found.x))  # pyright: ignore[reportAttributeAccessIssue]
