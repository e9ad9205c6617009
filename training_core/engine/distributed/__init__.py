"""One model trained by several processes, on one machine or many: the one door to `torch.distributed`.

Two ways to start the processes, called ranks. From a shell, `torchrun --nproc-per-node 2 script.py`, or `python
script.py` for one alone, where the script says

    with process_group() as ranks:
        ...  # DistributedUpdate(…, ranks=ranks), fit_across_ranks(…)

From Python, `launch("package.module:function", 2, {"epochs": 3})`, which calls `function(ranks, epochs=3)` in each.

Several small learners are trained faster side by side, one process with learners of its own per GPU, as a run does by
itself; this package is for a model, or for data, that one GPU cannot do alone.
"""

from training_core.engine.distributed.checkpoints import load_parts, save_parts
from training_core.engine.distributed.fit import SaveSnapshot, Unrepeated, fit_across_ranks
from training_core.engine.distributed.group import process_group
from training_core.engine.distributed.launch import launch
from training_core.engine.distributed.ranks import Ranks
from training_core.engine.distributed.settings import DistributedConfig
from training_core.engine.distributed.update import DistributedUpdate

__all__ = [
    "DistributedConfig",
    "DistributedUpdate",
    "Ranks",
    "SaveSnapshot",
    "Unrepeated",
    "fit_across_ranks",
    "launch",
    "load_parts",
    "process_group",
    "save_parts",
]
