"""What linear models say of texts, as a few columns: how learners that split on columns are given texts.

Trees can make little of thousands of word counts. One linear model of them says most of what they tell; trees then see
how it bends and what it means beside the other columns.
"""

from typing import Any, Self

import numpy as np

from training_core.learners.design_matrix import DesignMatrix
from training_core.learners.linear_fit import LinearFit, fit_out_of_fold
from training_core.learners.linear_model import TEXT_START, LinearModel
from training_core.learners.text_features import TextFeaturesConfig
from training_core.schema import DataSpec, Samples, TaskKind

SCORE_FITS = 2 * 17 * 40.0
"""Passes over a text's matrix: 3 folds for each of 4 penalties, then 5 folds, of about 40 rounds with two products."""


class TextScores:
    """Raw outputs (logits or values) of linear models on TF-IDF, one for each text and one for all texts together.

    Ratings are values here: trees find by themselves how a straight line through them has to bend.

    For the rows they are learnt from they are out of fold (stacked generalisation: Wolpert 1992,
    doi:10.1016/S0893-6080(05)80023-1), else trees would believe them too much. Later rows get the mean of the folds'
    models. A row without a text has NaN instead of what is said of it.
    """

    def __init__(self, spec: DataSpec, config: TextFeaturesConfig) -> None:
        self.task: TaskKind = spec.task.kind
        self.names = tuple(modality.name for modality in spec.modalities if modality.kind == "text")
        self._designs = {name: DesignMatrix(spec.select([name]), text=config) for name in self.names}
        self._num_outputs = 0
        self._models: dict[str, LinearFit] = {}

    @property
    def num_columns(self) -> int:
        """Columns of scores, once fitted: for every group of texts a column per output."""
        return self._num_outputs * len(self._groups())

    def fit(
        self, samples: Samples, target: np.ndarray, weight: np.ndarray | None, rng: np.random.Generator
    ) -> np.ndarray:
        """Learn from `samples`, and give their scores, out of fold, float64 [N, num_columns].

        Args:
            samples: with texts as strings.
            target: codes [N], labels 0/1 [N, L] or values [N, K]; see `fit_linear`.
            weight: of the rows [N], or None.
            rng: deals the folds.
        """
        blocks = {name: design.fit(samples).transform(samples) for name, design in self._designs.items()}
        scores = []
        for key, names in self._groups().items():
            matrix = _joined([blocks[name] for name in names])
            self._models[key], raw = fit_out_of_fold(
                self.task, matrix, target, weight, groups=samples.groups, rng=rng, start=TEXT_START[self.task]
            )
            self._num_outputs = raw.shape[1]
            scores.append(self._where_there(raw, samples, names))
        return np.concatenate(scores, axis=1)

    def transform(self, samples: Samples) -> np.ndarray:
        """Scores of other samples, float64 [N, num_columns]."""
        blocks = {name: design.transform(samples) for name, design in self._designs.items()}
        scores = []
        for key, names in self._groups().items():
            matrix = _joined([blocks[name] for name in names])
            scores.append(self._where_there(self._models[key].raw(matrix), samples, names))
        return np.concatenate(scores, axis=1)

    def learnt(self) -> dict[str, Any]:
        """What `fit` found, as plain values and arrays."""
        return {
            "designs": {name: design.learnt() for name, design in self._designs.items()},
            "models": {key: LinearModel(fit).learnt() for key, fit in self._models.items()},
        }

    def restore(self, learnt: dict[str, Any], num_outputs: int) -> Self:
        """Take back what `learnt` gave; every model has `num_outputs`.

        Raises:
            Exception: one of `saved_state.MALFORMED`; something is missing, or of another type or shape.
        """
        if set(learnt["designs"]) != set(self._designs) or set(learnt["models"]) != set(self._groups()):
            raise ValueError("it was learnt from other texts")
        for name, design in self._designs.items():
            design.restore(learnt["designs"][name])
        self._num_outputs = num_outputs
        for key, names in self._groups().items():
            width = sum(self._designs[name].num_columns for name in names)
            self._models[key] = LinearModel.restored(learnt["models"][key], width, num_outputs).fit
        return self

    def _groups(self) -> dict[str, tuple[str, ...]]:
        """The texts that each model reads, by a key for it."""
        groups = {f"text {name}": (name,) for name in self.names}
        return groups if len(self.names) == 1 else {**groups, "all texts": self.names}

    def _where_there(self, raw: np.ndarray, samples: Samples, names: tuple[str, ...]) -> np.ndarray:
        there = np.logical_or.reduce([samples.available[name] for name in names])
        return np.where(there[:, None], raw, np.nan)


def _joined(blocks: list[Any]) -> Any:
    """Sparse blocks of columns side by side."""
    from scipy.sparse import csr_matrix, hstack

    return blocks[0] if len(blocks) == 1 else csr_matrix(hstack(blocks, format="csr"))
