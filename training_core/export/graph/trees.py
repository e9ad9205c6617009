"""Forests and boosted trees as torch modules, and as the one operation that ONNX has for them.

Neither rounds anything: trees only say which leaf a row ends at; thresholds and leaf values keep their bits.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class TreeSum(nn.Module):
    """The leaf values that rows end at, added up over trees, [N, outputs] float64; see `learners.saved_trees.Trees`.

    In plain torch all trees are walked at once, one level at a time, which is long for a graph and slow for many rows.
    With `walk` given, that is called in its place.

    Attributes:
        walk: from numbers [N, columns] to the number of the leaf that each tree ends at, [N, trees]; None: spelled out.
        num_trees: how many there are.
    """

    def __init__(
        self, saved: Mapping[str, Any], thresholds: np.ndarray, outputs: np.ndarray | None, *, meets_missing: bool
    ) -> None:
        """Take saved trees.

        Args:
            saved: what `Trees.learnt` gave.
            thresholds: of every node, float64 [nodes], in place of the saved ones.
            outputs: the output each tree adds its single value to; None: leaves have a value for every output.
            meets_missing: whether a number may be NaN.
        """
        super().__init__()
        sizes = saved["sizes"].astype(np.int64)
        leaf = saved["left"] == 0
        self.walk: TreeNode | None = None
        self.num_trees = len(sizes)
        self.roots = np.cumsum(sizes) - sizes
        self.saved = {name: saved[name] for name in ("left", "right", "column", "missing_left")}
        self.saved["threshold"] = thresholds.astype(np.float64)
        self.saved["leaf"] = np.where(leaf, np.cumsum(leaf) - 1, 0)
        self.meets_missing = meets_missing and bool(saved["missing_left"].any())
        self.register_buffer("leaf_values", torch.from_numpy(saved["leaf_values"]))
        chosen = None
        if outputs is not None:
            chosen = np.zeros((len(outputs), int(outputs.max()) + 1))
            chosen[np.arange(len(outputs)), outputs] = 1.0
        self.register_buffer("chosen", None if chosen is None else torch.from_numpy(chosen))

    def forward(self, matrix: Tensor) -> Tensor:
        """Numbers [N, columns] float64, NaN where missing."""
        leaf = self._walked(matrix) if self.walk is None else self.walk(matrix)
        values = self.get_buffer("leaf_values")[leaf]
        return values.sum(dim=1) if self.chosen is None else values.squeeze(2) @ self.get_buffer("chosen")

    def _walked(self, matrix: Tensor) -> Tensor:
        saved = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in self.saved.items()}
        steps = torch.stack([saved["left"], saved["right"]], dim=1).reshape(-1)
        node = torch.from_numpy(self.roots).unsqueeze(0).expand(matrix.shape[0], -1)
        for _ in range(_depth(self.roots, self.saved)):
            number = matrix.gather(1, saved["column"][node].long())
            left = number <= saved["threshold"][node]
            if self.meets_missing:
                left = left | (torch.isnan(number) & saved["missing_left"][node])
            node = node + steps[2 * node + (~left).long()].long()
        return saved["leaf"][node]


class ForestMean(nn.Module):
    """The mean of the trees' values, [N, outputs]."""

    def __init__(self, saved: Mapping[str, Any]) -> None:
        super().__init__()
        self.sum = TreeSum(saved, saved["threshold"], None, meets_missing=False)

    def forward(self, matrix: Tensor) -> Tensor:
        """Numbers [N, columns]."""
        return self.sum(matrix) / self.sum.num_trees


class BoostedSum(nn.Module):
    """The sum of the trees of each raw output and where it starts, [N, outputs]."""

    def __init__(
        self, saved: Mapping[str, Any], outputs: np.ndarray, baseline: np.ndarray, edges: np.ndarray | None = None
    ) -> None:
        """Take saved trees.

        Args:
            saved: what `Trees.learnt` gave.
            outputs: the raw output each tree adds to; every one has a tree.
            baseline: the raw outputs before the first tree.
            edges: of the bins [columns, bins - 1], where the trees compare bins. A bin says how many edges lie below
                a number, so it is at most t where the number is at most edge t.
        """
        super().__init__()
        thresholds = saved["threshold"].astype(np.float64)
        if edges is not None:
            place = np.floor(thresholds).astype(np.int64)
            inside = np.clip(place, 0, edges.shape[1] - 1)
            thresholds = np.where(place < edges.shape[1], edges[saved["column"], inside], np.inf)
            thresholds = np.where(place < 0, -np.inf, thresholds)
        self.sum = TreeSum(saved, thresholds, outputs, meets_missing=True)
        self.register_buffer("baseline", torch.from_numpy(np.asarray(baseline, dtype=np.float64)))

    def forward(self, matrix: Tensor) -> Tensor:
        """Numbers [N, columns]."""
        return self.sum(matrix) + self.get_buffer("baseline")


class TreeNode:
    """A walk through trees that is one node of a graph; `key` is the number under which its attributes are known."""

    def __init__(self, key: int, num_trees: int) -> None:
        self.key, self.num_trees = key, num_trees

    def __call__(self, matrix: Tensor) -> Tensor:
        """Leaves [N, trees] int64, as a placeholder: it is there to be traced, not to be run."""
        return tree_leaves(matrix, self.key, self.num_trees).long()


@torch.library.custom_op("polychoir::tree_leaves", mutates_args=())
def tree_leaves(matrix: Tensor, key: int, num_trees: int) -> Tensor:
    """Leaves [N, trees] float64 that numbers [N, columns] end at; only graphs know which."""
    raise NotImplementedError("trees under a number are for tracing; a graph runs them")


@tree_leaves.register_fake
def _(matrix: Tensor, key: int, num_trees: int) -> Tensor:
    return matrix.new_empty((matrix.shape[0], num_trees))


def tree_attributes(trees: TreeSum) -> dict[str, Any]:
    """Attributes of the operation `TreeEnsemble` (ai.onnx.ml 5) that gives the leaf each tree ends at, [N, trees].

    There, nodes that split and leaves are two rows of their own. A tree is an output, and a leaf's weight its number.
    """
    saved = trees.saved
    left, right = saved["left"].astype(np.int64), saved["right"].astype(np.int64)
    splits = left > 0
    splits[trees.roots] = True  # one that is a leaf has it on both sides
    inner = np.cumsum(splits) - 1
    own = np.flatnonzero(splits)
    is_leaf = left == 0
    sides = {"true": own + left[own], "false": own + right[own]}
    attributes: dict[str, Any] = {
        "n_targets": trees.num_trees,
        "aggregate_function": 1,
        "post_transform": 0,
        "tree_roots": inner[trees.roots],
        "nodes_featureids": saved["column"][own].astype(np.int64),
        "nodes_modes": np.zeros(len(own), dtype=np.uint8),  # at most the threshold
        "nodes_splits": saved["threshold"][own],
        "leaf_targetids": np.searchsorted(trees.roots, np.flatnonzero(is_leaf), side="right") - 1,
        "leaf_weights": np.arange(np.count_nonzero(is_leaf), dtype=np.float64),
    }
    if trees.meets_missing:
        attributes["nodes_missing_value_tracks_true"] = saved["missing_left"][own].astype(np.int64)
    for side, child in sides.items():
        attributes[f"nodes_{side}leafs"] = is_leaf[child].astype(np.int64)
        attributes[f"nodes_{side}nodeids"] = np.where(is_leaf[child], saved["leaf"][child], inner[child])
    return attributes


def _depth(roots: np.ndarray, saved: Mapping[str, Any]) -> int:
    """Steps from a root to the deepest leaf."""
    left, right = saved["left"].astype(np.int64), saved["right"].astype(np.int64)
    level, depth = roots[left[roots] > 0], 0
    while len(level):
        depth += 1
        level = np.concatenate([level + left[level], level + right[level]])
        level = level[left[level] > 0]
    return depth
