"""A step of fused Adam without the bookkeeping around it, which for a small net costs several times the step itself."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

_MAX_PLANS = 64
"""Plans made after which the lists are taken to change all the time (a mixture of experts), so they are not kept."""


@dataclass
class _Plan:
    """What one call of the kernel takes, beside the gradients."""

    group: dict[str, Any]
    has_gradient: list[bool]
    """Which parameters of the group: the others are passed over, as the optimiser does."""
    parameters: list[Tensor]
    first: list[Tensor]
    second: list[Tensor]
    steps: list[Tensor]
    """The counters in the optimiser's state, one per parameter."""
    counter: Tensor
    """Their common value, counted in one place and written back when somebody else reads them."""


class FusedStep:
    """Does what `optimizer.step()` does, to the last bit.

    `torch.optim` looks up every parameter's state, counts every parameter's steps and opens a profiler's range anew
    in each step. Here the lists are kept, for exactly `Adam` and `AdamW` when they are fused, for as long as the same
    parameters have gradients, and when these are float32 on one device and have made equally many steps. In every
    other case the optimiser steps itself. The state stays in the optimiser: call `settle` before it is read and
    `forget` before it is replaced.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        kernels = {torch.optim.Adam: torch._fused_adam_, torch.optim.AdamW: torch._fused_adamw_}  # pyright: ignore[reportPrivateImportUsage]
        self._kernel = kernels.get(type(optimizer))  # pyright: ignore[reportArgumentType]
        self._plans: list[_Plan] = []
        self._num_made = 0

    def __call__(self) -> None:
        """One step with the gradients of the parameters; to be called under `torch.no_grad`."""
        if not (self._plans and self._step_as_planned()):
            self.forget()
            self._optimizer.step()
            if self._kernel is not None and self._num_made < _MAX_PLANS:
                self._plans = self._make_plans()
                self._num_made += 1

    def settle(self) -> None:
        """Write the counted steps into the optimiser's state."""
        for plan in self._plans:
            for step in plan.steps:
                step.copy_(plan.counter)

    def forget(self) -> None:
        """Settle, and look everything up anew in the next step."""
        self.settle()
        self._plans = []

    def _step_as_planned(self) -> bool:
        """Whether it could be done: the parameters with gradients are those planned for. Nothing is changed if not."""
        found: list[list[Any]] = [[parameter.grad for parameter in plan.group["params"]] for plan in self._plans]
        for plan, gradients in zip(self._plans, found, strict=True):
            if [gradient is not None for gradient in gradients] != plan.has_gradient:
                return False
        assert self._kernel is not None, "there are no plans without it"
        for plan, gradients in zip(self._plans, found, strict=True):
            if not plan.parameters:
                continue
            group = plan.group
            beta1, beta2 = group["betas"]
            plan.counter += 1
            self._kernel(
                plan.parameters,
                [gradient for gradient in gradients if gradient is not None],
                plan.first,
                plan.second,
                [],
                [plan.counter] * len(plan.parameters),
                lr=group["lr"],
                beta1=beta1,
                beta2=beta2,
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )
        return True

    def _make_plans(self) -> list[_Plan]:
        """A plan per group with gradients; none at all where the optimiser must step itself."""
        plans: list[_Plan] = []
        for group in self._optimizer.param_groups:
            has_gradient = [parameter.grad is not None for parameter in group["params"]]
            members: list[Tensor] = [parameter for parameter in group["params"] if parameter.grad is not None]
            states = [self._optimizer.state[parameter] for parameter in members]
            kinds = {(type(parameter), parameter.dtype, parameter.device) for parameter in members}
            usual = group["fused"] and not group["amsgrad"] and not group["maximize"]
            if not usual or not kinds <= {(torch.nn.Parameter, torch.float32, self._device())}:
                return []
            steps = [state["step"] for state in states]
            if len({float(step) for step in steps}) > 1:
                return []
            first, second = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq"))
            counter = steps[0].clone() if steps else torch.zeros(())
            plans.append(_Plan(group, has_gradient, members, first, second, steps, counter))
        return plans

    def _device(self) -> torch.device:
        """Where the first parameter is."""
        return self._optimizer.param_groups[0]["params"][0].device
