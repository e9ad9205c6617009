"""A trained ensemble as one torch module, from raw inputs and a mask of what is there to calibrated answers.

It is what every exported format is made from; numbers are those of `selection.ensemble.Ensemble`.
"""

from training_core.export.graph.ensemble_graph import EnsembleGraph, GraphInput, graph_inputs, make_graph

__all__ = ["EnsembleGraph", "GraphInput", "graph_inputs", "make_graph"]
