"""Columns cut into a few bins by their quantiles, which is all that boosted trees need to know of a number.

scikit-learn bins by itself, but with sample weights it looks up each of its thresholds in a pass of its own, which
takes longer than growing the trees. A column that comes with no more values than bins is left as it is.
"""

import numpy as np


def bin_edges(matrix: np.ndarray, num_bins: int) -> np.ndarray:
    """Edges between bins [columns, num_bins - 1], ascending, padded with Inf, from `matrix` [N, columns].

    Bins hold about equally many rows, and with no more distinct values than bins one value each. NaN is left out; a
    column of NaN has no edge.
    """
    edges = np.full((matrix.shape[1], num_bins - 1), np.inf)
    inner = np.linspace(0, 1, num_bins + 1)[1:-1]
    for i, column in enumerate(matrix.T):
        values = np.sort(column[~np.isnan(column)].astype(np.float64))
        distinct = np.unique(values)
        if len(distinct) <= num_bins:
            found = (distinct[1:] + distinct[:-1]) / 2
        else:
            found = np.unique(np.quantile(values, inner, method="midpoint"))
        edges[i, : len(found)] = found
    return edges


def to_bins(matrix: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Bin of every number, float32 [N, columns]: how many edges lie below it. NaN stays NaN."""
    bins = np.empty(matrix.shape, dtype=np.float32)
    for i, column in enumerate(matrix.T):
        bins[:, i] = np.where(np.isnan(column), np.nan, np.searchsorted(edges[i], column))
    return bins
