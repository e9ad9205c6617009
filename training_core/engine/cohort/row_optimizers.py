"""Optimisers of a stack of learners: every row of a [K, P] buffer is one learner's parameters, with its own settings.

They follow the optimisers that `OptimizerConfig` builds, learner by learner. K learners, P parameters of one; the
first `num_decayed` columns are those that weight decay pulls at.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from training_core.engine.updates.optimizers import OptimizerConfig
from training_core.errors import ConfigError

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8
"""Decay of the moments and guard of the division, as in torch (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1)."""


class RowOptimizer(ABC):
    """What turns gradients [K, P] into steps of the parameters [K, P].

    Settings are columns [K, 1] on the device, written in place when they change, so that a captured step sees them.
    """

    moments: tuple[str, ...] = ()
    """The buffers [K, P] it keeps beside the parameters."""

    def __init__(self, configs: Sequence[OptimizerConfig], parameters: Tensor, num_decayed: int) -> None:
        """Start with moments of zero and no step made, for `parameters` [K, P]."""
        self._configs = list(configs)
        self._num_decayed = num_decayed
        self._decays = num_decayed > 0 and any(config.weight_decay > 0 for config in configs)
        self.state = {name: torch.zeros_like(parameters) for name in self.moments}
        # Whole numbers; float32 because torch's fused kernels read nothing else. They count exactly to 16.7 million,
        # and the bias corrections made of them are computed in float64: in float32 they drift (1 - 0.999^t).
        self.state["steps"] = torch.zeros(len(parameters), 1, device=parameters.device)
        self._columns: dict[str, Tensor] = {}
        self._column("momentum", [config.momentum for config in configs], parameters)
        self._column("weight_decay", [config.weight_decay for config in configs], parameters)
        self._column("lr", [config.lr for config in configs], parameters)
        self._column("shrink", [1 - config.lr * config.weight_decay for config in configs], parameters)

    def set_learning_rates(self, rates: Sequence[float]) -> None:
        """The learning rates of the next steps, one per learner."""
        shrink = [1 - lr * config.weight_decay for lr, config in zip(rates, self._configs, strict=True)]
        for name, values in (("lr", list(rates)), ("shrink", shrink)):
            column = self._columns[name]
            column.copy_(torch.tensor(values, dtype=torch.float64).view(-1, 1), non_blocking=True)

    def step(self, parameters: Tensor, gradients: Tensor) -> None:
        """One step of every learner; both [K, P]. `gradients` is used as room to work in."""
        self.advance(parameters, gradients, self.state, self._columns)

    def step_rows(self, parameters: Tensor, gradients: Tensor, rows: Tensor) -> None:
        """One step of the learners `rows` (int64); nothing of the others changes."""
        state, columns = (
            {name: values.index_select(0, rows) for name, values in group.items()}
            for group in (self.state, self._columns)
        )
        moved = parameters.index_select(0, rows)
        self.advance(moved, gradients.index_select(0, rows), state, columns)
        parameters.index_copy_(0, rows, moved)
        for name, values in state.items():
            self.state[name].index_copy_(0, rows, values)

    def step_where(self, parameters: Tensor, gradients: Tensor, active: Tensor) -> None:
        """As `step_rows` for a mask, bool [K]: more work, but neither the host nor a shape depends on what it says."""
        everything = [parameters, *self.state.values()]
        before = [values.clone() for values in everything]
        self.step(parameters, gradients)
        for new, old in zip(everything, before, strict=True):
            torch.where(active.view(-1, 1), new, old, out=new)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some of the learners only."""
        index = torch.tensor(list(rows), device=self.state["steps"].device)
        self._configs = [self._configs[row] for row in rows]
        self.state = {name: values.index_select(0, index) for name, values in self.state.items()}
        self._columns = {name: values.index_select(0, index) for name, values in self._columns.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """The moments and how many steps each learner made."""
        return dict(self.state)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` gave, for as many learners as there are."""
        for name, values in state.items():
            self.state[name].copy_(values)

    @abstractmethod
    def advance(
        self, parameters: Tensor, gradients: Tensor, state: Mapping[str, Tensor], columns: Mapping[str, Tensor]
    ) -> None:
        """One step of all rows that are given, in place; `gradients` may be overwritten."""

    def _column(self, name: str, values: Sequence[float], parameters: Tensor) -> None:
        column = torch.tensor(list(values), dtype=torch.float64).view(-1, 1)
        self._columns[name] = column.to(parameters.device, parameters.dtype)

    def _add_decay(self, parameters: Tensor, gradients: Tensor, columns: Mapping[str, Tensor]) -> None:
        """Weight decay as a term of the loss, ½ · weight_decay · ‖θ‖²."""
        if self._decays:
            decayed = slice(self._num_decayed)
            gradients[:, decayed].addcmul_(parameters[:, decayed], columns["weight_decay"])

    def _shrink(self, parameters: Tensor, columns: Mapping[str, Tensor]) -> None:
        """Decoupled weight decay: θ ← (1 - lr · weight_decay) θ (Loshchilov & Hutter 2019, arXiv:1711.05101)."""
        if self._decays:
            parameters[:, : self._num_decayed].mul_(columns["shrink"])


class Adam(RowOptimizer):
    """Adam (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1), weight decay as a term of the loss.

    The arithmetic is torch's fused kernel on one view per row, which has its own step count but the learning rate of
    all: so it is run with a rate of 1 on a buffer of zeros, and what is found there is added with each row's own.
    """

    moments = ("first_moment", "second_moment")

    def __init__(self, configs: Sequence[OptimizerConfig], parameters: Tensor, num_decayed: int) -> None:
        """As for all of them."""
        super().__init__(configs, parameters, num_decayed)
        self._room = torch.zeros_like(parameters)
        self._views: dict[str, tuple[Tensor, list[Tensor]]] = {}

    def advance(
        self, parameters: Tensor, gradients: Tensor, state: Mapping[str, Tensor], columns: Mapping[str, Tensor]
    ) -> None:
        """θ ← θ - lr · m̂ / (√v̂ + ε)."""
        self._add_decay(parameters, gradients, columns)
        self._descend(parameters, gradients, state, columns)

    def _descend(
        self, parameters: Tensor, gradients: Tensor, state: Mapping[str, Tensor], columns: Mapping[str, Tensor]
    ) -> None:
        state["steps"].add_(1)
        steps = self._zeros(parameters)
        first, second = (self._rows(name, state[name]) for name in self.moments)
        torch._fused_adam_(  # pyright: ignore[reportPrivateImportUsage]
            self._rows("moves", steps),
            self._rows("gradients", gradients),
            first,
            second,
            [],
            self._rows("steps", state["steps"]),
            lr=1.0,
            beta1=BETA_1,
            beta2=BETA_2,
            weight_decay=0.0,
            eps=EPSILON,
            amsgrad=False,
            maximize=False,
        )
        parameters.addcmul_(steps, columns["lr"])

    def _zeros(self, parameters: Tensor) -> Tensor:
        """Zeros like `parameters`, in memory that is used again as long as the number of rows stays."""
        if self._room.shape != parameters.shape:
            self._room = torch.zeros_like(parameters)
            return self._room
        return self._room.zero_()

    def _rows(self, name: str, values: Tensor) -> list[Tensor]:
        """A view of each row; kept, because making them takes as long as using them."""
        kept = self._views.get(name)
        if kept is None or kept[0] is not values:
            kept = self._views[name] = (values, list(values.unbind()))
        return kept[1]


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2)."""

    def advance(
        self, parameters: Tensor, gradients: Tensor, state: Mapping[str, Tensor], columns: Mapping[str, Tensor]
    ) -> None:
        """Shrink, then Adam's step."""
        self._shrink(parameters, columns)
        self._descend(parameters, gradients, state, columns)


class SGD(RowOptimizer):
    """Gradient descent with Nesterov momentum, as torch has it (Sutskever et al. 2013, eq. 3, 4); decay as L2 term."""

    moments = ("velocity",)

    def advance(
        self, parameters: Tensor, gradients: Tensor, state: Mapping[str, Tensor], columns: Mapping[str, Tensor]
    ) -> None:
        """The velocity, v ← μ v + g, then θ ← θ - lr (g + μ v)."""
        self._add_decay(parameters, gradients, columns)
        state["steps"].add_(1)
        velocity = state["velocity"]
        velocity.mul_(columns["momentum"]).add_(gradients)
        gradients.addcmul_(velocity, columns["momentum"])
        parameters.addcmul_(gradients, columns["lr"], value=-1)


class RAdam(RowOptimizer):
    """Rectified Adam (Liu et al. 2020, arXiv:1908.03265, algorithm 2), as torch has it, with decoupled weight decay."""

    moments = ("first_moment", "second_moment")

    def advance(
        self, parameters: Tensor, gradients: Tensor, state: Mapping[str, Tensor], columns: Mapping[str, Tensor]
    ) -> None:
        """Adam's step times the rectification once its variance is tractable (ρ > 5), else momentum alone."""
        self._shrink(parameters, columns)
        steps = state["steps"].add_(1).double()
        power = BETA_2**steps
        correction_1, correction_2 = 1 - BETA_1**steps, 1 - power
        limit = 2 / (1 - BETA_2) - 1
        length = limit - 2 * steps * power / correction_2  # ρ_t
        ratio = (length - 4) * (length - 2) * limit / ((limit - 4) * (limit - 2) * length)
        scale = (ratio.clamp(min=0).sqrt() * correction_2.sqrt()).to(parameters.dtype)
        state["first_moment"].lerp_(gradients, 1 - BETA_1)
        state["second_moment"].mul_(BETA_2).addcmul_(gradients, gradients, value=1 - BETA_2)
        adaptive = scale / state["second_moment"].sqrt().add_(EPSILON)
        move = torch.where(length > 5, adaptive, torch.ones_like(adaptive)).mul_(state["first_moment"])
        parameters.addcmul_(move, (columns["lr"] / correction_1).to(parameters.dtype), value=-1)


_KINDS: dict[str, type[RowOptimizer]] = {"adamw": AdamW, "adam": Adam, "sgd": SGD, "radam": RAdam}


def why_no_row_optimizer(configs: Sequence[OptimizerConfig]) -> str | None:
    """Why learners with these optimisers cannot share a stack, in words; None when they can."""
    kinds = sorted({config.kind for config in configs})
    if len(kinds) > 1:
        return f"the learners have different optimisers: {', '.join(kinds)}"
    return None if kinds[0] in _KINDS else f"optimiser {kinds[0]} has no form for a stack of learners"


def build_row_optimizer(configs: Sequence[OptimizerConfig], parameters: Tensor, num_decayed: int) -> RowOptimizer:
    """The optimiser of `parameters` [K, P], row k with the settings of `configs[k]`.

    Raises:
        ConfigError: the kinds differ, or there is no such optimiser for rows.
    """
    if reason := why_no_row_optimizer(configs):
        raise ConfigError(f"{reason}; train these learners one by one (`stacking: never`)")
    return _KINDS[configs[0].kind](configs, parameters, num_decayed)
