"""A compiled objective: the forward pass, the loss and their backward pass as one graph, or none of them."""

import logging
from typing import Any

import torch
from torch import nn

from training_core.engine.updates.memory import RestorePoint, is_out_of_memory
from training_core.objectives import Loss, Objective
from training_core.schema import Batch

logger = logging.getLogger(__name__)


class Compiled:
    """An objective that is compiled at its first call; where that fails it says why and stays as it was.

    All of it or nothing: a graph in pieces costs more between the pieces than it saves. The update's kernel is fused
    anyway. The first call also runs the backward pass once and throws its result away, so that whatever cannot be
    compiled is known before anything counts; random generators and buffers are put back.
    """

    def __init__(self, objective: Objective, model: nn.Module) -> None:
        """Compile nothing yet."""
        self._plain = objective
        self._compiled: Any = torch.compile(objective, fullgraph=True)
        self._restore_point = RestorePoint(model)
        self._tried = False

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """The loss."""
        if self._compiled is None:
            return self._plain(model, batch)
        self._restore_point.take()
        try:
            if not self._tried:
                self._try(model, batch)
            return self._compiled(model, batch)
        # A compiler may fail with anything at all; what is wrong with the net itself comes up again without it.
        except Exception as error:
            if is_out_of_memory(error):
                raise
            reason = (str(error).strip() or "no reason given").splitlines()[0]
            logger.warning("the step is not compiled: %s: %s", type(error).__name__, reason)
            self._compiled = None
        self._restore_point.restore()
        return self._plain(model, batch)

    def _try(self, model: nn.Module, batch: Batch) -> None:
        """One forward and backward pass that leave nothing behind."""
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        torch.autograd.grad(self._compiled(model, batch).total, parameters, allow_unused=True)
        self._restore_point.restore()
        self._tried = True
