"""The losses and gradients of all learners of a stack as one function of tensors, in the forms it can be run in.

"stacked" is the traced program: `torch.func` says what the gradients are once, and from then on plain operations run,
without the cost of its transformations. "compiled" is the same program through torch's compiler. "graphed" replays
the whole step as a CUDA graph; it runs what "stacked" runs. K learners, B rows, P parameters.
"""

import ctypes
import logging
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call, functionalize, grad_and_value, vmap
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from training_core.engine.cohort.graphs import record, tidy, write_joined_result_into
from training_core.engine.cohort.stacked import StackedModel
from training_core.engine.training import Precision
from training_core.objectives import Loss, Objective
from training_core.schema import Batch

Form = Literal["stacked", "compiled", "graphed"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_KEPT_BYTES = 2**29  # at the top of the heap: more than the activations of a stack of small nets
_LARGEST_KEPT_BYTES = 2**25  # the most glibc allows

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Packing:
    """Which tensors of a batch a program is given, in which order."""

    names: tuple[str, ...]
    has_target: bool
    has_weight: bool
    has_present: bool

    @classmethod
    def of(cls, batch: Batch) -> "Packing":
        """The packing of batches like `batch`."""
        optional = (batch.target, batch.weight, batch.present)
        return cls(tuple(batch.inputs), *(tensor is not None for tensor in optional))

    def pack(self, batch: Batch) -> list[Tensor]:
        """The tensors of a batch."""
        wanted = [(batch.target, self.has_target), (batch.weight, self.has_weight), (batch.present, self.has_present)]
        optional = [tensor for tensor, is_there in wanted if is_there]
        found = [*(batch.inputs[name] for name in self.names), batch.available, *optional]
        return [tensor for tensor in found if tensor is not None]

    def unpack(self, tensors: Sequence[Tensor]) -> Batch:
        """A batch of the tensors that `pack` gave, or of one learner's part of each."""
        rest = list(tensors)
        inputs = {name: rest.pop(0) for name in self.names}
        available = rest.pop(0)
        target = rest.pop(0) if self.has_target else None
        weight = rest.pop(0) if self.has_weight else None
        return Batch(inputs, available, target, weight, present=rest.pop(0) if self.has_present else None)


def shapes_of(tensors: Sequence[Tensor]) -> Hashable:
    """What a program is made for: shapes and types."""
    return tuple((tuple(tensor.shape), tensor.dtype) for tensor in tensors)


def settings_of(objective: Any) -> Hashable:
    """The plain values in an objective and in what it is made of: when they change, its program must be made anew."""
    seen: set[int] = set()

    def look(value: Any) -> Hashable:
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if id(value) in seen:
            return None
        seen.add(id(value))
        if isinstance(value, Tensor):
            return id(value), value._version
        if isinstance(value, Mapping):
            return tuple((str(key), look(part)) for key, part in value.items())
        if isinstance(value, list | tuple):
            return tuple(look(part) for part in value)
        if isinstance(value, FunctionType) or not hasattr(value, "__dict__"):
            return id(value)
        return type(value).__qualname__, look(vars(value))

    return look(objective)


@dataclass(frozen=True)
class Judgement:
    """What a program found, one number per learner in every tensor."""

    losses: dict[str, Tensor]
    """`loss` [K] and, when the objective has several, its terms."""
    weight: Tensor
    """What the losses are means over: the sum of the samples' weights, [K]."""
    gradients: Tensor | None = None
    """[K, P], in memory that the next call overwrites; None when none were asked for."""


class StackedProgram:
    """Judges every learner of a stack on its own rows: one program, made for one number of learners and rows.

    The objective must be a pure function of the model, the batch and torch's global generator: what else it reads is
    read once, when the program is made.
    """

    def __init__(
        self,
        model: StackedModel,
        objective: Objective,
        batch: Batch,
        *,
        gradients: bool,
        precision: Precision = "float32",
        compiled: bool = False,
    ) -> None:
        """Make the program; `batch` is one of those it will be given. No random number is drawn.

        Args:
            model: the stack, in the mode it will be run in.
            objective: what is judged by.
            batch: the tensors of one step, [K, B, …].
            gradients: whether gradients are wanted too.
            precision: of the forward pass and, with it, the backward pass.
            compiled: whether torch's compiler is asked; where it fails, the traced program stays.

        Raises:
            Exception: the learners' forward pass, or the objective, does not work on stacked parameters; whatever
                torch said.
        """
        self._packing = Packing.of(batch)
        self._model = model
        self._terms: tuple[str, ...] = ()
        self._judged = _Judged(model.template, objective)
        self._precision = precision
        self._gradients = gradients
        self._buffers = list(model.buffers)
        example = self._arguments(model, batch)
        device = model.flat.device
        with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            self._run, self.how = self._make(example, compiled)

    def __call__(self, model: StackedModel, batch: Batch) -> Judgement:
        """Judge; `model` and `batch` are of the shapes the program was made for."""
        with torch.no_grad():
            results = list(self._run(*self._arguments(model, batch)))
        found = results.pop(0) if self._gradients else None
        total, *terms, weight = results
        losses = {"loss": total}
        if len(terms) > 1:
            losses |= dict(zip(self._terms, terms, strict=True))
        return Judgement(losses, weight, found)

    def _arguments(self, model: StackedModel, batch: Batch) -> list[Tensor]:
        return [model.flat, *(model.buffers[name] for name in self._buffers), *self._packing.pack(batch)]

    def _make(self, example: list[Tensor], compiled: bool) -> tuple[Callable[..., Sequence[Tensor]], str]:
        """The fastest program that works, and its name."""
        plain = self._all_learners
        plain(*example)  # what fails here does not work on stacked parameters at all
        try:
            traced = tidy(record(functionalize(plain), example), example)
            traced(*example)
        except Exception as error:
            _log.warning("a stack of %s is not traced but vectorised anew in every step: %s", self._who, error)
            return plain, "vectorised"
        if compiled:
            try:
                program = _compile(traced, example)
            except Exception as error:
                _log.warning("a stack of %s is not compiled: %s", self._who, str(error).split("\n", 1)[0])
            else:
                return program, "compiled"
        if self._gradients:
            write_joined_result_into(traced, torch.empty_like(example[0]))
        return traced, "traced"

    @property
    def _who(self) -> str:
        return type(self._model.template).__name__

    def _all_learners(self, flat: Tensor, *rest: Tensor) -> list[Tensor]:
        """[gradients,] total, terms and weight of all learners."""
        parameters = self._model.parameters_of(flat)
        buffers, tensors = rest[: len(self._buffers)], rest[len(self._buffers) :]
        if not self._gradients:
            _, results = vmap(self._one_learner, randomness="different")(parameters, buffers, tensors)
            return results
        judge = vmap(grad_and_value(self._one_learner, has_aux=True), randomness="different")
        gradients, (_, results) = judge(parameters, buffers, tensors)
        return [torch.cat([gradients[name].flatten(1) for name in parameters], dim=1), *results]

    def _one_learner(
        self, parameters: dict[str, Tensor], buffers: Sequence[Tensor], tensors: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        batch = self._packing.unpack(tensors)
        weights = {**parameters, **dict(zip(self._buffers, buffers, strict=True))}
        with self._autocast(batch.available.device):
            loss = functional_call(self._judged, {f"model.{name}": value for name, value in weights.items()}, (batch,))
        self._terms = tuple(loss.terms)
        weight = loss.weight
        if weight is None:
            weight = torch.ones_like(loss.total) * len(batch) if batch.weight is None else batch.weight.sum()
        return loss.total, [loss.total, *loss.terms.values(), weight]

    @contextmanager
    def _autocast(self, device: torch.device) -> Iterator[None]:
        if self._precision == "float32":
            yield
            return
        with torch.autocast(device.type, torch.bfloat16), _NormsInFloat32():
            yield


def _compile(traced: fx.GraphModule, example: list[Tensor]) -> Callable[..., Sequence[Tensor]]:
    """The program through torch's compiler.

    Not `torch.compile`: that would find out once more, in Python, what the program is, and look before every step
    whether it still is; for small nets that takes a fifth of the step.
    """
    import torch._inductor

    program: Any = torch._inductor.compile(deepcopy(traced), list(example))
    program(*example)
    if example[0].device.type == "cpu":
        _keep_freed_memory()
    return program


def _keep_freed_memory() -> None:
    """Ask the C library to keep what is freed for the next step, instead of giving it back and asking for it anew.

    A compiled program allocates all it needs in each step: some megabytes, whose pages the system would hand out, one
    fault each, again and again; steps of 64 small nets take half the time without that. Where the C library is not
    glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES)


class _NormsInFloat32(TorchFunctionMode):
    """Autocast leaves norms in float32 on a GPU; on the CPU they get mixed types, which vectorised they do not take."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (functional.layer_norm, functional.group_norm):
            args = (args[0].float(), *args[1:])
        return func(*args, **(kwargs or {}))


class _Judged(nn.Module):
    """A net and what it is judged by, so that the objective is given a real net whose weights are a learner's."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self._judge = (objective,)  # in a tuple: the parameters of an objective are not the net's

    def forward(self, batch: Batch) -> Loss:
        return self._judge[0](self.model, batch)
