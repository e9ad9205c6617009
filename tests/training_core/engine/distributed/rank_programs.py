"""What the ranks of the tests do. Each function is called in every rank; only rank 0's answer is read."""

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training_core.data.streams.batching import Batching
from training_core.data.streams.resident import DeviceStream
from training_core.engine.distributed import (
    DistributedConfig,
    DistributedUpdate,
    Ranks,
    SaveSnapshot,
    Unrepeated,
    fit_across_ranks,
    load_parts,
    save_parts,
)
from training_core.engine.hooks import Validation
from training_core.engine.loop import History, Hook, Snapshot, TrainingState, fit
from training_core.engine.trainer.builder import TrainingConfigBuilder
from training_core.engine.trainer.trainer import Trainer
from training_core.engine.updates.averaging import WeightAverage
from training_core.engine.updates.gradient import GradientUpdate
from training_core.engine.updates.optimizers import OptimizerConfig
from training_core.errors import DataError, PolychoirError, StorageError
from training_core.objectives import Supervised
from training_core.schema import Batch, TaskSpec
from training_core.seeding import torch_seeded

TASK = TaskSpec.classification(("a", "b"))
OPTIMIZER = OptimizerConfig(lr=0.05)
EPOCHS = 3


class Net(nn.Module):
    """Blocks in a list, as FSDP gathers them, and more parameters than divide evenly among ranks."""

    def __init__(self, dtype: torch.dtype, dropout: float = 0.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.blocks = nn.ModuleList([nn.Linear(3, 5), nn.Linear(5, 5)])
        self.norm = nn.LayerNorm(5)
        self.head = nn.Linear(5, 2)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("scale", torch.ones(()))
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).mul_(0.5)
        self.to(dtype)

    def forward(self, inputs: Mapping[str, Tensor], available: Tensor) -> Tensor:
        hidden = inputs["x"]
        for block in self.blocks:
            hidden = torch.tanh(block(hidden))
        return self.head(self.dropout(self.norm(hidden))) * self.scale


def rows(num_rows: int, dtype: torch.dtype, weighted: bool = False) -> Batch:
    draws = torch.Generator().manual_seed(num_rows)
    x = torch.randn(num_rows, 3, generator=draws, dtype=torch.float64)
    weight = torch.rand(num_rows, generator=draws, dtype=torch.float64).to(dtype) if weighted else None
    return Batch(
        {"x": x.to(dtype)}, torch.ones(num_rows, 1, dtype=torch.bool), (x.sum(dim=1) > 0.3).long(), weight=weight
    )


class StopAt(Hook):
    """Stops training after a batch, on one rank only."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_batch_end(self, state: TrainingState, model: nn.Module) -> None:
        if state.step == self.step:
            state.stop_reason = "time is up"


class Freeze(Hook):
    """The first block does not change in the first epoch."""

    def on_epoch_start(self, state: TrainingState, model: nn.Module) -> None:
        for parameter in model.get_submodule("blocks.0").parameters():
            parameter.requires_grad_(state.epoch > 1)


def train(
    ranks: Ranks,
    strategy: str = "ddp",
    *,
    dtype: torch.dtype = torch.float32,
    num_rows: int = 50,
    weighted: bool = False,
    accumulation: int = 1,
    compression: str = "none",
    dropout: float = 0.0,
    averaged: bool = False,
    frozen: bool = False,
    epochs: int = EPOCHS,
    resume: Snapshot | None = None,
    saved: list[Snapshot] | None = None,
    save: SaveSnapshot | None = None,
    save_seconds: float = 1e-9,
    save_epochs: int | None = None,
    hooks: tuple[Hook, ...] = (),
) -> tuple[dict[str, Tensor], History]:
    """A training on batches of 8 rows of all ranks together; alone it goes through plain `fit`."""
    net = Net(dtype, dropout)
    judged = DeviceStream(rows(20, dtype), Batching(7, shuffle=False))
    average = WeightAverage(0.9) if averaged else None
    every: tuple[Hook, ...] = (Validation(Supervised(TASK), judged, patience=2, average=average), *hooks)
    every = (Freeze(), *every) if frozen else every
    stream = DeviceStream(rows(num_rows, dtype, weighted), ranks.batching(Batching(8, seed=5)))
    if ranks.alone and saved is None:
        update = GradientUpdate(Supervised(TASK), OPTIMIZER, accumulation=accumulation, average=average)
        with torch_seeded(1):
            history = fit(net, stream, update, every, epochs=epochs, resume=resume)
        return net.state_dict(), history
    settings = DistributedConfig.model_validate({"strategy": strategy, "compression": compression})
    spread = DistributedUpdate(
        Supervised(TASK), OPTIMIZER, ranks=ranks, distributed=settings, accumulation=accumulation, average=average
    )
    with ranks.seeded(1):
        history = fit_across_ranks(
            net,
            Unrepeated(stream),
            spread,
            every,
            epochs=epochs,
            resume=resume,
            save=save if saved is None else lambda snapshot, state: saved.append(_copied(snapshot)),
            save_seconds=save_seconds,
            save_epochs=save_epochs,
            gathers=save is None,
        )
    return net.state_dict(), history


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _copied(part) for key, part in value.items()}
    return type(value)(_copied(part) for part in value) if isinstance(value, list | tuple) else value


def compare(ranks: Ranks, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each case, how far this training is from the same one in one process: weights and metrics."""
    return [_compare(ranks, case) for case in cases]


def _compare(ranks: Ranks, case: dict[str, Any]) -> dict[str, Any]:
    options = {**case, "dtype": getattr(torch, case.get("dtype", "float32"))}
    strategy = options.pop("strategy")
    weights, history = train(ranks, strategy, **options)
    alone = {name: value for name, value in options.items() if name != "compression"}
    expected, told = train(Ranks(), **alone)
    metrics = [
        abs(mine[name] - theirs[name])
        for mine, theirs in zip(history.epochs, told.epochs, strict=True)
        for name in mine
    ]
    every = ranks.bytes_of_all(b"".join(tensor.numpy().tobytes() for tensor in weights.values()))
    return {
        "weights": max(float((weights[name] - expected[name]).abs().max()) for name in expected),
        "metrics": max(metrics),
        "names": [sorted(epoch) == sorted(other) for epoch, other in zip(history.epochs, told.epochs, strict=True)],
        "ranks agree": len(set(every)) == 1,
        "best_epoch": [history.best_epoch, told.best_epoch],
        "moved": max(
            float((expected[name] - value).abs().max()) for name, value in Net(options["dtype"]).state_dict().items()
        ),
    }


class SnapshotAt(Hook):
    """Keeps a snapshot of a training in one process."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.kept: Snapshot = {}

    def on_batch_end(self, state: TrainingState, model: nn.Module) -> None:
        if state.step == self.step:
            assert state.snapshot is not None
            self.kept = _copied(state.snapshot())


def go_on(ranks: Ranks, strategies: list[str]) -> list[dict[str, Any]]:
    """For each strategy, how far trainings that were interrupted within an epoch are from those that were not."""
    return [_go_on(ranks, strategy) for strategy in strategies]


def _go_on(ranks: Ranks, strategy: str) -> dict[str, Any]:
    told: dict[str, Any] = {}
    shape: dict[str, Any] = {"num_rows": 150, "accumulation": 3, "dtype": torch.float64, "epochs": 2}
    saved: list[Snapshot] = []
    whole, history = train(ranks, strategy, **shape, dropout=0.3, saved=saved)
    snapshots = ranks.states_of_all(saved[0] if ranks.writes else {})
    told["where"] = [snapshots[0]["state"]["step"], snapshots[0]["state"]["in_epoch"]]
    torch.manual_seed(99)
    resumed, again = train(ranks, strategy, **shape, dropout=0.3, resume=snapshots[0])
    told["same bits on 2"] = history == again and all(torch.equal(whole[name], resumed[name]) for name in whole)
    plain, _ = train(Ranks(), **shape)
    saved.clear()
    train(ranks, strategy, **shape, saved=saved)
    snapshots = ranks.states_of_all(saved[0] if ranks.writes else {})
    on_one, _ = train(Ranks(), **shape, resume=_without_ranks(snapshots[0]))
    told["from 2 to 1"] = _distance(plain, on_one)
    keeper = SnapshotAt(18)
    train(Ranks(), **shape, hooks=(keeper,))
    on_two, _ = train(ranks, strategy, **shape, resume=keeper.kept)
    told["from 1 to 2"] = _distance(plain, on_two)
    return told


def _without_ranks(snapshot: Snapshot) -> Snapshot:
    return {name: state for name, state in snapshot.items() if name != "of_ranks"}


def _distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def stop_one(ranks: Ranks) -> list[str]:
    """Rank 1 alone wants to stop after batch 3 of 20: how many steps every rank made, and why it stopped."""
    _, history = train(ranks, num_rows=160, hooks=(StopAt(3),) if ranks.rank == 1 else (Hook(),))
    return ranks.texts_of_all(f"{history.num_steps}: {history.stop_reason}")


def lose(ranks: Ranks, compression: str) -> list[float]:
    """The training losses with compressed gradients, epoch by epoch."""
    _, history = train(ranks, num_rows=160, compression=compression, epochs=4)
    return [loss for _, loss in history.curve("training/loss")]


class EndsAt(Hook):
    """Ends its process, or raises, after a batch."""

    def __init__(self, step: int, how: str, folder: str = "") -> None:
        self.step, self.how, self.folder = step, how, folder

    def on_batch_end(self, state: TrainingState, model: nn.Module) -> None:
        if state.step == self.step and self.how == "killed":
            if self.folder:
                (Path(self.folder) / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if state.step == self.step:
            raise DataError("a shard cannot be read")


def fail(ranks: Ranks, how: str, folder: str) -> None:
    """Rank 1 fails in the middle of training."""
    (Path(folder) / f"{ranks.rank}.pid").write_text(str(os.getpid()))
    hook = EndsAt(5, how, folder) if ranks.rank == 1 else Hook()
    train(ranks, num_rows=400, epochs=1000, hooks=(hook,))


def linger(ranks: Ranks, folder: str) -> None:
    """Train for ever."""
    (Path(folder) / f"{ranks.rank}.pid").write_text(str(os.getpid()))
    while True:
        ranks.wait()
        time.sleep(0.01)


def diverge(ranks: Ranks) -> None:
    """One row on rank 1 is not finite."""
    data = rows(32, torch.float32)
    stream = DeviceStream(data, ranks.batching(Batching(8, shuffle=False)))
    if ranks.rank == 1:
        data.inputs["x"][5] = torch.nan  # second row of its second batch
    update = DistributedUpdate(Supervised(TASK), OPTIMIZER, ranks=ranks)
    fit_across_ranks(Net(torch.float32), stream, update, epochs=2)


class Extra(Supervised):
    """A loss that reports a term more."""

    def __call__(self, model: nn.Module, batch: Batch) -> Any:
        from training_core.objectives import Loss

        loss = super().__call__(model, batch)
        return Loss(loss.total, {**loss.terms, "extra": loss.total})


def differ(ranks: Ranks, how: str) -> None:
    """The ranks were started with different settings."""
    batching = ranks.batching(Batching(8))
    stream = DeviceStream(rows(40 if how == "rows" and ranks.rank else 80, torch.float32), batching)
    objective = Extra(TASK) if how == "metrics" and ranks.rank else Supervised(TASK)
    net = Net(torch.float64 if how == "model" and ranks.rank else torch.float32)
    fit_across_ranks(net, stream, DistributedUpdate(objective, OPTIMIZER, ranks=ranks), epochs=2)


def save_and_load_parts(ranks: Ranks, folder: str) -> dict[str, Any]:
    """A snapshot written in parts: what goes on from it on two ranks and on one, and what damage does."""
    shape: dict[str, Any] = {"num_rows": 150, "accumulation": 3, "dtype": torch.float64, "epochs": 2}
    place, digests = Path(folder) / "first", []

    def save(snapshot: Snapshot, state: TrainingState) -> None:
        if not digests:
            digests.append(save_parts(place, snapshot, ranks).sha256)

    whole, history = train(ranks, "zero3", **shape, save=save)
    resumed, again = train(ranks, "zero3", **shape, resume=load_parts(place, ranks, digests[0]))
    plain, _ = train(Ranks(), **shape)
    told: dict[str, Any] = {
        "same bits on 2": history == again and _distance(whole, resumed) == 0,
        "from 2 to 1": _distance(plain, train(Ranks(), **shape, resume=load_parts(place, Ranks(), digests[0]))[0]),
        "files": sorted(path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()),
    }
    ranks.wait()
    if ranks.writes:
        (place / "parts" / ".metadata").write_bytes(b"cos\nsystem\n(S'touch " + folder.encode() + b"/owned'\ntR.")
    try:
        load_parts(place, ranks)
    except StorageError as error:
        told["damaged"] = ranks.texts_of_all(str(error))
    return told


def everything(ranks: Ranks, cases: list[dict[str, Any]], strategies: list[str], folder: str) -> dict[str, Any]:
    """All that does not end the group, at the price of one start."""
    return {
        "equal": compare(ranks, cases),
        "resumed": go_on(ranks, strategies),
        "parts": save_and_load_parts(ranks, folder),
        "stopped": stop_one(ranks),
        "fp16": lose(ranks, "fp16"),
        "powersgd": lose(ranks, "powersgd"),
        "errors": {name: _error(ranks, name) for name in ("diverge", "rows", "metrics", "model")},
    }


def _error(ranks: Ranks, name: str) -> list[str]:
    """What every rank raises."""
    try:
        diverge(ranks) if name == "diverge" else differ(ranks, name)
    except PolychoirError as error:
        return ranks.texts_of_all(f"{type(error).__name__}: {error}")
    return []


def train_with_trainer(ranks: Ranks) -> dict[str, float | int]:
    """A `Trainer` in a function that was launched: its ranks are those of the launch."""
    torch.manual_seed(0)
    inputs = torch.randn(120, 4)
    builder = TrainingConfigBuilder.distributed().with_training(epochs=2).with_checkpoints(directory=None)
    config = builder.with_hardware(devices=2, device="cpu").build()
    results = Trainer(nn.Linear(4, 2), config, TASK).train((inputs, (inputs[:, 0] > 0).long()))
    return {"epochs": len(results.history.epochs), "ranks": ranks.world_size}
