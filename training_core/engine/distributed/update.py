"""A gradient step that all ranks make together: each on its share of a batch, with the result of one process."""

import inspect
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from training_core.engine.distributed.ranks import Ranks
from training_core.engine.distributed.settings import DistributedConfig
from training_core.engine.distributed.sharding import (
    compress_gradients,
    first_wild_part,
    parted,
    parted_optimizer_state,
    shard_weights,
    shared_optimizer,
    whole,
)
from training_core.engine.epoch_metrics import EpochMetrics
from training_core.engine.training import Precision
from training_core.engine.updates.averaging import WeightAverage
from training_core.engine.updates.gradient import GradientUpdate
from training_core.engine.updates.optimizers import OptimizerConfig
from training_core.engine.updates.schedules import LrSchedule
from training_core.engine.watching.gradient_monitor import GradientMonitor
from training_core.errors import ConfigError
from training_core.objectives import Objective
from training_core.schema import Batch

_SYNCS_BUFFERS = (  # torch 2.13 renamed it
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(nn.parallel.DistributedDataParallel).parameters
    else "broadcast_buffers"
)


class DistributedUpdate(GradientUpdate):
    """`GradientUpdate` over several ranks; alone it is the same as that.

    With ranks r that see batches b of a window, all of them step along `Σ_rb w_rb ∇L_rb / Σ_rb w_rb`, the gradient of
    the mean over all rows of all of them, however unequal their weights w are. Its norm, on which clipping and the
    skipping of steps depend, is that of all gradients on all ranks. Metrics are means over the rows of all ranks and
    are known at the end of an epoch. Normalisation by batch statistics sees a rank's own rows; at the end of an epoch
    all ranks get the running statistics, and other buffers, of rank 0.

    An out-of-memory error ends training: a rank cannot take back half of an exchange.
    """

    recovers = False

    def __init__(
        self,
        objective: Objective,
        optimizer: OptimizerConfig,
        *,
        ranks: Ranks,
        distributed: DistributedConfig | None = None,
        clip_norm: float = 1.0,
        clip_value: float = 0.0,
        accumulation: int = 1,
        precision: Precision = "float32",
        schedule: LrSchedule | None = None,
        average: WeightAverage | None = None,
        monitor: GradientMonitor | None = None,
        gradient_checkpointing: bool = False,
        measures_norm: bool = True,
    ) -> None:
        """Prepare nothing yet: `start` sees the model.

        Args:
            ranks: who trains together.
            distributed: how the ranks share the work.
            objective: as for `GradientUpdate`, and so are all others.
            optimizer: builds the optimiser.
            clip_norm: largest norm of all gradients together; 0 leaves them alone.
            clip_value: largest magnitude of a gradient; 0 leaves them alone.
            accumulation: batches per step, of every rank.
            precision: of the forward and backward pass.
            schedule: of the learning rate.
            average: of the weights.
            monitor: looks at the gradients of all ranks together; not where they are shared out.
            gradient_checkpointing: compute activations again instead of keeping them.
            measures_norm: report `gradient_norm` even where nothing needs it.

        Raises:
            ConfigError: the optimiser, the monitor or the compression does not work with several ranks like these.
        """
        super().__init__(
            objective,
            optimizer,
            clip_norm=clip_norm,
            clip_value=clip_value,
            accumulation=accumulation,
            precision=precision,
            schedule=schedule,
            average=average,
            monitor=monitor,
            gradient_checkpointing=gradient_checkpointing,
            measures_norm=measures_norm,
        )
        self.ranks = ranks
        self.distributed = distributed or DistributedConfig()
        self.seen = EpochMetrics()
        """The metrics of this rank's own rows in the epoch so far."""
        self.step_metrics: Mapping[str, Tensor] = {}
        """What the last step gave, over this rank's rows."""
        self._is_sharded = self.distributed.shards_weights and not ranks.alone
        self._weighs = self._weighs or not ranks.alone  # ranks may have rows of unequal weight
        self._unexchanged = False
        self._wild: str | None = None
        if not ranks.alone:
            self._refuse_what_does_not_work(optimizer, monitor)

    @property
    def in_window(self) -> bool:
        """Whether gradients of earlier batches wait for the next one."""
        return self._window.num_batches > 0

    def start(self, model: nn.Module) -> None:
        """Give every rank the weights of rank 0, share them out if they are to be, and build the optimiser.

        Raises:
            ConfigError: the models of the ranks are not alike.
        """
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self.ranks.agree(
            "the parameters of the model",
            ", ".join(
                f"{name} {tuple(tensor.shape)} {tensor.dtype}".replace(", ", "×") for name, tensor in tensors.items()
            ),
        )
        self.ranks.copy_from_first(tensors.values())
        if self._is_sharded:
            shard_weights(model, self.ranks, gather_again=self.distributed.strategy == "zero3")
        super().start(model)

    def step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """One step; its metrics are kept until the epoch ends, so none is returned."""
        self.step_metrics = super().step(model, batch)
        self.seen.add(self.step_metrics, super().num_rows(batch))
        return {}

    def num_rows(self, batch: Batch) -> int:
        """1, for what `end_epoch` returns is no mean of a batch."""
        return 1

    def end_epoch(self, model: nn.Module) -> dict[str, Tensor]:
        """The metrics of the epoch, over the rows of all ranks. All ranks together.

        One that is not finite is left out, and told by `check`, which knows where it was so first.

        Raises:
            ConfigError: the ranks report different metrics.
        """
        self.seen.add(super().end_epoch(model), self._batch_weight)
        means = self.merged_metrics().means()
        self._wild = self._first_wild()
        self.seen = EpochMetrics()
        self.ranks.copy_from_first(model.buffers())
        return {name: value for name, value in means.items() if self._wild is None or bool(torch.isfinite(value))}

    def merged_metrics(self) -> EpochMetrics:
        """The metrics of all ranks so far. All ranks together.

        Raises:
            ConfigError: the ranks report different metrics.
        """
        mine = EpochMetrics()  # a copy: summing up what is pending earlier than usual would change the last bits
        mine.load_state_dict(self.seen.state_dict())
        mine.means()
        kept = mine.state_dict()
        names = sorted(kept)
        self.ranks.agree("the metrics of the epoch", ", ".join(names))
        merged = EpochMetrics()
        if names:
            sums = torch.stack([torch.stack([kept[name]["sums"], kept[name]["weights"]]).cpu() for name in names])
            parts = zip(names, self.ranks.sum(sums), strict=True)
            merged.load_state_dict({name: {**kept[name], "sums": one[0], "weights": one[1]} for name, one in parts})
        return merged

    def _first_wild(self) -> str | None:
        """Which metric was first not finite, where and when. All ranks together."""
        steps = {name: self.seen.first_wild(name) for name in self.seen.means()}
        # A loss comes before the norm of its gradients, which all ranks share.
        mine = [[step, name != "loss", self.ranks.rank, name] for name, step in steps.items() if step is not None]
        found = [min(told) for text in self.ranks.texts_of_all(json.dumps(mine)) if (told := json.loads(text))]
        if not found:
            return None
        step, _, rank, name = min(found)
        return f"{name} had stopped being finite, first on rank {rank} at step {step}"

    def check(self, model: nn.Module) -> str | None:
        """What is wrong with the model on any rank, in words; None when nothing is. All ranks together."""
        if not self._is_sharded:
            return self._wild or self.ranks.first_of_all(super().check(model))
        wild = first_wild_part(model)
        return self._wild or self.ranks.first_of_all(wild and f"parameter '{wild}' is not finite")

    def state_dict(self) -> dict[str, Any]:
        """As one process would have it on rank 0; the others only take part. All ranks together, between windows."""
        assert not self.in_window, "gradients are still accumulated: take a snapshot between windows"
        return super().state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave on rank 0, on any number of ranks, and from the metrics in `seen`."""
        self.seen.load_state_dict(state.get("seen", {}))
        if self._is_sharded and self._average is not None:
            state = {**state, "average": parted(state["average"], self._average.state_dict())}
        super().load_state_dict(state)

    def _refuse_what_does_not_work(self, optimizer: OptimizerConfig, monitor: GradientMonitor | None) -> None:
        if optimizer.curvature_period:
            raise ConfigError(
                f"the optimiser '{optimizer.kind}' differentiates twice, which ranks cannot share; take another"
            )
        if self._is_sharded and monitor is not None:
            raise ConfigError(
                f"strategy {self.distributed.strategy} leaves no rank whole gradients to monitor; use ddp"
            )
        if self.distributed.compression == "bf16" and not self.ranks.device.startswith("cuda"):
            raise ConfigError("compression bf16 needs GPUs (NCCL adds in bf16, gloo does not); use fp16 on the CPU")

    def _build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        optimizer = super()._build_optimizer(model)
        if self.distributed.strategy == "zero1" and not self.ranks.alone:
            return shared_optimizer(optimizer, self.ranks)
        return optimizer

    def _load_optimizer_state(self, state: Mapping[str, Any]) -> None:
        if self._is_sharded:
            state = parted_optimizer_state(state, self._optimizer)
        super()._load_optimizer_state(state)

    def _module(self, model: nn.Module) -> nn.Module:
        self._replica: nn.parallel.DistributedDataParallel | None = None
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if self.ranks.alone or self._is_sharded or not self._trained:
            return super()._module(model)
        on_gpu = self.ranks.device.startswith("cuda")
        own_buffers: dict[str, Any] = {_SYNCS_BUFFERS: False}  # they are read at the end of an epoch only
        self._replica = _Replica(
            model,
            device_ids=[torch.device(self.ranks.device).index] if on_gpu else None,
            init_sync=False,  # `start` did
            gradient_as_bucket_view=True,
            **own_buffers,
        )
        compress_gradients(self._replica, self.distributed.compression)
        return self._replica

    def _exchange(self, last: bool) -> AbstractContextManager[Any]:
        self._unexchanged = not last
        # Shared-out gradients are reduced after every batch: unreduced ones would take the room that sharing saves.
        return nullcontext() if last or self._replica is None else self._replica.no_sync()

    def _complete(self, total: int | Tensor) -> int | Tensor:
        """Gradients were averaged over ranks, so what they are divided by is averaged too."""
        if self.ranks.alone:
            return total
        if self._unexchanged and self._replica is not None:  # the epoch ended within a window
            for parameter in self._trained:
                if parameter.grad is not None:
                    self.ranks.sum(parameter.grad).div_(self.ranks.world_size)
        self._unexchanged = False
        here = torch.as_tensor(total).detach().to(self._device, torch.float64, copy=True)
        return (self.ranks.sum(here) / self.ranks.world_size).to(self._parameters[0].dtype)

    def _norm(self, gradients: list[Tensor]) -> Tensor:
        norm = super()._norm(gradients)
        return whole(norm) if self._is_sharded else norm


class _Replica(nn.parallel.DistributedDataParallel):
    """One that objectives can ask for the parts of the model inside."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)
