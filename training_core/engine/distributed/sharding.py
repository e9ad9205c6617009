"""Weights and optimiser state that are shared out over the ranks, and their way to and from the ordinary form.

Wherever training is interrupted, a state is written in its ordinary form, as one process would have it, so that any
number of ranks can go on with it, under any strategy.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from training_core.engine.distributed.ranks import Ranks


def shard_weights(model: nn.Module, ranks: Ranks, *, gather_again: bool) -> None:
    """Leave each rank a part of the weights of `model`, in place; they are gathered where they are used.

    Gathered together are the members of every `nn.ModuleList`, which are the blocks of a deep net, and then the rest.

    Args:
        model: alike on every rank.
        ranks: who shares.
        gather_again: free gathered weights after the forward pass and gather them again for the backward pass.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(ranks.device.partition(":")[0], (ranks.world_size,))
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    for block in [block for blocks in reversed(lists) for block in blocks]:
        if any(True for _ in block.parameters()):
            fully_shard(block, mesh=mesh, reshard_after_forward=gather_again)
    fully_shard(model, mesh=mesh, reshard_after_forward=gather_again)

    def take_parts(module: nn.Module, state: dict[str, Any], *_: object) -> None:
        parts = module.state_dict()
        state.update({name: parted(value, parts[name]) for name, value in state.items() if name in parts})

    model.register_load_state_dict_pre_hook(take_parts)


def free_gathered(model: nn.Module) -> None:
    """Forget weights that were gathered for a pass without gradients: they may be changed before the next one."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def whole(value: Any) -> Any:
    """A state in its ordinary form: every shared-out tensor in it put together. All ranks together."""
    from torch.distributed.tensor import DTensor

    if isinstance(value, DTensor):
        return value.full_tensor().detach()
    if isinstance(value, Mapping):
        return {key: whole(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(whole(part) for part in value)
    return value


def first_wild_part(model: nn.Module) -> str | None:
    """The name of a shared-out parameter whose part on this rank is not finite; None when all are."""
    from torch.distributed.tensor import DTensor

    for name, parameter in model.named_parameters():
        part = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        if not bool(torch.isfinite(part).all()):
            return name
    return None


def parted(value: Any, like: Any) -> Any:
    """A state in its ordinary form with the tensors shared out that are shared out in `like`, place by place."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(like, DTensor) and isinstance(value, Tensor) and not isinstance(value, DTensor):
        # Every rank has read the same state: each takes its part of it, and nothing is sent.
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    if isinstance(like, Mapping) and isinstance(value, Mapping):
        return {key: parted(part, like.get(key)) for key, part in value.items()}
    if isinstance(like, list | tuple) and isinstance(value, list | tuple) and len(like) == len(value):
        return type(value)(parted(part, other) for part, other in zip(value, like, strict=True))
    return value


def parted_optimizer_state(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimiser's state in its ordinary form with everything of a parameter's shape shared out as it is."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def part(parameter: Tensor, value: Any) -> Any:
        fits = isinstance(value, Tensor) and value.shape == parameter.shape
        return parted(value, parameter) if fits else value

    return {
        **state,
        "state": {
            index: {name: part(parameters[int(index)], value) for name, value in kept.items()}
            for index, kept in state["state"].items()
        },
    }


def shared_optimizer(optimizer: torch.optim.Optimizer, ranks: Ranks) -> torch.optim.Optimizer:
    """An optimiser like `optimizer`, which made no step yet, whose state is shared out: each rank steps its part.

    Its `state_dict` is the ordinary one on rank 0 and empty on the others. All ranks together.
    """
    from torch.distributed.optim import ZeroRedundancyOptimizer

    class SharedOptimizer(ZeroRedundancyOptimizer):
        def state_dict(self) -> dict[str, Any]:
            self.consolidate_state_dict(to=0)
            return super().state_dict() if ranks.writes else {}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            super().load_state_dict({**state_dict, "state": dict(state_dict["state"])})  # it empties what it is given

    accepted = set(inspect.signature(type(optimizer)).parameters) - {"params"}
    groups = [
        {"params": group["params"], **{name: value for name, value in group.items() if name in accepted}}
        for group in optimizer.param_groups
    ]
    defaults = {name: value for name, value in optimizer.defaults.items() if name in accepted}
    return SharedOptimizer(groups, optimizer_class=type(optimizer), **defaults)


def compress_gradients(replica: nn.parallel.DistributedDataParallel, kind: str) -> None:
    """Let the gradients of `replica` travel as numbers of half the size, or as matrices of low rank."""
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook

    match kind:
        case "bf16":
            replica.register_comm_hook(dist.group.WORLD, default_hooks.bf16_compress_hook)
        case "fp16":
            replica.register_comm_hook(dist.group.WORLD, default_hooks.fp16_compress_hook)
        case "powersgd":
            state = powerSGD_hook.PowerSGDState(dist.group.WORLD, matrix_approximation_rank=1, start_powerSGD_iter=10)
            replica.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
