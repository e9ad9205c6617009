"""The diagonal of the Hessian, estimated from a second pass backward: what sophia divides its steps by."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def differentiate_twice(loss: Tensor, factor: float | Tensor | None, parameters: list[Tensor]) -> list[Tensor]:
    """Add the gradients of `factor · loss` to those of `parameters`, as `backward` does, and estimate the curvature.

    Hutchinson's estimate of the diagonal of the Hessian of `loss`: u ⊙ ∇(u · ∇loss) for a normal u (Liu et al. 2023,
    arXiv:2305.14342, algorithm 1). One draw: the optimiser averages over updates.

    Returns:
        The estimate for each of `parameters`; zero for one that is frozen or that the loss does not reach.
    """
    reached = [parameter for parameter in parameters if parameter.requires_grad]
    gradients: tuple[Any, ...] = torch.autograd.grad(loss, reached, create_graph=True, allow_unused=True)
    pairs = [(p, gradient) for p, gradient in zip(reached, gradients, strict=True) if gradient is not None]
    draws = [torch.randn_like(parameter) for parameter, _ in pairs]
    # A gradient that is constant, that of a linear loss, has no curvature, and autograd refuses to say so.
    bent = [(gradient, u) for (_, gradient), u in zip(pairs, draws, strict=True) if gradient.requires_grad]
    inputs = [parameter for parameter, _ in pairs]
    products: tuple[Any, ...] = (None,) * len(pairs)
    if bent:
        curved, along = zip(*bent, strict=True)
        products = torch.autograd.grad(curved, inputs, along, allow_unused=True)
    estimates = {id(parameter): torch.zeros_like(parameter) for parameter in parameters}
    for (parameter, gradient), product, u in zip(pairs, products, draws, strict=True):
        own = gradient.detach() if factor is None else gradient.detach() * factor
        parameter.grad = own if parameter.grad is None else parameter.grad + own
        if product is not None:
            estimates[id(parameter)] = product * u
    return [estimates[id(parameter)] for parameter in parameters]


def step_with_curvature(optimizer: Optimizer, parameters: list[Tensor], curvature: list[Tensor]) -> None:
    """A step of sophia that takes in the estimates for `parameters`, which are in any order."""
    by_parameter = {id(parameter): estimate for parameter, estimate in zip(parameters, curvature, strict=True)}
    ordered = [by_parameter[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    takes_curvature: Any = optimizer.step  # a keyword that torch's base class does not know
    takes_curvature(hessian=ordered)
