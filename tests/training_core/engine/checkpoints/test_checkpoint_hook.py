"""Checkpoints are taken when they are due, change nothing about training, and their errors are heard of."""

import itertools
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from training_core.data.streams.batching import Batching
from training_core.data.streams.resident import DeviceStream
from training_core.engine.checkpoints import hook as checkpoint_hook
from training_core.engine.checkpoints.hook import CheckpointHook
from training_core.engine.checkpoints.manager import CheckpointManager
from training_core.engine.checkpoints.metadata import CheckpointMetadata
from training_core.engine.loop import Hook, TrainingState, fit
from training_core.engine.updates.gradient import GradientUpdate
from training_core.engine.updates.optimizers import OptimizerConfig
from training_core.errors import StorageError
from training_core.objectives import Supervised
from training_core.schema import Batch, TaskSpec
from training_core.seeding import torch_seeded

TASK = TaskSpec.classification(("a", "b"))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.dropout = nn.Dropout(0.2)

    def forward(self, inputs: Mapping[str, Tensor], available: Tensor) -> Tensor:
        return self.layer(self.dropout(inputs["x"]))


def train(hook: Hook | None, epochs: int = 4, resume: Mapping[str, Any] | None = None) -> Tensor:
    """Four steps an epoch."""
    x = torch.randn(32, 3, generator=torch.Generator().manual_seed(0))
    data = Batch({"x": x}, torch.ones(32, 1, dtype=torch.bool), (x.sum(dim=1) > 0).long())
    with torch_seeded(0, "net"):
        net = Net()
        update = GradientUpdate(Supervised(TASK), OptimizerConfig(lr=0.1))
        fit(net, DeviceStream(data, Batching(8)), update, [hook or Hook()], epochs=epochs, resume=resume)
    return net.layer.weight.detach()


def taken(manager: CheckpointManager) -> list[tuple[int, int]]:
    return [(kept.epoch, kept.step) for kept in manager.checkpoints()]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ({"every_steps": 6}, [(2, 6, False), (3, 12, False)]),
        ({"every_epochs": 2}, [(2, 8, True), (4, 16, True)]),
        ({"every_epochs": 3, "every_steps": 7}, [(2, 7, False), (3, 12, True), (4, 14, False)]),
        ({"seconds": 0.0}, [(3, 12, True)]),
        ({"seconds": 3600.0}, []),
    ],
)
def test_checkpoints_are_taken_when_due(
    tmp_path: Path, when: dict[str, Any], expected: list[tuple[int, int, bool]], asynchronous: bool
) -> None:
    """Only those of whole epochs have metrics, by which they can be among the best."""
    manager = CheckpointManager(tmp_path, keep_last_n=9, save_interval_epochs=3, monitor="training/loss")
    weights = train(CheckpointHook(manager, **{"seconds": 3600.0, **when}, asynchronous=asynchronous))
    assert [(kept.epoch, kept.step, bool(kept.metrics)) for kept in manager.checkpoints()] == expected
    assert torch.equal(weights, train(None))


def test_time_makes_a_checkpoint_due_in_the_middle_of_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which every look takes a second, of which there is one when training starts and one per step."""
    ticks = itertools.count()
    monkeypatch.setattr(checkpoint_hook, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))
    manager = CheckpointManager(tmp_path, keep_last_n=9)
    train(CheckpointHook(manager, seconds=6.0), epochs=2)
    assert taken(manager) == [(2, 5)]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_training_can_go_on_for_more_epochs(tmp_path: Path, asynchronous: bool) -> None:
    manager = CheckpointManager(tmp_path)
    train(CheckpointHook(manager, every_epochs=1, asynchronous=asynchronous), epochs=2)
    assert torch.equal(train(None, epochs=5, resume=manager.latest()), train(None, epochs=5))


def test_training_does_not_wait_for_a_thread_that_writes(tmp_path: Path) -> None:
    class Stuck(CheckpointManager):
        held = threading.Event()

        def save_checkpoint(self, *args: Any, **kwargs: Any) -> CheckpointMetadata:
            self.held.wait()
            return super().save_checkpoint(*args, **kwargs)

    class Release(Hook):
        def on_epoch_end(self, state: TrainingState, model: Any) -> None:
            if state.epoch == 4:
                Stuck.held.set()

    manager = Stuck(tmp_path)
    hook = CheckpointHook(manager, seconds=1e-9, asynchronous=True)

    class Both(Hook):
        def on_training_start(self, state: TrainingState, model: Any) -> None:
            hook.on_training_start(state, model)

        def on_batch_end(self, state: TrainingState, model: Any) -> None:
            hook.on_batch_end(state, model)

        def on_epoch_end(self, state: TrainingState, model: Any) -> None:
            Release().on_epoch_end(state, model)

        def on_training_end(self, state: TrainingState, model: Any) -> None:
            hook.on_training_end(state, model)

    weights = train(Both())
    assert taken(manager) == [(1, 1)]  # as it was after the first step, though 16 were made before it was written
    assert torch.equal(train(None, resume=manager.latest()), weights)


def test_an_error_of_the_thread_is_raised_at_the_next_save_or_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    manager = CheckpointManager(tmp_path / "file" / "checkpoints")
    for when in ({"every_steps": 3}, {"every_epochs": 4}):
        with pytest.raises(StorageError, match="cannot write"):
            train(CheckpointHook(manager, seconds=0, asynchronous=True, **when))


def test_an_error_of_a_save_is_raised_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        train(CheckpointHook(CheckpointManager(tmp_path / "file" / "checkpoints"), every_steps=3))
    assert sorted(os.listdir(tmp_path)) == ["file"]  # noqa: PTH208
