"""LightGBM on the columns of all modalities and on what linear models say of texts: early fusion by boosted trees."""

import math
from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from training_core.learners.base import num_texts, spec_width
from training_core.learners.boosting import UNJUDGED_ROUNDS, BoostingConfig, all_rounds, hold_out, tried_fraction
from training_core.learners.design_matrix import TREE_ONE_HOT, DesignMatrix
from training_core.learners.estimator import Estimator
from training_core.learners.linear_fit import sigmoid, softmax
from training_core.learners.saved_state import read_array
from training_core.learners.saved_trees import Trees, pack_lightgbm, restore_trees
from training_core.learners.text_features import TextFeaturesConfig
from training_core.learners.text_scores import SCORE_FITS, TextScores
from training_core.learners.tfidf_linear import PIECES_PER_TEXT, WORK_PER_TEXT
from training_core.quantities import PositiveFloat, SearchRange
from training_core.schema import DataSpec, ModalityKind, Samples

HISTOGRAM_WORK = 10
"""Multiply-adds that take as long as adding one number to a histogram."""
OBJECTIVES = {"classification": "multiclass", "multilabel": "binary", "regression": "regression"}


class LightGBMConfig(BoostingConfig):
    """Leaf-wise gradient boosting (Ke et al. 2017), which finds its own number of rounds, then learns from all rows."""

    modality_kinds: ClassVar[frozenset[ModalityKind]] = frozenset({"vector", "tabular", "image", "sequence", "text"})
    distribution: ClassVar[str | None] = "lightgbm"

    kind: Literal["lightgbm"] = "lightgbm"
    penalty: Annotated[PositiveFloat, SearchRange(0.1, 30.0, log=True)] = 1.0
    """L2 penalty on the values of leaves."""
    text: TextFeaturesConfig = TextFeaturesConfig()
    """Which pieces of a text count."""

    def build(self, spec: DataSpec, seed: int) -> "LightGBMEstimator":
        """A fresh estimator for the encoded `spec`, its texts as strings."""
        self.require(spec)
        return LightGBMEstimator(self, spec, seed)

    def estimate_cost(self, spec: DataSpec, num_rows: int, epochs: int) -> tuple[float, float]:
        """The histograms of each tree, in the columns it tries; before that, the linear models of texts."""
        width, outputs, texts = max(spec_width(spec), 1), spec.task.num_outputs, num_texts(spec)
        rounds = 2 * min(self.max_rounds, 150)  # once to find their number, once with all rows
        trees = rounds * (1 if outputs == 2 else outputs)
        tried = width * tried_fraction(width) + texts * outputs
        per_tree = HISTOGRAM_WORK * tried * (num_rows * math.log2(self.leaves(num_rows)) + 2e3)
        cells = float(num_rows) * PIECES_PER_TEXT * texts
        scores = num_rows * texts * WORK_PER_TEXT + SCORE_FITS * cells * outputs * (1 + (texts > 1))
        memory = 10.0 * num_rows * width + 64.0 * trees * self.leaves(num_rows) + 48 * cells
        return trees * per_tree + scores, memory + 400.0 * self.text.max_vocabulary * texts


class LightGBMEstimator(Estimator):
    """One boosted model for all classes; one per label, or per target column.

    What is kept of it are its trees, as arrays; LightGBM itself is not needed to answer.
    """

    def __init__(self, config: LightGBMConfig, spec: DataSpec, seed: int) -> None:
        super().__init__(spec, seed)
        self.config = config
        columns = spec.select(m.name for m in spec.modalities if m.kind != "text")
        self.design = DesignMatrix(columns, max_one_hot=TREE_ONE_HOT, missing_as_nan=True)
        self.texts = TextScores(spec, config.text) if num_texts(spec) else None
        self._trees: Trees | None = None
        self._outputs = np.zeros(0, dtype=np.int32)
        """Which raw output each tree adds to: log-odds or values of the active outputs; two classes share one."""

    def _learn(self, samples: Samples, target: np.ndarray, weight: np.ndarray | None) -> None:
        numbers = np.asarray(self.design.fit(samples).transform(samples))
        if self.texts is not None:
            scores = self.texts.fit(samples, target, weight, self.rng("texts"))
            numbers = np.concatenate([numbers, scores], axis=1)
        matrix = numbers.astype(np.float32)
        columns = [target] if target.ndim == 1 else list(target.T)
        models = [self._boost(matrix, column, weight, samples.groups, i) for i, column in enumerate(columns)]
        self._trees, model_of_tree = pack_lightgbm(models, self._num_columns)
        # A round of one model for more than two classes is a tree for each.
        shared = len(models) == 1 and self._num_raw > 1
        outputs = np.arange(len(model_of_tree)) % self._num_raw if shared else model_of_tree
        self._outputs = outputs.astype(np.int32)

    def _answer(self, samples: Samples) -> np.ndarray:
        assert self._trees is not None, "predict before fit"
        numbers = np.asarray(self.design.transform(samples))
        if self.texts is not None:
            numbers = np.concatenate([numbers, self.texts.transform(samples)], axis=1)
        raw = np.zeros((len(samples), self._num_raw))
        for output, answer in zip(self._outputs, self._trees.answers(numbers.astype(np.float32)), strict=True):
            raw[:, output] += answer[:, 0]
        if self.spec.task.kind == "regression":
            return raw
        if self.spec.task.kind == "multilabel":
            return sigmoid(raw)
        return softmax(raw if raw.shape[1] > 1 else np.hstack([np.zeros_like(raw), raw]))

    def _learnt(self) -> dict[str, Any]:
        assert self._trees is not None, "save before fit"
        texts = {} if self.texts is None else {"texts": self.texts.learnt()}
        return {
            "design": self.design.learnt(),
            "trees": self._trees.learnt(),
            "outputs": self._outputs,
            **texts,
        }

    def _restore(self, learnt: dict[str, Any]) -> None:
        self.design.restore(learnt["design"])
        if self.texts is not None:
            self.texts.restore(learnt["texts"], len(self._active))
        self._trees = restore_trees(learnt["trees"], self._num_columns, width=1)
        self._outputs = read_array(learnt, "outputs", np.int32, len(self._trees))
        if not np.isin(self._outputs, np.arange(self._num_raw)).all():
            raise ValueError("a tree adds to an output that is not there")

    @property
    def _num_columns(self) -> int:
        return self.design.num_columns + (0 if self.texts is None else self.texts.num_columns)

    @property
    def _num_raw(self) -> int:
        """Raw outputs: one for two classes, the log-odds of the second."""
        shared = self.spec.task.kind == "classification" and len(self._active) == 2
        return 1 if shared else len(self._active)

    def _boost(
        self, matrix: np.ndarray, target: np.ndarray, weight: np.ndarray | None, groups: np.ndarray | None, output: int
    ) -> str:
        """Find the number of rounds on rows held out, then boost that often on all rows: the model as text."""
        import lightgbm

        def data(rows: np.ndarray) -> "lightgbm.Dataset":
            own = None if weight is None else weight[rows]
            return lightgbm.Dataset(matrix[rows], target[rows], weight=own, params=settings, free_raw_data=True)

        settings = self._settings(len(target), int(target.max()) + 1)
        classes = None if self.spec.task.kind == "regression" else target
        held_out = hold_out(len(target), classes, groups, self.rng(f"rounds-{output}"))
        if held_out is None:
            rounds = min(UNJUDGED_ROUNDS, self.config.max_rounds)
        else:
            stopping = lightgbm.early_stopping(self.config.patience, verbose=False)
            trial = lightgbm.train(
                settings,
                data(np.flatnonzero(~held_out)),
                self.config.max_rounds,
                valid_sets=[data(np.flatnonzero(held_out))],
                callbacks=[stopping],
            )
            rounds = all_rounds(trial.best_iteration, held_out)
        return lightgbm.train(settings, data(np.arange(len(target))), rounds).model_to_string()

    def _settings(self, num_rows: int, num_classes: int) -> dict[str, Any]:
        objective = OBJECTIVES[self.spec.task.kind]
        many = objective == "multiclass" and num_classes > 2
        return {
            "objective": objective if many or objective != "multiclass" else "binary",
            **({"num_class": num_classes} if many else {}),
            "learning_rate": self.config.learning_rate,
            "num_leaves": self.config.leaves(num_rows),
            "min_data_in_leaf": max(min(10, num_rows // 10), 1),
            "lambda_l2": self.config.penalty,
            # By node, as scikit-learn's boosting and forests do: a column left out of one split is there for the next.
            "feature_fraction_bynode": tried_fraction(self._num_columns),
            "feature_pre_filter": False,
            "seed": self.seed % 2**31,
            "deterministic": True,
            "force_col_wise": True,
            "num_threads": 1,
            "verbosity": -1,
        }
