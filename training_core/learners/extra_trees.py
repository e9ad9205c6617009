"""Extremely randomised trees (Geurts et al. 2006, doi:10.1007/s10994-006-6226-1): robust, no tuning needed."""

import math
import warnings
from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from training_core.learners.base import spec_width
from training_core.learners.design_matrix import TREE_ONE_HOT, DesignMatrix
from training_core.learners.estimator import Estimator, EstimatorConfig
from training_core.learners.folds import deal_folds
from training_core.learners.linear_fit import row_losses, sigmoid, softmax
from training_core.learners.saved_state import read_array, read_number
from training_core.learners.saved_trees import Trees, pack_forest, restore_trees
from training_core.quantities import PositiveInt, SearchChoices, SearchRange
from training_core.schema import DataSpec, ModalityKind, Samples

SMALLEST_PROBABILITY = 1e-4
"""Probabilities are kept this far from 0 and 1 before their logarithm is sharpened: what a forest of a few hundred
trees cannot tell from 0."""
NUM_FOLDS = 3
"""Folds of groups, or as many as there are groups. A forest of a fold has one in so many of the trees, about as many as
leave a row out by themselves: together three folds take as long as two thirds of the forest."""


class ExtraTreesConfig(EstimatorConfig):
    """A forest of extremely randomised trees, its probabilities sharpened by rows left out."""

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
        """A tree sorts its rows into halves about log2(rows) times, looking at sqrt(columns) columns each time.

        Rows with groups or times, of which nothing is known here, take about half as long again: see `NUM_FOLDS`.
        """
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

    A tree that did not see a row may have seen others of its group. So with groups, forests that were grown without a
    fold of them answer for it; with a single group, or hardly any rows, the votes are left as they are.
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
        matrix = np.asarray(self.design.fit(samples).transform(samples), dtype=np.float32)
        forest = self._grow(matrix, target, weight, self.config.num_trees, out_of_bag=samples.groups is None)
        if self.spec.task.kind == "regression":
            self._centre = np.average(target, axis=0, weights=weight)
        if samples.groups is None:
            votes = self._out_of_bag(forest, target)
        else:
            votes = self._out_of_fold(matrix, target, weight, samples.groups)
        find = self._find_slope if self.spec.task.kind == "regression" else self._find_sharpness
        self.sharpness = 1.0 if votes is None else find(votes, target)
        classes = self.spec.task.kind == "classification"
        members = [member.tree_ for member in forest.estimators_]
        self._trees = pack_forest(members, self.design.num_columns, classes=classes)

    def _grow(
        self, matrix: np.ndarray, target: np.ndarray, weight: np.ndarray | None, num_trees: int, *, out_of_bag: bool
    ) -> Any:
        """A fitted forest of scikit-learn, which knows its out-of-bag votes if asked to."""
        from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor

        settings: dict[str, Any] = {
            "n_estimators": num_trees,
            "min_samples_leaf": self.config.leaf_rows(self.num_rows),
            "bootstrap": True,
            "oob_score": out_of_bag,
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
            return forest.fit(matrix, target[:, 0] if target.shape[1:] == (1,) else target, sample_weight=weight)

    def _out_of_bag(self, forest: Any, target: np.ndarray) -> np.ndarray:
        """What the trees that did not see a row say of it, [N, active]; 0 or NaN where every tree saw it."""
        if self.spec.task.kind == "regression":
            return np.asarray(forest.oob_prediction_).reshape(target.shape)
        votes = np.asarray(forest.oob_decision_function_)
        if self.spec.task.kind == "multilabel":
            return votes[:, 1, :] if votes.ndim == 3 else votes[:, [1]]
        return votes

    def _out_of_fold(
        self, matrix: np.ndarray, target: np.ndarray, weight: np.ndarray | None, groups: np.ndarray
    ) -> np.ndarray | None:
        """What forests that did not see the group of a row say of it, [N, active]; None without folds."""
        classes = target if self.spec.task.kind == "classification" else None
        folds = deal_folds(len(target), NUM_FOLDS, self.rng("folds"), classes, groups)
        if folds is None:
            return None
        votes = np.zeros((len(target), len(self._active)))
        num_trees = math.ceil(self.config.num_trees / NUM_FOLDS)
        for fold in range(int(folds.max()) + 1):
            inside, outside = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
            of_inside = None if weight is None else weight[inside]
            forest = self._grow(matrix[inside], target[inside], of_inside, num_trees, out_of_bag=False)
            votes[outside] = self._said(forest, matrix[outside])
        return votes

    def _said(self, forest: Any, matrix: np.ndarray) -> np.ndarray:
        """What a forest says, [N, active], also of classes and labels that it has not met."""
        if self.spec.task.kind == "regression":
            return forest.predict(matrix).reshape(len(matrix), -1)
        said = forest.predict_proba(matrix)
        votes = np.zeros((len(matrix), len(self._active)))
        if self.spec.task.kind == "classification":
            votes[:, forest.classes_] = said
            return votes
        several = isinstance(said, list)
        for label, (own, known) in enumerate(
            zip(said if several else [said], forest.classes_ if several else [forest.classes_], strict=True)
        ):
            votes[:, label] = own[:, known == 1].sum(axis=1)  # no column where no row of the fold has the label
        return votes

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
        """The factor in [1/4, 8] with the smallest log loss of left-out rows' votes [N, C] or [N, L]."""
        from scipy.optimize import minimize_scalar

        kind = self.spec.task.kind
        # A row that every tree saw has NaN or, in some versions, all zeros.
        judged = np.isfinite(votes).all(axis=1) & (votes.any(axis=1) | (kind == "multilabel"))
        if not judged.any():
            return 1.0
        raw, truth = self._log_odds(votes[judged]), target[judged]

        def loss(log_factor: float) -> float:
            return float(row_losses(kind, np.exp(log_factor) * raw, truth).mean())

        found = minimize_scalar(loss, bounds=(math.log(0.25), math.log(8.0)), method="bounded")
        return float(np.exp(found.x))  # pyright: ignore[reportAttributeAccessIssue]
