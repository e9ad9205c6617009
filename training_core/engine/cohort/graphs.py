"""Tidying a traced program: what vectorising leaves behind is taken out, so that small nets do not pay for it.

`torch.vmap` wraps every operation in views and expansions that change nothing and asks for the same constant again
and again; with small nets each of those takes as long as real work. Programs here are made of pure operations on
tensors of fixed shapes (`torch.func.functionalize`), which is what allows to reorder, share and keep their results.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

_aten = torch.ops.aten
_FILLED = {
    _aten.zeros_like.default,
    _aten.ones_like.default,
    _aten.full_like.default,
    _aten.empty_like.default,
    _aten.new_zeros.default,
    _aten.new_ones.default,
    _aten.new_full.default,
    _aten.new_empty.default,
}
"""Operations that look at a tensor's shape only, so that their result is a constant."""
_RESHAPES = {_aten.view.default, _aten._unsafe_view.default}
_NOT_COPYING = {*_RESHAPES, _aten.expand.default, _aten.permute.default, _aten.slice.Tensor}
_SCALINGS = {_aten.mul.Scalar, _aten.div.Scalar}


class _Tape(TorchDispatchMode):
    """Writes down every operation that reaches the tensors themselves, below vectorising and differentiating.

    `make_fx` does the same and works out the form of every result on imaginary tensors beside it, which for a net of
    some hundred operations takes seconds, ten times as long as this.
    """

    def __init__(self, arguments: Sequence[Tensor]) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self.constants = nn.Module()
        self._nodes: dict[int, fx.Node] = {}
        self._tensors: list[Tensor] = []  # kept alive: a tensor is known by its address
        for number, argument in enumerate(arguments):
            self._note(argument, self.graph.placeholder(f"argument_{number}"))

    def node_of(self, value: Any) -> Any:
        """The node of a tensor, a constant of its own where nothing written down made it; other values as they are."""
        if not isinstance(value, Tensor):
            return value
        if id(value) not in self._nodes:
            name = f"given_{len(self._nodes)}"
            self.constants.register_buffer(name, value, persistent=False)
            self._note(value, self.graph.get_attr(name))
        return self._nodes[id(value)]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        node = self.graph.call_function(func, tree_map(self.node_of, tuple(args)), tree_map(self.node_of, kwargs or {}))
        if isinstance(result, Tensor):
            self._note(result, node)
        elif isinstance(result, list | tuple):
            for place, part in enumerate(result):
                if isinstance(part, Tensor):
                    self._note(part, self.graph.call_function(operator.getitem, (node, place)))
        return result

    def _note(self, tensor: Tensor, node: fx.Node) -> None:
        self._nodes[id(tensor)] = node
        self._tensors.append(tensor)


def record(function: Callable[..., Sequence[Tensor]], example: Sequence[Tensor]) -> fx.GraphModule:
    """What `function` does to tensors of the shapes of `example`, as a program of plain operations.

    Its own control flow is followed once. A tensor it uses that is no argument becomes a constant.
    """
    tape = _Tape(example)
    with tape:
        results = function(*example)
    tape.graph.output([tape.node_of(result) for result in results])
    return fx.GraphModule(tape.constants, tape.graph)


@dataclass(frozen=True)
class _Form:
    """What is known of a node's result."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype


class _Recorder(fx.Interpreter):
    """Runs a program once and notes the form of every result, and the results that are always the same."""

    def __init__(self, program: fx.GraphModule) -> None:
        super().__init__(program)
        self.forms: dict[fx.Node, _Form] = {}
        self.constants: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.forms[n] = _Form(result.shape, result.stride(), result.dtype)
        if n.op == "get_attr" or (n.op == "call_function" and not _is_random(n) and self._is_constant(n)):
            self.constants[n] = result
        return result

    def _is_constant(self, node: fx.Node) -> bool:
        return node.target in _FILLED or all(source in self.constants for source in node.all_input_nodes)


def tidy(program: fx.GraphModule, example: list[Tensor]) -> fx.GraphModule:
    """The same program with fewer operations; `example` are arguments of the shapes it will be run with.

    Random operations stay in their order, so they draw the same numbers.
    """
    recorder = _Recorder(program)
    recorder.run(*example)
    graph, forms = program.graph, recorder.forms
    _keep_constants(program, recorder)
    for change in (_skip_what_changes_nothing, _share_equal_results, _join_bias_and_product):
        change(graph, forms)
        graph.eliminate_dead_code()  # the next looks at who uses a result
    graph.lint()
    program.recompile()
    program.delete_all_unused_submodules()
    return program


def _keep_constants(program: fx.GraphModule, recorder: _Recorder) -> None:
    """Results that are always the same are computed once."""
    for number, (node, value) in enumerate(recorder.constants.items()):
        if node.op == "get_attr" or not isinstance(value, Tensor):
            continue
        if all(user in recorder.constants for user in node.users):  # only the way to another constant
            continue
        name = f"constant_{number}"
        program.register_buffer(name, value, persistent=False)
        with program.graph.inserting_before(node):
            kept = program.graph.get_attr(name)
        recorder.forms[kept] = recorder.forms[node]
        node.replace_all_uses_with(kept)


def _skip_what_changes_nothing(graph: fx.Graph, forms: dict[fx.Node, _Form]) -> None:
    """Views of the same shape, products with 1, two transpositions that cancel, a view of a view."""
    for node in list(graph.nodes):
        source = node.args[0] if node.args else None
        if node.op != "call_function" or not isinstance(source, fx.Node) or source not in forms or node not in forms:
            continue
        form, before = forms[node], forms[source]
        if form == before and node.target in _NOT_COPYING:
            node.replace_all_uses_with(source)
        elif (
            node.target in _SCALINGS and node.args[1] == 1 and (form.shape, form.dtype) == (before.shape, before.dtype)
        ):
            for user in [user for user in node.users if user.target in _RESHAPES]:
                user.target = _aten.reshape.default  # what is not multiplied any more need not be contiguous
            node.replace_all_uses_with(source)
        elif node.target is _aten.transpose.int and source.target is _aten.transpose.int:
            axes = [{int(str(axis)) % len(form.shape) for axis in n.args[1:]} for n in (node, source)]
            if axes[0] == axes[1]:
                node.replace_all_uses_with(source.args[0])
        elif node.target in _RESHAPES and source.target in _RESHAPES:
            origin = source.args[0]
            if isinstance(origin, fx.Node) and _is_contiguous(forms[origin]):
                node.args = (origin, *node.args[1:])


def _share_equal_results(graph: fx.Graph, forms: dict[fx.Node, _Form]) -> None:
    """The same operation on the same arguments is done once."""
    seen: dict[Any, fx.Node] = {}
    for node in list(graph.nodes):
        if node.op != "call_function" or _is_random(node):
            continue
        key = repr((str(node.target), node.args, sorted(node.kwargs.items())))  # nodes are written as unique names
        if key in seen:
            node.replace_all_uses_with(seen[key])
        else:
            seen[key] = node


def _join_bias_and_product(graph: fx.Graph, forms: dict[fx.Node, _Form]) -> None:
    """Products of stacks, x @ w, and the bias [K, 1, N] that is added to them, as one operation."""
    for node in list(graph.nodes):
        if node.target is not _aten.add.Tensor or node.kwargs or len(node.args) != 2:
            continue
        for bias, product in (node.args, node.args[::-1]):
            fits = isinstance(product, fx.Node) and product.target is _aten.bmm.default and len(product.users) == 1
            if not fits or not isinstance(bias, fx.Node) or bias not in forms:
                continue
            is_row = len(forms[bias].shape) == 3 and forms[bias].shape[1] == 1
            if is_row and forms[bias].dtype == forms[product].dtype and forms[node].shape == forms[product].shape:
                with graph.inserting_before(node):
                    joined = graph.call_function(_aten.baddbmm.default, (bias, *product.args))
                forms[joined] = forms[node]
                node.replace_all_uses_with(joined)
                break


def write_joined_result_into(program: fx.GraphModule, place: Tensor) -> bool:
    """Let the program's first result, when it is a concatenation, be written into `place` instead of new memory.

    Returns:
        Whether it was one; if not, nothing is changed.
    """
    output = next(iter(reversed(program.graph.nodes)))
    first = output.args[0][0]
    if not isinstance(first, fx.Node) or first.target is not _aten.cat.default:
        return False
    program.register_buffer("joined", place, persistent=False)
    with program.graph.inserting_before(first):
        out = program.graph.get_attr("joined")
        written = program.graph.call_function(_aten.cat.out, first.args, {"out": out})
    first.replace_all_uses_with(written)
    program.graph.erase_node(first)
    program.recompile()
    return True


def _is_random(node: fx.Node) -> bool:
    target: Callable[..., Any] | str = node.target
    if target is operator.getitem:
        return False
    tags = getattr(target, "tags", ())
    return torch.Tag.nondeterministic_seeded in tags


def _is_contiguous(form: _Form) -> bool:
    expected = 1
    for size, stride in zip(reversed(form.shape), reversed(form.stride), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True
