"""The optimisers by name, with the settings that matter and the fastest implementation torch has."""

from typing import TYPE_CHECKING, Literal

from training_core.config import Config
from training_core.quantities import NonNegativeFloat, PositiveFloat, Rate

if TYPE_CHECKING:
    import torch
    from torch import nn

OptimizerKind = Literal["adamw", "adam", "sgd", "radam"]


class OptimizerConfig(Config):
    """How gradients become steps."""

    kind: OptimizerKind = "adamw"
    """adamw (Loshchilov & Hutter 2019, arXiv:1711.05101), adam (weight decay as an L2 term), sgd (Nesterov momentum)
    or radam (Liu et al. 2020, arXiv:1908.03265; decoupled decay)."""
    lr: PositiveFloat = 1e-3
    """Learning rate."""
    weight_decay: NonNegativeFloat = 1e-4
    """Pull of weights towards zero per unit of learning rate. Norms and biases, any parameter of one dimension,
    are left out."""
    momentum: Rate = 0.9
    """Nesterov momentum; sgd only."""

    def build(self, model: "nn.Module") -> "torch.optim.Optimizer":
        """The optimiser of the parameters of `model` that require gradients.

        adamw, adam and sgd are fused into one kernel; torch has no fused radam, which runs on lists of tensors.
        """
        import torch

        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        decayed = [parameter for parameter in parameters if parameter.ndim > 1]
        exempt = [parameter for parameter in parameters if parameter.ndim <= 1]
        groups = [
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
