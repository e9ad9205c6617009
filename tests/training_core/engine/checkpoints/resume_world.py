"""Trainings that are killed again and again until they end, and the same ones left alone.

Run as a program it is a nursery: torch is imported once, and every training is a fork of it, so that a kill and a new
start cost milliseconds. It prints a JSON object per world and seed: how often it was killed, and the digests.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo  # optimisers import it at their first step, which takes seconds; here once for all forks
from torch import Tensor, nn

from training_core.data.streams.batching import Batching
from training_core.data.streams.resident import DeviceStream
from training_core.engine.checkpoints.hook import CheckpointHook
from training_core.engine.checkpoints.manager import CheckpointManager
from training_core.engine.checkpoints.metadata import checkpoint_names
from training_core.engine.cohort.stacked import StackedModel
from training_core.engine.cohort.stream import CohortStream
from training_core.engine.cohort.update import CohortUpdate
from training_core.engine.cohort.validation import CohortValidation
from training_core.engine.hooks import Validation
from training_core.engine.loop import History, Hook, TrainingState, fit
from training_core.engine.training import Precision, ScheduleKind, Stage
from training_core.engine.updates.averaging import WeightAverage
from training_core.engine.updates.gradient import GradientUpdate
from training_core.engine.updates.optimizers import OptimizerConfig, OptimizerKind
from training_core.engine.updates.schedules import ScheduleHook, build_schedule
from training_core.engine.updates.stages import CurriculumHook, CurriculumStage, StagesHook
from training_core.objectives import Supervised, WeightedSum
from training_core.schema import Batch, TaskSpec
from training_core.seeding import torch_seeded

_ENDED = os.WEXITED | os.WNOHANG | os.WNOWAIT

TASK = TaskSpec.classification(("a", "b"))
NUM_ROWS = 60
BATCH_SIZE = 8


class Net(nn.Module):
    """Two modalities, dropout, and running statistics where a net stands alone."""

    def __init__(self, normalises: bool) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({"x": nn.Linear(3, 6), "y": nn.Linear(2, 6)})
        self.norm = nn.BatchNorm1d(6) if normalises else nn.Identity()
        self.head = nn.Sequential(nn.ReLU(), nn.Dropout(0.3), nn.Linear(6, 2))

    def forward(self, inputs: Mapping[str, Tensor], available: Tensor) -> Tensor:
        seen = [self.encoders[name](inputs[name]) * available[:, i, None] for i, name in enumerate(("x", "y"))]
        return self.head(self.norm(seen[0] + seen[1]))


class Meddling(Hook):
    """Draws from the generators of Python and NumPy, and moves the weights by what it drew."""

    def on_batch_end(self, state: TrainingState, model: nn.Module) -> None:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 + 1e-3 * (random.random() - np.random.rand()))


def rows(num_rows: int, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(num_rows, 3, generator=generator), torch.randn(num_rows, 2, generator=generator)
    available = torch.rand(num_rows, 2, generator=generator) > 0.1
    return Batch({"x": x, "y": y}, available, ((x.sum(dim=1) + y.sum(dim=1)) > 0).long())


def train_alone(
    hook: CheckpointHook,
    manager: CheckpointManager,
    *,
    precision: Precision = "float32",
    accumulation: int = 1,
    optimizer: OptimizerKind = "adamw",
    schedule: ScheduleKind = "none",
    warmup_epochs: float = 0.0,
    ema: float = 0.0,
    stages: tuple[Stage, ...] = (),
    curriculum: bool = False,
    patience: int = 3,
    epochs: int = 5,
) -> tuple[nn.Module, History]:
    """One net with everything that could be forgotten by a checkpoint."""
    with torch_seeded(1, "net"):
        net = Net(normalises=True)
    stream = DeviceStream(rows(NUM_ROWS, 0), Batching(BATCH_SIZE, seed=5, modality_dropout=0.3))
    updates = -(-len(stream) // accumulation)
    planned = build_schedule(
        schedule, total_updates=epochs * updates, updates_per_epoch=updates, warmup_epochs=warmup_epochs
    )
    average = WeightAverage(ema) if ema else None
    objective = WeightedSum({"loss": (1.0, Supervised(TASK)), "smooth": (0.5, Supervised(TASK, 0.2))})
    update = GradientUpdate(
        objective, OptimizerConfig(kind=optimizer, lr=0.02), accumulation=accumulation, precision=precision,
        schedule=planned, average=average,
    )  # fmt: skip
    judged = DeviceStream(rows(40, 1), Batching(16, shuffle=False))
    hooks: list[Hook] = [
        Validation(Supervised(TASK), judged, patience, average=average),
        ScheduleHook(planned),
        Meddling(),
    ]
    if stages:
        hooks.append(StagesHook(stages, update))
    if curriculum:
        hooks.append(
            CurriculumHook(
                objective,
                [
                    CurriculumStage(epochs=1, weights={"smooth": 0.0}),
                    CurriculumStage(epochs=9, weights={"smooth": 0.4}),
                ],
            )
        )
    with torch_seeded(1, "training"):
        random.seed(7)
        np.random.seed(7)
        history = fit(net, stream, update, [*hooks, hook], epochs=epochs, resume=manager.latest())
    return net, history


def train_cohort(
    hook: CheckpointHook,
    manager: CheckpointManager,
    *,
    precision: Precision = "float32",
    optimizer: OptimizerKind = "adamw",
) -> tuple[nn.Module, list[Any]]:
    """Five learners of one architecture, of unequal rows; most stop early, so that the stack is cut down on the way."""
    num_learners, epochs = 5, 8
    nets: list[nn.Module] = []
    for learner in range(num_learners):
        with torch_seeded(learner, "net"):
            nets.append(Net(normalises=False))
    stream = CohortStream(
        [rows(NUM_ROWS - 7 * k, k) for k in range(num_learners)],
        [Batching(BATCH_SIZE, seed=k, modality_dropout=0.3) for k in range(num_learners)],
    )
    judged = CohortStream([rows(30, 90 + k) for k in range(num_learners)], [Batching(16, shuffle=False)] * num_learners)
    schedules = [
        build_schedule("plateau", total_updates=8 * epochs, updates_per_epoch=8, warmup_epochs=0.5) for _ in nets
    ]
    stacked = StackedModel(nets)
    rates = [OptimizerConfig(kind=optimizer, lr=0.01 * (1 + 9 * (k % 2))) for k in range(num_learners)]
    update = CohortUpdate(Supervised(TASK), rates, schedules=schedules, precision=precision)
    names = [f"learner {k}" for k in range(num_learners)]
    validation = CohortValidation(Supervised(TASK), judged, stream, update, names, [1, 2, 1, 2, 8], schedules=schedules)
    with torch_seeded(1, "training"):
        fit(stacked, stream, update, [validation, hook], epochs=epochs, resume=manager.latest())
    for learner, net in enumerate(nets):
        validation.write_to(learner, stacked, net)
    return nn.ModuleList(nets), [validation.outcome(learner, epochs) for learner in range(num_learners)]


Train = Callable[[CheckpointHook, CheckpointManager], tuple[nn.Module, Any]]


def _alone(**settings: Any) -> Train:
    return lambda hook, manager: train_alone(hook, manager, **settings)


STAGES = (
    Stage(epochs=1, frozen=("encoders",)),
    Stage(epochs=1, frozen=("encoders.x",), lr_multiplier=0.5),
    Stage(epochs=1),
)

WORLDS: dict[str, Train] = {
    "everything": _alone(
        accumulation=3, ema=0.9, schedule="one_cycle", warmup_epochs=1.0, stages=STAGES, curriculum=True
    ),
    "early stopping": _alone(epochs=30, patience=2, schedule="plateau", warmup_epochs=0.5, optimizer="sgd"),
    "bf16": _alone(precision="bf16", accumulation=3, schedule="cosine_restarts", ema=0.99),
    "fp16": _alone(precision="fp16", accumulation=3, optimizer="radam", stages=STAGES),
    "cohort": train_cohort,
    "cohort bf16": lambda hook, manager: train_cohort(hook, manager, precision="bf16", optimizer="sgd"),
}


def train(world: str, folder: Path, every_steps: int, asynchronous: bool) -> str:
    """Train, or go on with training, until the end; the SHA-256 of the weights and of what was told of them."""
    manager = CheckpointManager(folder, keep_best_k=1, keep_last_n=2)
    hook = CheckpointHook(manager, seconds=0.0, every_steps=every_steps, asynchronous=asynchronous)
    net, history = WORLDS[world](hook, manager)
    digest = hashlib.sha256(repr(history).encode())
    for name, tensor in net.state_dict().items():
        digest.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def forked(work: Callable[[], str], result: Path) -> int:
    """Do `work` in a child, which writes what it returns to `result`; the child's process id."""
    child = os.fork()
    if child:
        return child
    try:
        answer = work()
        unfinished = result.with_suffix(".part")
        unfinished.write_text(answer)
        unfinished.replace(result)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def killed_until_done(work: Callable[[], str], folder: Path, kills: int, saves: int, seconds: float, seed: int) -> int:
    """Start `work` and kill it at a random moment, `kills` times at most, then let it end.

    A life lasts for a random number of checkpoints and then for a random part of the time between two of them, so that
    it ends anywhere: in a step, in a save, between them.

    Args:
        work: saves its checkpoints in `folder` / "killed".
        folder: where it also writes its result, "killed.txt".
        kills: at most.
        saves: checkpoints in a whole training.
        seconds: how long one takes, with its steps.
        seed: of what is random.

    Returns:
        How often it was killed.
    """
    draws = random.Random(seed)
    for number in range(kills):
        wanted = newest_number(folder / "killed") + draws.randint(0, max(1, round(1.5 * saves / kills)))
        child = forked(work, folder / "killed.txt")
        while newest_number(folder / "killed") < wanted and os.waitid(os.P_PID, child, _ENDED) is None:
            time.sleep(1e-3)
        time.sleep(draws.uniform(0.0, 2 * seconds))
        os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code != -signal.SIGKILL:
            assert code == 0, f"it ended with {code}"
            return number
    child = forked(work, folder / "killed.txt")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    return kills


def newest_number(folder: Path) -> int:
    """The number of the newest checkpoint in `folder`; 0 when there is none."""
    names = checkpoint_names(os.listdir(folder)) if folder.is_dir() else []  # noqa: PTH208
    return int(names[-1].partition("-")[0]) if names else 0


def try_world(world: str, folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """Train `world` once without checkpoints, once with them, and once with kills; what came of each."""
    every_steps, asynchronous = 1 + seed % 3, seed % 2 == 1
    folder.mkdir(parents=True)
    lives: dict[str, Callable[[], str]] = {
        "whole": lambda: train(world, folder / "whole", 10**9, False),
        "saved": lambda: train(world, folder / "saved", every_steps, asynchronous),
        "killed": lambda: train(world, folder / "killed", every_steps, asynchronous),
    }
    for name in ("whole", "saved"):
        started = time.perf_counter()
        child = forked(lives[name], folder / f"{name}.txt")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, f"{world}: {name} failed"
        seconds = time.perf_counter() - started
    saves = newest_number(folder / "saved")
    num_kills = killed_until_done(lives["killed"], folder, kills, saves, seconds / saves, seed)
    return {
        "world": world,
        "seed": seed,
        "kills": num_kills,
        **{name: (folder / f"{name}.txt").read_text() for name in lives},
        "unreadable": len(list((folder / "killed").glob(".damaged-*"))),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder", type=Path)
    options.add_argument("--kills", type=int, default=6)
    options.add_argument("--seeds", type=int, nargs="+", default=[0])
    options.add_argument("--worlds", nargs="+", default=list(WORLDS))
    given = options.parse_args(arguments)
    torch.set_num_threads(1)
    for seed in given.seeds:
        for world in given.worlds:
            print(json.dumps(try_world(world, given.folder / f"{world}-{seed}", given.kills, seed)), flush=True)


if __name__ == "__main__":
    main()
