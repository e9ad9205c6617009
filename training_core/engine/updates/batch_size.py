"""The largest batch a device takes, found by trying."""

import copy
import logging
from collections.abc import Callable

import torch
from torch import nn

from training_core.engine.updates.gradient import GradientUpdate
from training_core.engine.updates.memory import (
    does_not_fit,
    is_out_of_memory,
    largest_that_fits,
    release_memory,
    repeated,
)
from training_core.schema import Batch

logger = logging.getLogger(__name__)


def find_batch_size(
    model: nn.Module, batch: Batch, make_update: Callable[[], GradientUpdate], *, limit: int = 65_536
) -> int:
    """The largest number of rows, at most `limit`, of which the device takes a whole step of training.

    Every trial makes two steps on a copy of `model`, the second with the optimiser's state in place, so neither the
    model nor a random generator is changed. The copy takes memory too, which makes the answer a little cautious; rows
    longer than those of `batch`, or another program on the device, need room beside it.

    Args:
        model: what is to be trained, on its device.
        batch: rows like those to come; they are repeated as often as needed.
        make_update: builds the update that will train it.
        limit: rows that are enough.

    Raises:
        ConfigError: not even one row fits.
    """
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})

    def fits(num_rows: int) -> bool:
        with torch.random.fork_rng(devices=devices):
            fitted = _steps(model, batch, make_update, num_rows)
        release_memory()
        return fitted

    found = largest_that_fits(fits, limit)
    if not found:
        raise does_not_fit(1)
    logger.info("a batch of %d rows fits into memory", found)
    return found


def _steps(model: nn.Module, batch: Batch, make_update: Callable[[], GradientUpdate], num_rows: int) -> bool:
    """Whether two steps with `num_rows` rows could be made."""
    try:
        trained, update = copy.deepcopy(model), make_update()
        update.recovers = False
        update.start(trained)
        rows = repeated(batch, num_rows)
        for _ in range(2):
            update.step(trained, rows)
            update.end_epoch(trained)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True
