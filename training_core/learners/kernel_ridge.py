"""Kernel ridge regression: smooth functions of the distance to training rows, hard to beat on a few thousand of them.

As a classifier it is the least-squares support vector machine (Suykens & Vandewalle 1999, doi:10.1023/A:1018628609742).
Errors on left-out rows have a closed form, so the kernel, the penalty and how sure to be are chosen on these rows
without fitting twice (Rifkin & Lippert 2007, MIT-CSAIL-TR-2007-025, section 3.3).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from training_core.learners.base import spec_width
from training_core.learners.design_matrix import DesignMatrix
from training_core.learners.estimator import Estimator, EstimatorConfig
from training_core.learners.linear_fit import sigmoid, softmax
from training_core.learners.saved_state import read_array, read_number
from training_core.quantities import PositiveInt, SearchRange
from training_core.schema import DataSpec, ModalityKind, Samples, TaskKind

SEARCH_ROWS = 1_000
"""Rows on which kernel and penalty are chosen: each kernel tried takes an eigendecomposition of as many."""
FIRST_WIDTH, WIDTH_STEP, MOST_WIDTHS = 0.5, 2.0, 6
"""Factors of the squared distance in the exponent: where the search begins, how far apart those tried lie, and about
how many are tried. Two rows drawn at random have a mean squared distance of 2."""
PENALTIES = tuple(10.0 ** (power / 2) for power in range(-8, 3))
SHARPNESSES = (2.0, 4.0, 8.0, 12.0, 16.0, 24.0)
"""What scores are multiplied by before they are taken for log-odds."""
_ANSWERED_ROWS = 2_048  # at a time: their distances to all landmarks are in memory
_JITTER = 1e-10


class KernelRidgeConfig(EstimatorConfig):
    """A Gaussian kernel on all columns, those that tell more of the target counting more; chosen on left-out rows."""

    modality_kinds: ClassVar[frozenset[ModalityKind]] = frozenset({"vector", "tabular", "image", "sequence"})
    method: ClassVar[str | None] = "kernel machines"
    quality_prior: ClassVar[float] = 0.72
    max_columns: ClassVar[int] = 4096

    kind: Literal["kernel_ridge"] = "kernel_ridge"
    max_landmarks: Annotated[PositiveInt, SearchRange(500, 4000, log=True)] = 2_000
    """Training rows that distances are taken to: all of them, or so many drawn at random (Nystroem's method)."""

    def build(self, spec: DataSpec, seed: int) -> "KernelRidgeEstimator":
        """A fresh estimator for the encoded `spec`."""
        self.require(spec)
        return KernelRidgeEstimator(self, spec, seed)

    def estimate_cost(self, spec: DataSpec, num_rows: int, epochs: int) -> tuple[float, float]:
        """Eigendecompositions for the search, distances and normal equations for the fit.

        Rows with groups or times, of which nothing is known here, take a fifth longer, and up to twice as long where
        they make only two or three large groups.
        """
        width, landmarks = spec_width(spec), min(num_rows, self.max_landmarks)
        searched = min(num_rows, SEARCH_ROWS)
        search = MOST_WIDTHS * (10.0 * searched**3 + searched**2 * width)
        fit = float(num_rows) * landmarks * (width + landmarks) + landmarks**3
        return search + fit, 8.0 * (num_rows * width + num_rows * landmarks + 3 * max(searched, landmarks) ** 2)


@dataclass(frozen=True)
class _Choice:
    """What the left-out rows chose."""

    loss: float
    width: float
    penalty: float
    sharpness: float


class KernelRidgeEstimator(Estimator):
    """Weights of landmarks [L, outputs], such that a row's scores are `exp(-width · distance²) @ weights`.

    The squared distance of two rows is the mean over modalities of their squared distances in each, in units of the
    mean squared distance from the centre, so that a wide modality counts no more than a narrow one.
    """

    def __init__(self, config: KernelRidgeConfig, spec: DataSpec, seed: int) -> None:
        super().__init__(spec, seed)
        self.config = config
        self.blocks = [DesignMatrix(spec.select((name,))) for name in spec.names]
        self.scale = np.zeros(0)
        """What every column is multiplied by [columns]; empty before `fit`."""
        self.centre = np.zeros(0)
        """Of the target [outputs]."""
        self.landmarks = np.zeros((0, 0), dtype=np.float32)
        self.weights = np.zeros((0, 0))
        self.width = self.sharpness = 1.0

    def _learn(self, samples: Samples, target: np.ndarray, weight: np.ndarray | None) -> None:
        matrices = [np.asarray(_dense(block.fit(samples).transform(samples))) for block in self.blocks]
        counts = np.ones(len(samples)) if weight is None else weight / weight.mean()
        goal, self.centre = _centred(self.spec.task.kind, target, counts)
        searched = np.sort(self.rng("search").permutation(len(goal))[:SEARCH_ROWS])
        groups = None if samples.groups is None else np.asarray(samples.groups)[searched]

        def tried(scale: np.ndarray, width: float) -> _Choice:
            distance = _distances(*2 * [_scaled(matrices, scale)[searched]])
            return _choose(self.spec.task.kind, distance, width, goal[searched], counts[searched], groups)

        scales = [_scales(matrices, goal, counts, telling) for telling in (False, True)]
        choices = [tried(scale, FIRST_WIDTH) for scale in scales]
        best = min(choices, key=lambda choice: choice.loss)
        self.scale = scales[choices.index(best)]
        for factor in (WIDTH_STEP, 1 / WIDTH_STEP):
            while (choice := tried(self.scale, best.width * factor)).loss < best.loss:
                best = choice
        self.width, self.sharpness = best.width, best.sharpness
        rows = _scaled(matrices, self.scale).astype(np.float32)
        chosen = np.sort(self.rng("landmarks").permutation(len(rows))[: self.config.max_landmarks])
        self.landmarks = rows[chosen]
        self.weights = self._fit(rows, chosen, goal, counts, best.penalty)

    def _fit(
        self, rows: np.ndarray, chosen: np.ndarray, goal: np.ndarray, weight: np.ndarray, penalty: float
    ) -> np.ndarray:
        """The weights of landmarks that minimise Σ weight · error² + penalty · ‖function‖²."""
        from scipy.linalg import cho_factor, cho_solve

        if len(chosen) == len(rows):
            root = np.sqrt(weight)[:, None]
            kernel = np.exp(-self.width * _distances(rows, rows)) * root * root.T
            kernel[np.diag_indices_from(kernel)] += penalty
            return root * cho_solve(cho_factor(kernel, lower=True, overwrite_a=True), root * goal)
        normal = penalty * np.exp(-self.width * _distances(self.landmarks, self.landmarks))
        normal[np.diag_indices_from(normal)] += _JITTER * len(rows)
        right = np.zeros((len(chosen), goal.shape[1]))
        for part in _parts(len(rows)):
            kernel = np.exp(-self.width * _distances(rows[part], self.landmarks))
            weighted = kernel.T * weight[part]
            normal += weighted @ kernel
            right += weighted @ goal[part]
        return cho_solve(cho_factor(normal, lower=True, overwrite_a=True), right)

    def _answer(self, samples: Samples) -> np.ndarray:
        assert len(self.scale), "predict before fit"
        rows = _scaled([np.asarray(_dense(block.transform(samples))) for block in self.blocks], self.scale)
        parts = [np.exp(-self.width * _distances(rows[part], self.landmarks)) for part in _parts(len(rows))]
        scores = np.concatenate([kernel @ self.weights for kernel in parts]) + self.centre
        kind = self.spec.task.kind
        if kind == "regression":
            return scores
        return softmax(self.sharpness * scores) if kind == "classification" else sigmoid(self.sharpness * scores)

    def _learnt(self) -> dict[str, Any]:
        assert len(self.scale), "save before fit"
        return {
            "blocks": {name: block.learnt() for name, block in zip(self.spec.names, self.blocks, strict=True)},
            "scale": self.scale,
            "centre": self.centre,
            "landmarks": self.landmarks,
            "weights": self.weights,
            "width": self.width,
            "sharpness": self.sharpness,
        }

    def _restore(self, learnt: dict[str, Any]) -> None:
        for name, block in zip(self.spec.names, self.blocks, strict=True):
            block.restore(learnt["blocks"][name])
        num_columns = sum(block.num_columns for block in self.blocks)
        self.scale = read_array(learnt, "scale", np.float64, num_columns)
        self.centre = read_array(learnt, "centre", np.float64, len(self._active))
        self.landmarks = read_array(learnt, "landmarks", np.float32, None, num_columns)
        self.weights = read_array(learnt, "weights", np.float64, len(self.landmarks), len(self._active))
        self.width = read_number(learnt, "width", at_least=0.0)
        self.sharpness = read_number(learnt, "sharpness", at_least=0.0)


def left_out(goal: np.ndarray, dual: np.ndarray, diagonal: np.ndarray) -> np.ndarray:
    """What a fit without a row says of that row.

    Args:
        goal: what was to be learnt [N, outputs].
        dual: `inverse @ goal`, of the inverse of the kernel with the penalty on its diagonal.
        diagonal: of that inverse [N].

    Returns:
        [N, outputs].
    """
    return goal - dual / diagonal[:, None]


def groups_left_out(
    goal: np.ndarray, dual: np.ndarray, blocks: Iterable[np.ndarray], members: Sequence[np.ndarray]
) -> np.ndarray:
    """What a fit without the rows of a group says of these rows.

    Args:
        goal: what was to be learnt [N, outputs].
        dual: `inverse @ goal`, of the inverse of the kernel with the penalty on its diagonal.
        blocks: of that inverse, `inverse_II` for the rows I of each group; nothing else of it is needed.
        members: the rows of each group.

    Returns:
        [N, outputs]: `goal_I - inverse_II⁻¹ dual_I` for the rows I of each group.
    """
    said = np.empty_like(goal)
    for rows, block in zip(members, blocks, strict=True):
        said[rows] = goal[rows] - np.linalg.solve(block, dual[rows])
    return said


def members_of(groups: np.ndarray) -> list[np.ndarray]:
    """The rows of each group, ascending."""
    _, codes = np.unique(groups, return_inverse=True)
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)


def _choose(
    kind: TaskKind, distance: np.ndarray, width: float, goal: np.ndarray, weight: np.ndarray, groups: np.ndarray | None
) -> _Choice:
    """The penalty, and how sharp to be, with the least loss on left-out rows."""
    root = np.sqrt(weight)[:, None]
    values, vectors = np.linalg.eigh(np.exp(-width * distance) * root * root.T)
    values = np.maximum(values, 0.0)
    turned = vectors.T @ (root * goal)
    members = [] if groups is None else members_of(groups)
    parts = [root[rows] * vectors[rows] for rows in members]
    found: list[_Choice] = []
    for penalty in PENALTIES:
        shrunk = 1 / (values + penalty)
        dual = root * (vectors @ (shrunk[:, None] * turned))
        if groups is None:
            said = left_out(goal, dual, weight * (vectors**2 @ shrunk))
        else:  # of the inverse only these blocks: all of it would take as long for every penalty as `eigh` once
            halves = (part * np.sqrt(shrunk) for part in parts)  # a matrix times its own transpose takes half the work
            said = groups_left_out(goal, dual, (half @ half.T for half in halves), members)
        found += [
            _Choice(_loss(kind, sharpness * said, goal, weight), width, penalty, sharpness)
            for sharpness in (SHARPNESSES if kind != "regression" else (1.0,))
        ]
    return min(found, key=lambda choice: choice.loss)


def _loss(kind: TaskKind, raw: np.ndarray, goal: np.ndarray, weight: np.ndarray) -> float:
    """Mean squared error, or log loss of scores taken for log-odds; `goal` is centred, its sign says which."""
    if kind == "regression":
        losses = ((raw - goal) ** 2).sum(axis=1)
    elif kind == "classification":
        largest = raw.max(axis=1)
        losses = largest + np.log(np.exp(raw - largest[:, None]).sum(axis=1))
        losses -= np.take_along_axis(raw, goal.argmax(axis=1)[:, None], axis=1)[:, 0]
    else:
        losses = np.logaddexp(0.0, np.where(goal > 0, -raw, raw)).sum(axis=1)
    return float(np.average(losses, weights=weight))


def _centred(kind: TaskKind, target: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is to be learnt [N, outputs], and what to add to it: values about their mean, classes and labels about 0."""
    if kind == "regression":
        mean = np.average(target, axis=0, weights=weight)
        return target - mean, mean
    if kind == "multilabel":
        return target - 0.5, np.zeros(target.shape[1])
    num_classes = int(target.max()) + 1
    return np.eye(num_classes)[target] - 1 / num_classes, np.zeros(num_classes)


def _scales(matrices: list[np.ndarray], goal: np.ndarray, weight: np.ndarray, telling: bool) -> np.ndarray:
    """What every column is multiplied by [columns].

    Columns get unit variance, and with `telling` are multiplied by their largest correlation with an output, so that
    columns that tell nothing do not drown those that do. Then every modality gets a mean squared distance from its
    centre of 1 over the number of modalities.
    """
    share = weight / weight.sum()
    about = goal - share @ goal
    spread = np.sqrt(share @ about**2)
    scales: list[np.ndarray] = []
    for matrix in matrices:
        centred = matrix - share @ matrix
        deviation = np.sqrt(share @ centred**2)
        scale = np.where(deviation > 1e-9, 1 / np.maximum(deviation, 1e-9), 0.0)
        if telling:
            correlation = np.abs((centred * share[:, None]).T @ about) * scale[:, None] / np.maximum(spread, 1e-12)
            scale = scale * correlation.max(axis=1)
        size = np.sqrt(len(matrices) * ((deviation * scale) ** 2).sum())
        scales.append(scale / size if size > 0 else scale)
    return np.concatenate(scales)


def _scaled(matrices: list[np.ndarray], scale: np.ndarray) -> np.ndarray:
    return np.concatenate(matrices, axis=1) * scale


def _distances(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances [N, M], float64."""
    a, b = rows.astype(np.float64), others.astype(np.float64)
    return np.maximum((a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1) - 2 * a @ b.T, 0.0)


def _dense(matrix: Any) -> np.ndarray:
    return matrix.toarray() if hasattr(matrix, "toarray") else matrix


def _parts(num_rows: int) -> Iterator[slice]:
    """Slices of a few rows each, at least one."""
    for start in range(0, max(num_rows, 1), _ANSWERED_ROWS):
        yield slice(start, start + _ANSWERED_ROWS)
