"""Gradient checkpointing: activations inside a block are computed again in the backward pass instead of being kept.

Chen et al. 2016, arXiv:1604.06174. Of each block only the input is kept, so a net of n equal blocks holds n inputs and
the inside of one block at a time, for about one more forward pass.
"""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from training_core.errors import ConfigError
from training_core.objectives import Loss, Objective
from training_core.schema import Batch

logger = logging.getLogger(__name__)

Forward = Callable[..., Any]


class Recomputed:
    """An objective, judged with the blocks of a model recomputed in the backward pass; the gradients are the same.

    The model is changed only while it is judged, so whoever copies, saves or exports it meets no trace of this.
    """

    def __init__(self, objective: Objective, model: nn.Module) -> None:
        """Find the blocks of `model`, which the objective must be called with, or a wrapper of it."""
        self._objective = objective
        self._forwards = [
            (block, block.__dict__.get("forward"), _recomputing(block)) for block in repeated_blocks(model)
        ]
        if not self._forwards:
            logger.warning(
                "gradient checkpointing: %s has no nn.Sequential or nn.ModuleList of blocks, so it changes nothing; "
                "name blocks in an attribute `checkpointed`",
                type(model).__name__,
            )

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """The loss."""
        for block, _, forward in self._forwards:
            block.__dict__["forward"] = forward
        try:
            return self._objective(model, batch)
        finally:
            for block, own, _ in self._forwards:
                if own is None:
                    del block.__dict__["forward"]
                else:
                    block.__dict__["forward"] = own


def repeated_blocks(model: nn.Module) -> list[nn.Module]:
    """The modules to recompute, none inside another.

    Those the model names in `checkpointed: tuple[str, ...]`, paths of submodules, of which an `nn.ModuleList` stands
    for its members; without that attribute the outermost `nn.Sequential`s of more than one layer, and the members of
    `nn.ModuleList`s that have submodules.

    Raises:
        ConfigError: `checkpointed` names what is not there.
    """
    names: tuple[str, ...] | None = getattr(model, "checkpointed", None)
    if names is None:
        return list(_outermost(model))
    found: list[nn.Module] = []
    for name in names:
        try:
            module = model.get_submodule(name)
        except AttributeError as error:
            raise ConfigError(f"{type(model).__name__}.checkpointed names '{name}', which is no submodule") from error
        found.extend(module if isinstance(module, nn.ModuleList) else [module])
    return found


def _outermost(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            for member in child:
                if any(member.children()):
                    yield member
        elif isinstance(child, nn.Sequential) and len(child) > 1:
            yield from child if all(any(layer.children()) for layer in child) else [child]
        else:
            yield from _outermost(child)


def _recomputing(block: nn.Module) -> Forward:
    """What `block.forward` is while the block is recomputed: a long nn.Sequential goes in pieces of about √n layers."""
    keeps_buffers = partial(_contexts, block) if any(True for _ in block.buffers()) else None
    settings: dict[str, Any] = {"use_reentrant": False}
    if keeps_buffers is not None:
        settings["context_fn"] = keeps_buffers
    if not (isinstance(block, nn.Sequential) and len(block) > 3):
        return partial(checkpoint, block.forward, **settings)
    length = math.ceil(math.sqrt(len(block)))
    pieces = [block[start : start + length] for start in range(0, len(block), length)]

    def forward(values: Any) -> Any:
        for piece in pieces:
            values = checkpoint(piece, values, **settings)
        return values

    return forward


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    return nullcontext(), _buffers_left_alone(block)


@contextmanager
def _buffers_left_alone(block: nn.Module) -> Iterator[None]:
    """Within the block of code the module works on copies of its buffers: running statistics see a batch once."""
    owners = [(module, name, buffer) for module in block.modules() for name, buffer in module._buffers.items()]
    for module, name, buffer in owners:
        module._buffers[name] = None if buffer is None else buffer.clone()
    try:
        yield
    finally:
        for module, name, buffer in owners:
            module._buffers[name] = buffer
