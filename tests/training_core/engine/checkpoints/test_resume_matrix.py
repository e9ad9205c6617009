"""Killed at any moment, as often as one likes, training ends with the bits it would have had."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import resume_world
import torch

from training_core.artifacts import find_unfinished
from training_core.engine.checkpoints.hook import CheckpointHook
from training_core.engine.checkpoints.manager import CheckpointManager
from training_core.engine.loop import Snapshot

ROOT = Path(__file__).parents[4]
WORLDS = tuple(resume_world.WORLDS)


def nursery(folder: Path, *, kills: int, seeds: list[int], worlds: tuple[str, ...]) -> list[dict[str, Any]]:
    """What became of `worlds` in a process that forks, kills and forks again."""
    command = [sys.executable, resume_world.__file__, str(folder), "--kills", str(kills)]
    command += ["--seeds", *map(str, seeds), "--worlds", *worlds]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(found: list[dict[str, Any]], least: int) -> None:
    for one in found:
        assert one["whole"] == one["saved"] == one["killed"], one
        assert one["unreadable"] == 0, one
    assert sum(one["kills"] for one in found) >= least, found


def test_killed_trainings_end_with_the_same_bits(tmp_path: Path) -> None:
    check(nursery(tmp_path, kills=3, seeds=[1], worlds=("everything", "cohort")), least=4)


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
def test_trainings_killed_forty_times_end_with_the_same_bits(tmp_path: Path, world: str) -> None:
    """Every step saved, every second, every third; written at once, or by a thread."""
    check(nursery(tmp_path, kills=14, seeds=[0, 1, 2], worlds=(world,)), least=20)


@pytest.mark.parametrize("left_out", ["model", "update", "stream", "metrics", "hooks", "random"])
def test_each_part_of_a_snapshot_is_needed(tmp_path: Path, left_out: str) -> None:
    """Else this file could not tell a resume that is exact from one that is not."""

    class Forgetful(CheckpointManager):
        def latest(self) -> Snapshot | None:
            manager = CheckpointManager(self.directory)
            late = manager.load_checkpoint(tmp_path / names[-1])
            early = manager.load_checkpoint(tmp_path / names[0])
            if left_out == "metrics":
                return {**late, "metrics": {}}
            early["stream"] = {**early["stream"], "position": late["stream"]["position"]}  # an epoch is as long
            return {**late, left_out: early[left_out]}

    manager = CheckpointManager(tmp_path, keep_last_n=99)
    _, straight = resume_world.WORLDS["everything"](CheckpointHook(manager, seconds=0, every_steps=4), manager)
    names = [kept.name for kept in manager.checkpoints()][:4]  # from the first epoch into the second
    forgetful = Forgetful(tmp_path)
    _, resumed = resume_world.WORLDS["everything"](CheckpointHook(forgetful, every_epochs=99), forgetful)
    assert resumed.epochs != straight.epochs


def test_fifty_kills_while_saving_leave_nothing_unreadable(tmp_path: Path) -> None:
    """A child does nothing but save; after each kill the newest checkpoint is there, whole, and never older."""
    manager = CheckpointManager(tmp_path, keep_last_n=2, keep_best_k=1)
    manager.save_checkpoint({"turn": 0, "w": torch.zeros(1)}, 0, {})
    draws = random.Random(0)
    turn = num_torn = 0
    for _ in range(50):
        child = os.fork()
        if child == 0:
            try:
                saver = CheckpointManager(tmp_path, keep_last_n=2, keep_best_k=1)
                for mine in range(turn + 1, turn + 1000):
                    metrics = {"validation/loss": 1.0 / mine}
                    saver.save_checkpoint({"turn": mine, "w": torch.full((200_000,), float(mine))}, mine, metrics)
            finally:
                os._exit(1)
        time.sleep(draws.uniform(0.01, 0.06))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        num_torn += bool(find_unfinished(tmp_path))
        snapshot = CheckpointManager(tmp_path).latest()
        assert snapshot is not None
        assert snapshot["turn"] >= turn
        assert not turn or snapshot["w"].unique().tolist() == [float(snapshot["turn"])]
        turn = snapshot["turn"]
    assert not list(tmp_path.glob(".damaged-*"))
    assert num_torn >= 10, "hardly any kill hit a save"
    manager.save_checkpoint({"turn": turn + 1}, turn + 1, {})
    assert not find_unfinished(tmp_path)
