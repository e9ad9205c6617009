"""The optimisers by name, with the settings that matter and the fastest implementation there is."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from training_core.config import Config
from training_core.errors import ConfigError
from training_core.quantities import NonNegativeFloat, PositiveFloat, Rate, SearchChoices, SearchRange

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

OptimizerKind = Literal["adamw", "adam", "sgd", "radam", "lion", "sophia"]

SearchedOptimizer = Annotated[OptimizerKind, SearchChoices("adamw", "adam", "sgd", "radam")]
"""Those that need no extra are worth trying."""
LearningRate = Annotated[PositiveFloat, SearchRange(1e-4, 1e-2, log=True)]
WeightDecay = Annotated[NonNegativeFloat, SearchRange(1e-6, 1e-1, log=True)]

CURVATURE_PERIOD = 10
"""Updates between two estimates of the curvature (Liu et al. 2023, arXiv:2305.14342, section 3.1: k = 10)."""


class OptimizerConfig(Config):
    """How gradients become steps."""

    kind: SearchedOptimizer = "adamw"
    """adamw (Loshchilov & Hutter 2019, arXiv:1711.05101), adam (weight decay as an L2 term), sgd (Nesterov momentum),
    radam (Liu et al. 2020, arXiv:1908.03265; decoupled decay), lion (Chen et al. 2023, arXiv:2302.06675; a third to a
    tenth of adamw's learning rate) or sophia (Liu et al. 2023, arXiv:2305.14342, with Hutchinson's estimate). The last
    two come with `pip install polychoir[optimizers]`."""
    lr: LearningRate = 1e-3
    """Learning rate."""
    weight_decay: WeightDecay = 1e-4
    """Pull of weights towards zero per unit of learning rate. Norms and biases, any parameter of one dimension,
    are left out."""
    momentum: Rate = 0.9
    """Nesterov momentum; sgd only."""

    @property
    def curvature_period(self) -> int:
        """Every how many updates, from the first on, `step` must be given an estimate of the curvature; 0: never."""
        return CURVATURE_PERIOD if self.kind == "sophia" else 0

    def check_available(self) -> None:
        """Find out whether the optimiser can be built here, without building one: torch's own take seconds to import.

        Raises:
            ConfigError: it comes with an extra that is not installed.
        """
        if self.kind in ("lion", "sophia"):
            self._extra()

    def build(self, model: "nn.Module") -> "Optimizer":
        """The optimiser of all floating-point parameters of `model`.

        Those frozen at the moment are among them: a parameter without a gradient is passed over, so freezing and
        unfreezing later needs no other optimiser. adamw, adam and sgd are fused into one kernel; the others, for
        which torch has none, run on lists of tensors.

        Raises:
            ConfigError: the optimiser comes with an extra that is not installed.
        """
        import torch

        parameters = [parameter for parameter in model.parameters() if parameter.is_floating_point()]
        decayed = [parameter for parameter in parameters if parameter.ndim > 1]
        exempt = [parameter for parameter in parameters if parameter.ndim <= 1]
        groups: list[dict[str, Any]] = [
            {"params": members, "weight_decay": decay}
            for members, decay in ((decayed, self.weight_decay), (exempt, 0.0))
            if members
        ]
        match self.kind:
            case "adamw":
                return torch.optim.AdamW(groups, lr=self.lr, fused=True)
            case "adam":
                return torch.optim.Adam(groups, lr=self.lr, fused=True)
            case "sgd":
                return torch.optim.SGD(
                    groups, lr=self.lr, momentum=self.momentum, nesterov=self.momentum > 0, fused=True
                )
            case "radam":
                return torch.optim.RAdam(groups, lr=self.lr, decoupled_weight_decay=True, foreach=True)
            case "lion":
                return self._extra().Lion(groups, lr=self.lr)
            case "sophia":
                return self._extra().SophiaH(groups, lr=self.lr, update_period=CURVATURE_PERIOD)

    def _extra(self) -> Any:
        """The package that has the optimisers torch has not."""
        try:
            import pytorch_optimizer
        except ImportError as error:
            raise ConfigError(
                f"the optimiser '{self.kind}' comes with an extra: `pip install polychoir[optimizers]`, "
                "or choose adamw, adam, sgd or radam"
            ) from error
        return pytorch_optimizer
