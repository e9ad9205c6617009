"""Trees as a few flat arrays: what forests and boosted models are reduced to once fitted, and what is saved of them.

scikit-learn keeps objects and statistics around every tree that answering never needs; saved one by one, they took
most of a second to read back. A few arrays take milliseconds, and are checked as a whole.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from training_core.errors import StorageError
from training_core.learners.saved_state import read_array

if TYPE_CHECKING:
    from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor
    from sklearn.tree._tree import Tree

NODE_TYPES: dict[str, type] = {
    "left": np.int32,
    "right": np.int32,
    "column": np.int32,
    "threshold": np.float32,
    "missing_left": np.bool_,
}
"""What is known of every node; see `Trees`."""


class Trees:
    """Binary trees, each of which gives a row of `num_columns` numbers `width` values.

    The nodes of all trees lie in one row, tree after tree, a node before its children. Where the number in the node's
    column is at most its threshold, a row goes left; where it is missing, `missing_left` decides.

    Attributes:
        sizes: nodes of each tree, int32 [trees].
        nodes: arrays [nodes] by the names of `NODE_TYPES`; `left` and `right` say how many nodes further on a child
            is, 0 in a leaf.
        leaf_values: values of the leaves, in the order of the nodes, float64 [leaves, width].
    """

    def __init__(
        self, sizes: np.ndarray, nodes: dict[str, np.ndarray], leaf_values: np.ndarray, num_columns: int
    ) -> None:
        """Check the arrays, then make trees of them.

        Raises:
            StorageError: a node points outside its tree, back, or at a column that is not there.
        """
        self.sizes, self.nodes, self.leaf_values = sizes, nodes, leaf_values
        _check(sizes, nodes, leaf_values, num_columns)
        self._trees = _build(sizes, nodes, leaf_values, num_columns)

    def __len__(self) -> int:
        return len(self.sizes)

    def answers(self, matrix: np.ndarray) -> Iterator[np.ndarray]:
        """What each tree in turn says of `matrix`, float32 [N, num_columns]: float64 [N, width]."""
        return (tree.predict(matrix) for tree in self._trees)

    def learnt(self) -> dict[str, Any]:
        """The arrays, to be saved."""
        return {"sizes": self.sizes, "leaf_values": self.leaf_values, **self.nodes}


def restore_trees(learnt: dict[str, Any], num_columns: int, width: int) -> Trees:
    """What `Trees.learnt` gave, read back from a file that may be damaged.

    Raises:
        StorageError: a node points outside its tree, back, or at a column that is not there.
        Exception: one of `saved_state.MALFORMED`; an array is missing, or of another type or shape.
    """
    sizes = read_array(learnt, "sizes", np.int32, None)
    length = len(read_array(learnt, "left", np.int32, None))
    nodes = {name: read_array(learnt, name, dtype, length) for name, dtype in NODE_TYPES.items()}
    return Trees(sizes, nodes, read_array(learnt, "leaf_values", np.float64, None, width), num_columns)


def pack_forest(trees: "Sequence[Tree]", num_columns: int, *, classes: bool) -> Trees:
    """The fitted trees of a forest.

    Their values are the probabilities of the `classes` of a single output; otherwise that of 1 for each output that
    is a label, or the number for each that is one.
    """
    states = [tree.__getstate__() for tree in trees]
    nodes = np.concatenate([state["nodes"] for state in states])
    # Of each tree only the leaves, [leaves, outputs, classes of an output or 1]: a large forest is not copied whole.
    values = np.concatenate([state["values"][state["nodes"]["left_child"] == -1] for state in states])
    return _pack(
        np.array([len(state["nodes"]) for state in states]),
        nodes["left_child"] == -1,
        (nodes["left_child"], nodes["right_child"]),
        (nodes["feature"], nodes["threshold"], nodes["missing_go_to_left"]),
        values[:, 0] if classes else values[:, :, -1],
        num_columns,
    )


def pack_boosted(trees: "Sequence[TreePredictor]", num_columns: int) -> Trees:
    """The fitted trees of boosted models, which give one value each; none may split on categories."""
    nodes = np.concatenate([tree.nodes for tree in trees])
    return _pack(
        np.array([len(tree.nodes) for tree in trees]),
        nodes["is_leaf"] == 1,
        (nodes["left"], nodes["right"]),
        (nodes["feature_idx"], nodes["num_threshold"], nodes["missing_go_to_left"]),
        nodes["value"][nodes["is_leaf"] == 1, None],
        num_columns,
    )


def pack_lightgbm(models: Sequence[str], num_columns: int) -> tuple[Trees, np.ndarray]:
    """The trees of LightGBM models, and of which model each is, int64 [trees].

    Models are in LightGBM's own text form; their trees give one value each, and none may split on categories. In that
    form a negative child -1 - k is leaf k. The form also says how a split took missing numbers in training: where it
    met none (bits 2 and 3 of its type), LightGBM takes a missing number for 0.
    """
    model_of_tree, blocks = [], []
    for i, model in enumerate(models):
        for block in model.split("\nTree=")[1:]:
            lines = (line.partition("=") for line in block.split("\n\n")[0].splitlines()[1:])
            fields = {name: np.array(values.split(), dtype=np.float64) for name, _, values in lines}
            if fields["num_cat"][0]:
                raise ValueError("trees that split on categories cannot be kept")
            blocks.append(fields)
            model_of_tree.append(i)
    num_leaves = np.array([len(fields["leaf_value"]) for fields in blocks])
    # Inner nodes of a tree as they are numbered, which is parents first; then its leaves.
    leaf = np.concatenate([np.arange(2 * n - 1) >= n - 1 for n in num_leaves])

    def of_nodes(name: str) -> np.ndarray:
        """An array of inner nodes, 0 for leaves."""
        values = np.zeros(len(leaf))
        values[~leaf] = np.concatenate([fields[name] for fields in blocks])
        return values

    own_leaves = np.repeat(num_leaves, 2 * num_leaves - 1)
    left, right = (
        np.where(child < 0, own_leaves - 2 - child, child) for child in map(of_nodes, ("left_child", "right_child"))
    )
    kind, threshold = of_nodes("decision_type").astype(np.int64), of_nodes("threshold")
    missing_left = np.where(kind >> 2 & 3, kind >> 1 & 1, threshold >= 0)
    values = np.concatenate([fields["leaf_value"] for fields in blocks])[:, None]
    split = (of_nodes("split_feature"), threshold, missing_left)
    trees = _pack(2 * num_leaves - 1, leaf, (left, right), split, values, num_columns)
    return trees, np.array(model_of_tree)


def _pack(
    sizes: np.ndarray,
    leaf: np.ndarray,
    children: tuple[np.ndarray, np.ndarray],
    split: tuple[np.ndarray, np.ndarray, np.ndarray],
    leaf_values: np.ndarray,
    num_columns: int,
) -> Trees:
    """`children` are places within their tree, `split` is column, threshold and whether missing goes left."""
    own = np.concatenate([np.arange(size) for size in sizes])
    column, threshold, missing_left = (np.where(leaf, 0, part) for part in split)
    with np.errstate(over="ignore"):
        rounded = threshold.astype(np.float32)
    # The columns are float32: they compare the same with the largest float32 that is no larger than the threshold.
    rounded = np.where(rounded > threshold, np.nextafter(rounded, np.float32(-np.inf)), rounded)
    # Distances instead of places: nearly all left children come next, which compresses to nothing.
    left, right = (np.where(leaf, 0, child.astype(np.int64) - own) for child in children)
    parts = (left, right, column, rounded, missing_left)
    nodes = {name: part.astype(NODE_TYPES[name]) for name, part in zip(NODE_TYPES, parts, strict=True)}
    return Trees(sizes.astype(np.int32), nodes, np.ascontiguousarray(leaf_values, dtype=np.float64), num_columns)


def _check(sizes: np.ndarray, nodes: dict[str, np.ndarray], leaf_values: np.ndarray, num_columns: int) -> None:
    """See that every walk ends at a leaf.

    Compiled code walks trees without looking where a distance leads, so a damaged or hostile file could crash the
    process or loop forever. Where children come after their parents, in the same tree, every walk ends.
    """
    left, right, column = (nodes[name] for name in ("left", "right", "column"))
    _demand(len(sizes) > 0 and bool((sizes > 0).all()) and int(sizes.sum(dtype=np.int64)) == len(left))
    until_end = np.repeat(np.cumsum(sizes, dtype=np.int64), sizes) - np.arange(len(left))
    leaf = left == 0
    _demand(bool(((right == 0) == leaf).all()) and int(leaf.sum()) == len(leaf_values))
    _demand(all(bool(((step >= 0) & (step < until_end)).all()) for step in (left, right)))
    _demand(bool(((column >= 0) & (column < num_columns)).all()))


def _demand(holds: bool) -> None:
    if not holds:
        raise StorageError("a saved tree points outside itself or its data: the file is damaged; train it again")


def _build(sizes: np.ndarray, nodes: dict[str, np.ndarray], leaf_values: np.ndarray, num_columns: int) -> "list[Tree]":
    """Checked arrays as trees of scikit-learn, whose compiled code walks them; boosted ones too, it walks the same."""
    from sklearn.tree._tree import NODE_DTYPE, Tree

    ends = np.cumsum(sizes, dtype=np.int64)
    starts = ends - sizes
    leaf = nodes["left"] == 0
    own = np.arange(len(leaf)) - np.repeat(starts, sizes)
    records: Any = np.zeros(len(leaf), dtype=NODE_DTYPE)
    records["left_child"] = np.where(leaf, -1, own + nodes["left"])
    records["right_child"] = np.where(leaf, -1, own + nodes["right"])
    records["feature"] = nodes["column"]
    records["threshold"] = nodes["threshold"]
    records["missing_go_to_left"] = nodes["missing_left"]
    width = leaf_values.shape[1]
    trees, first = [], 0
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        own_leaf = leaf[start:end]
        last = first + np.count_nonzero(own_leaf)
        values = np.zeros((end - start, 1, width))
        values[own_leaf, 0] = leaf_values[first:last]
        # To scikit-learn the values are those of the classes of one output. The depth is only read to trace paths,
        # where more than the real one does no harm.
        tree = Tree(num_columns, np.array([width], dtype=np.intp), 1)
        size = end - start
        tree.__setstate__({"max_depth": size, "node_count": size, "nodes": records[start:end], "values": values})
        trees.append(tree)
        first = last
    return trees
