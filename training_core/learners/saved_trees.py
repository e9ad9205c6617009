"""Checks on trees read back from a file.

Compiled code walks trees without looking where an index leads, so a damaged or hostile file could crash the process
or loop forever. Both kinds of tree number a node before its children; where that holds and indices stay in range,
every walk ends at a leaf.
"""

from typing import Any

import numpy as np

from training_core.errors import StorageError

BOOSTED_TREE = "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"
"""What a boosted model is made of; trusted because `check_boosted` looks at every one of them."""

FOREST_TREE = "sklearn.tree._tree.Tree"
"""What a forest is made of; trusted because `check_forest` looks at every one of them."""


def check_boosted(models: list[Any], num_columns: int) -> None:
    """Check every tree of boosted `models` on data of `num_columns` columns.

    Raises:
        StorageError: a node points outside the tree, back, or at a column that is not there.
    """
    for model in models:
        _demand(model.n_features_in_ == num_columns)
        for tree in (tree for trees in model._predictors for tree in trees):
            nodes = tree.nodes
            inner = nodes["is_leaf"] == 0
            _check_nodes(nodes["left"], nodes["right"], nodes["feature_idx"], inner, num_columns)
            categorical = nodes["is_categorical"] != 0
            for bitsets in (tree.raw_left_cat_bitsets, tree.binned_left_cat_bitsets):
                _demand(bool((nodes["bitset_idx"][categorical] < len(bitsets)).all()))


def check_forest(forest: Any, num_columns: int) -> None:
    """Check every tree of a forest on data of `num_columns` columns.

    Raises:
        StorageError: a node points outside the tree, back, or at a column that is not there.
    """
    for tree in (member.tree_ for member in forest.estimators_):
        _demand(tree.n_features == num_columns)
        # A leaf has no left child, which is written as -1.
        _check_nodes(tree.children_left, tree.children_right, tree.feature, tree.children_left != -1, num_columns)


def _check_nodes(left: np.ndarray, right: np.ndarray, column: np.ndarray, inner: np.ndarray, num_columns: int) -> None:
    own = np.arange(len(left))[inner]
    for child in (left[inner].astype(np.int64), right[inner].astype(np.int64)):
        _demand(len(left) > 0 and bool(((child > own) & (child < len(left))).all()))
    chosen = column[inner].astype(np.int64)
    _demand(bool(((chosen >= 0) & (chosen < num_columns)).all()))


def _demand(holds: bool) -> None:
    if not holds:
        raise StorageError("a saved tree points outside itself or its data: the file is damaged; train it again")
