"""Nets of one architecture as one: parameters, buffers and settings stacked, a row per learner."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from copy import deepcopy
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from training_core.engine.cohort.dropout import DropoutDraws
from training_core.errors import ConfigError


class StackedModel:
    """K nets of one architecture: trained parameters in one buffer [K, P], everything else stacked by name.

    Parameters of more than one dimension come first in a row, so that those that weight decay pulls at are one slice.
    The rates of `nn.Dropout` may differ between the nets.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        seeds: Sequence[int] | None = None,
        settings: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        """Copy the weights of `models`; the stack lies on their device.

        Args:
            models: the learners' nets.
            seeds: by which each learner's dropout draws, in [0, 2⁶³); by default their numbers.
            settings: numbers, one per learner, that an objective finds as buffers of the net it is given, by name.

        Raises:
            ConfigError: they cannot be stacked; the message says why.
        """
        if reason := why_not_stackable(models):
            raise ConfigError(f"these learners cannot be stacked: {reason}")
        self.template: nn.Module = deepcopy(models[0])
        """One of the nets, for `torch.func.functional_call`; its own weights mean nothing."""
        trained = [(name, p.shape) for name, p in models[0].named_parameters() if p.requires_grad]
        trained.sort(key=lambda pair: len(pair[1]) <= 1)  # stable: the order within either half stays
        self.shapes: dict[str, torch.Size] = dict(trained)
        """Trained parameters by name, in the order of their columns."""
        self.num_decayed: int = sum(shape.numel() for _, shape in trained if len(shape) > 1)
        """Leading columns that weight decay pulls at: parameters of more than one dimension."""
        named = [_tensors(model) for model in models]
        self.flat: Tensor = torch.stack(
            [torch.cat([tensors[name].detach().reshape(-1) for name in self.shapes]) for tensors in named]
        )
        """All trained parameters [K, P]."""
        self.buffers: dict[str, Tensor] = {
            name: torch.stack([tensors[name].detach() for tensors in named])
            for name in named[0]
            if name not in self.shapes
        }
        """What gradients do not change, [K, …] by name: buffers, parameters that are frozen, and what only the stack
        has, such as the rates of dropout."""
        self._dropout = DropoutDraws(models, range(len(models)) if seeds is None else seeds, self.flat.dtype)
        own = self._dropout.put_into(self.template, self.flat.device)
        for name, values in (settings or {}).items():
            self.template.register_buffer(name, torch.zeros(()), persistent=False)
            own[name] = torch.tensor(list(values), dtype=torch.float64).to(self.flat)
        self._own = frozenset(own)
        self.buffers |= own
        self.functions: dict[Hashable, Callable[..., Any]] = {}
        """Programs made for this number of learners; emptied whenever it changes."""

    @property
    def num_learners(self) -> int:
        """K."""
        return len(self.flat)

    def parameters_of(self, flat: Tensor) -> dict[str, Tensor]:
        """Views [K, *shape] by name of the columns of `flat` [K, P]."""
        sizes = [shape.numel() for shape in self.shapes.values()]
        pieces = flat.split(sizes, dim=1)
        return {
            name: piece.view(len(flat), *shape)
            for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)
        }

    def draw(self, num_updates: Sequence[int]) -> None:
        """Set what dropout drops in the next step, which comes after so many updates of each learner."""
        self._dropout.draw(self.buffers, num_updates)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with the learners `rows` only, in that order."""
        self._dropout.keep(rows)
        index = torch.tensor(list(rows), device=self.flat.device)
        self.flat = self.flat.index_select(0, index)
        self.buffers = {name: values[index] for name, values in self.buffers.items()}
        self.functions.clear()

    @torch.no_grad()
    def write_to(self, k: int, model: nn.Module) -> None:
        """Give `model`, a net of this architecture, the weights of learner `k`."""
        for name, tensor in self._row(k, model):
            tensor.copy_(self.parameters_of(self.flat)[name][k] if name in self.shapes else self.buffers[name][k])

    @torch.no_grad()
    def read_from(self, k: int, model: nn.Module) -> None:
        """Give learner `k` the weights of `model`, a net of this architecture."""
        places = {**self.parameters_of(self.flat), **self.buffers}
        for name, tensor in self._row(k, model):
            places[name][k].copy_(tensor)

    def train(self) -> Self:
        """Training mode, for all learners."""
        self.template.train()
        return self

    def eval(self) -> Self:
        """Evaluation mode, for all learners."""
        self.template.eval()
        return self

    def state_dict(self) -> dict[str, Any]:
        """All weights, live, and whose dropout draws by which seed."""
        return {"flat": self.flat, "buffers": dict(self.buffers), "seeds": self._dropout.seeds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave, with as many learners as it has.

        Raises:
            ConfigError: the state is of another architecture.
        """
        flat, buffers = state["flat"], state["buffers"]
        if flat.shape[1] != self.flat.shape[1] or set(buffers) != set(self.buffers):
            raise ConfigError(
                f"the state has {flat.shape[1]} parameters per learner, this stack {self.flat.shape[1]}; "
                "it was saved by another architecture"
            )
        if len(flat) != len(self.flat):
            self.flat = self.flat.new_empty(flat.shape)
            self.buffers = {name: self.buffers[name].new_empty(values.shape) for name, values in buffers.items()}
            self.functions.clear()
        self.flat.copy_(flat)
        for name, values in buffers.items():
            self.buffers[name].copy_(values)
        self._dropout.seeds = state["seeds"].cpu().clone()

    def _row(self, k: int, model: nn.Module) -> list[tuple[str, Tensor]]:
        """The tensors of `model` by name, after a look at whether they fit."""
        found = _tensors(model)
        expected = {name: tuple(shape) for name, shape in self.shapes.items()}
        expected |= {name: tuple(values.shape[1:]) for name, values in self.buffers.items() if name not in self._own}
        if {name: tuple(tensor.shape) for name, tensor in found.items()} != expected:
            raise ConfigError(f"the net given for learner {k} is not of the stack's architecture")
        return list(found.items())


def why_not_stackable(models: Sequence[nn.Module]) -> str | None:
    """Why nets cannot be trained as a stack, in words; None when nothing about them speaks against it.

    Whether their forward pass works on stacked parameters is only known once it is tried.
    """
    if not models:
        return "there is no net"
    first = models[0]
    for path, module in first.named_modules():
        where = f"'{path}' is a {type(module).__name__}"
        if isinstance(module, nn.RNNBase):
            return f"{where}, whose fused kernel a stack cannot use: one by one it is about twice as fast"
        if isinstance(module, _BatchNorm) or getattr(module, "track_running_stats", False):
            return f"{where}, which changes its running statistics as it trains"
        if loose := [name for name, value in vars(module).items() if isinstance(value, Tensor)]:
            return f"{where} whose tensor '{loose[0]}' is neither parameter nor buffer; register it as a buffer"
    trained = [p for p in first.parameters() if p.requires_grad]
    if not trained:
        return "no parameter requires a gradient"
    if len({p.dtype for p in trained}) > 1 or not trained[0].is_floating_point():
        return f"trained parameters have the types {', '.join(sorted({str(p.dtype) for p in trained}))}; expected one"
    description = describe(first)
    for number, model in enumerate(models[1:], start=1):
        if reason := _difference(description, describe(model)):
            return f"net {number} differs from net 0: {reason}"
    return None


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, each once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def describe(model: nn.Module) -> dict[str, Any]:
    """All that must be equal for two nets to run as one: modules, their attributes and modes, and forms of tensors.

    The rate of `nn.Dropout` is no part of it: each learner of a stack has its own.
    """
    found: dict[str, Any] = {}
    for path, module in model.named_modules():
        found[f"module '{path}'"] = type(module)
        for name, value in vars(module).items():
            if not name.startswith("_") and not (type(module) is nn.Dropout and name == "p"):
                found[f"'{name}' of module '{path}'"] = value
    for name, tensor in _tensors(model).items():
        found[f"tensor '{name}'"] = (tuple(tensor.shape), tensor.dtype, tensor.device, tensor.requires_grad)
    return found


def _is_equal(one: Any, other: Any) -> bool:
    """Whether two values are surely the same; what cannot say so is not."""
    try:
        return bool(one == other)
    except Exception:  # whatever a value's own comparison raises, such as that of arrays
        return False


def _difference(first: Mapping[str, Any], second: Mapping[str, Any]) -> str | None:
    for key in (*first, *second):
        if key not in first or key not in second:
            return f"only one of them has {key}"
        if not _is_equal(first[key], second[key]):
            return f"{key} is {second[key]} instead of {first[key]}"
    return None
