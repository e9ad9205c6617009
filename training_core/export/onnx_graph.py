"""The one door to ONNX: an ensemble's graph written as `model.onnx`."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training_core.errors import ConfigError
from training_core.export.graph import EnsembleGraph
from training_core.export.graph.trees import TreeNode, TreeSum, tree_attributes


@dataclass(frozen=True)
class TensorInterface:
    """A tensor that a written model takes or gives."""

    name: str
    dtype: str
    """As ONNX calls it: FLOAT, DOUBLE, INT64, BOOL, …"""
    shape: tuple[int | None, ...]
    """None where any size will do."""


EXTERNAL_BYTES = 1 << 30
"""Weights beyond this stand in a file beside the model: one message cannot hold more than 2 GB."""


def export_program(
    graph: EnsembleGraph, tensors: Sequence[Tensor], *, tree_nodes: bool
) -> torch.export.ExportedProgram:
    """`graph` traced for any number of rows.

    Args:
        graph: what to trace.
        tensors: inputs to trace it with, at least two rows.
        tree_nodes: whether trees become one node each, which ONNX knows and torch does not.
    """
    rows = torch.export.Dim("rows", min=1)
    pieces = [torch.export.Dim(f"pieces_{i}", min=1) for i in range(len(graph.inputs))]
    shapes = [
        {0: rows} if given.shape else {0: rows, 1: pieces[_partner(graph, i)]} for i, given in enumerate(graph.inputs)
    ]
    with _trees_as_nodes(graph) if tree_nodes else contextlib.nullcontext(), torch.no_grad():
        return torch.export.export(graph, tuple(tensors), dynamic_shapes=((*shapes, {0: rows}),))


def write_onnx(graph: EnsembleGraph, tensors: Sequence[Tensor], path: Path) -> None:
    """Write `graph` to `path`.

    Raises:
        ConfigError: the packages of the extra `export` are not installed, or a net cannot be traced.
    """
    try:
        from onnxscript import ir, values
    except ImportError as error:
        raise ConfigError(f"export needs {error.name}; install it with pip install 'polychoir[export]'") from error
    from torch._dynamo.exc import UserError as UntraceableError

    walks = [module for module in graph.modules() if isinstance(module, TreeSum)]
    trees = values.Opset("ai.onnx.ml", 5)

    def as_node(matrix: Any, key: int, num_trees: int) -> Any:
        attributes = {
            name: ir.tensor(value) if name in {"nodes_modes", "nodes_splits", "leaf_weights"} else _plain(value)
            for name, value in tree_attributes(walks[key]).items()
        }
        return trees.TreeEnsemble(matrix, **attributes)

    with _quiet():
        try:
            program = export_program(graph, tensors, tree_nodes=True)
            torch.onnx.export(
                program,
                (),
                path,
                dynamo=True,
                input_names=list(graph.input_names),
                output_names=list(graph.output_names),
                external_data=sum(buffer.nbytes for buffer in graph.state_dict().values()) > EXTERNAL_BYTES,
                custom_translation_table={torch.ops.polychoir.tree_leaves.default: as_node},
                verbose=False,
            )
        except (torch.onnx.OnnxExporterError, UntraceableError) as error:
            kinds = ", ".join(sorted({member.kind for member in graph.members}))
            raise ConfigError(
                f"one of the learners ({kinds}) does something that ONNX has no operation for; leave its kind out when"
                " training (--verbose shows what the exporter says)"
            ) from error


def read_interface(path: Path) -> tuple[tuple[TensorInterface, ...], tuple[TensorInterface, ...]]:
    """What the model in `path` takes and what it gives, in its own order."""
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph

    def told(values: Any) -> tuple[TensorInterface, ...]:
        return tuple(
            TensorInterface(
                value.name,
                onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type),
                tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim),
            )
            for value in values
        )

    return told(graph.input), told(graph.output)


def _partner(graph: EnsembleGraph, place: int) -> int:
    """The input that shares its number of pieces with that at `place`: numbers and counts of the same pieces do."""
    given = graph.inputs[place]
    return next(
        i for i, one in enumerate(graph.inputs) if (one.modality, one.analyzer) == (given.modality, given.analyzer)
    )


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


@contextlib.contextmanager
def _trees_as_nodes(graph: EnsembleGraph) -> Iterator[None]:
    walks = [module for module in graph.modules() if isinstance(module, TreeSum)]
    for key, module in enumerate(walks):
        module.walk = TreeNode(key, module.num_trees)
    try:
        yield
    finally:
        for module in walks:
            module.walk = None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter talks of libraries that are not there and of its own deprecations."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
