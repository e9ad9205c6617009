"""Trainings that are interrupted, killed, recorded, or spread over processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from trainer_world import FORMS, TASK, Blobs, CountSteps, StopAfter, blobs, kept, net

from training_core.engine.loop import Hook
from training_core.engine.trainer.builder import TrainingConfigBuilder
from training_core.engine.trainer.streams import LoaderStream
from training_core.engine.trainer.trainer import Trainer
from training_core.engine.watching.callbacks import TimeBudget
from training_core.errors import ConfigError


@pytest.mark.parametrize("form", ["tensors", "a data set", "a loader"])
def test_an_interrupted_training_goes_on_bit_for_bit(tmp_path: Path, form: str) -> None:
    def train(directory: Path, hook: Hook) -> tuple[Any, nn.Module]:
        torch.manual_seed(7)
        model = net(0.3)
        seconds = 1e-9  # a checkpoint after every step
        config = kept(directory, checkpoint_seconds=seconds, epochs=3)
        results = Trainer(model, config, TASK, hook).train(FORMS[form](), blobs(60))
        return results, model

    straight, expected = train(tmp_path / "straight", CountSteps())
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", StopAfter(13))
    rest = CountSteps()
    resumed, model = train(tmp_path / "cut", rest)
    assert resumed.history == straight.history and len(resumed.epochs) == 3
    assert rest.num_steps == resumed.history.num_steps - 12  # the 13th was not saved any more
    for name, tensor in expected.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])


def test_a_training_that_is_over_is_not_trained_again(tmp_path: Path) -> None:
    first = Trainer(net(), kept(tmp_path), TASK).train(blobs())
    model = net()
    again = Trainer(model, kept(tmp_path), TASK).train(blobs())
    assert again.history == first.history and again.best_val_loss == first.best_val_loss
    with pytest.raises(ConfigError, match=r"training with other settings: .*lr was 0\.02 and is 0\.5"):
        Trainer(net(), kept(tmp_path, lr=0.5), TASK).train(blobs())


@pytest.mark.nightly
@pytest.mark.slow
def test_a_killed_training_goes_on(tmp_path: Path) -> None:
    script = (
        "import sys, time, torch\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "from trainer_world import Blobs, Hook, TASK, kept, net\n"
        "from training_core.engine.trainer.trainer import Trainer\n"
        "torch.set_num_threads(1)\n"
        "class Slow(Hook):\n"
        "    def on_batch_end(self, state, model):\n"
        "        print(state.step, flush=True); time.sleep(0.02)\n"
        "from pathlib import Path\n"
        "r = Trainer(net(0.3), kept(Path(sys.argv[1]), checkpoint_seconds=0.05), TASK, Slow()).train(Blobs())\n"
        "print('done', r.best_epoch, r.best_val_loss, len(r.history.epochs), flush=True)\n"
    )

    def start(folder: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", script, str(tmp_path / folder), str(Path(__file__).parent)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})

    killed = start("cut")
    assert killed.stdout is not None
    for line in killed.stdout:
        if int(line) >= 15:
            break
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    killed.stdout.close()
    resumed, _ = start("cut").communicate()
    straight = Trainer(net(0.3), kept(tmp_path / "straight", checkpoint_seconds=0.05), TASK).train(Blobs())
    expected = f"done {straight.best_epoch} {straight.best_val_loss} {len(straight.history.epochs)}"
    assert int(resumed.splitlines()[0]) > 1
    assert resumed.splitlines()[-1] == expected


def test_a_loader_that_goes_on_gives_the_batches_that_were_left() -> None:
    loader = DataLoader(TensorDataset(*blobs()), batch_size=16, shuffle=True)
    torch.manual_seed(3)
    straight = [batch.inputs["x"] for batch in LoaderStream(loader, TASK, "cpu")]
    torch.manual_seed(3)
    cut = LoaderStream(loader, TASK, "cpu")
    taken = iter(cut)
    for _ in range(3):
        next(taken)
    fresh = LoaderStream(loader, TASK, "cpu")
    fresh.load_state_dict(cut.state_dict())
    torch.manual_seed(99)
    before = torch.get_rng_state()
    rest = [batch.inputs["x"] for batch in fresh]
    assert len(rest) == len(straight) - 3 and torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one, two) for one, two in zip(rest, straight[3:], strict=True))
    assert fresh.state_dict()["position"] == 0


@pytest.mark.nightly
@pytest.mark.slow
def test_two_processes_train_like_one(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys, torch\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from trainer_world import QUICK, TASK, TrainerConfig, blobs, net\n"
        "from training_core.engine.trainer.trainer import Trainer\n"
        "torch.set_num_threads(1)\n"
        "devices = int(os.environ.get('WORLD_SIZE', 1))\n"
        "config = TrainerConfig.model_validate({'training': QUICK.model_dump(), 'hardware': {'devices': devices, "
        "'device': 'cpu'}, 'checkpoints': {'directory': sys.argv[2] + str(devices)}})\n"
        "results = Trainer(net(), config, TASK).train(blobs(125))\n"
        "if os.environ.get('RANK', '0') == '0': print(results.best_epoch, results.best_val_loss)\n"
    )
    arguments = [str(script), str(Path(__file__).parent), str(tmp_path / "checkpoints-")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    ranked = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments]
    together = subprocess.run(ranked, capture_output=True, text=True, env=environment)
    assert together.returncode == 0, together.stderr[-2000:]
    alone = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, check=True)
    (epoch, loss), (expected_epoch, expected_loss) = together.stdout.split(), alone.stdout.split()
    assert epoch == expected_epoch and float(loss) == pytest.approx(float(expected_loss), rel=1e-4)


def test_a_training_is_recorded(tmp_path: Path) -> None:
    config = (
        TrainingConfigBuilder()
        .with_training(epochs=2)
        .with_logging(trackers=("jsonl",), directory=str(tmp_path), run_name="recorded", notes="why")
        .build()
    )
    Trainer(net(), config, TASK).train(blobs())
    text = "".join(path.read_text() for path in (tmp_path / "tracking").rglob("*.jsonl"))
    assert "recorded" in text and "validation/loss" in text and "FINISHED" in text and "why" in text
    with pytest.raises(KeyboardInterrupt):
        Trainer(net(), config, TASK, StopAfter(3)).train(blobs())
    assert "FAILED" in "".join(path.read_text() for path in (tmp_path / "tracking").rglob("*.jsonl"))


def test_checkpoints_of_another_net_are_refused(tmp_path: Path) -> None:
    config = kept(tmp_path / "checkpoints")
    Trainer(net(), config, TASK).train(blobs())
    with pytest.raises(ConfigError, match="of a training with other settings: model"):
        Trainer(nn.Linear(4, 3), config, TASK).train(blobs())


def test_a_training_goes_on_with_more_hooks_only_if_they_keep_nothing(tmp_path: Path) -> None:
    config = kept(tmp_path, checkpoint_seconds=1e-9)
    with pytest.raises(KeyboardInterrupt):
        Trainer(net(), config, TASK, StopAfter(13)).train(blobs())
    with pytest.raises(ConfigError, match=r"states of these hooks: Validation, .* here are: .*, TimeBudget, .*"):
        Trainer(net(), config, TASK, [CountSteps(), TimeBudget(3600)]).train(blobs())
    results = Trainer(net(), config, TASK, [CountSteps(), CountSteps()]).train(blobs())
    straight = Trainer(net(), kept(tmp_path / "straight"), TASK).train(blobs())
    assert results.history == straight.history
