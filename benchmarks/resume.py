"""Does a training that goes on from its checkpoint end with the bits it would have had? Ours and its peers.

`python benchmarks/resume.py` takes a few minutes: every engine trains the same net (dropout, Adam, a schedule,
640 rows shuffled into 20 batches an epoch) for 60 steps, twice straight and once from a checkpoint after step 20 (the
end of an epoch) or 30 (the middle of one), each in a process of its own. What is compared is the SHA-256 of the
weights. Every engine is asked to resume as its own documentation says. Peers take part when they are installed:
`pip install polychoir[bench]`.
"""

import argparse
import hashlib
import importlib.util
import logging
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

NUM_ROWS, BATCH_ROWS, NUM_STEPS, LR = 640, 32, 60, 1e-2
CUTS = {20: "end of an epoch", 30: "middle of an epoch"}
STEPS_PER_EPOCH = NUM_ROWS // BATCH_ROWS


class Engine(NamedTuple):
    """Who trains: `train(folder, cut, resume)` saves after step `cut`, or goes on from there, and returns the net."""

    label: str
    needs: str
    """What must be installed."""
    train: Callable[[Path, int, bool], nn.Module]


def rows() -> tuple[Tensor, Tensor]:
    """Values [row, 16] and classes [row]."""
    draws = torch.Generator().manual_seed(1)
    return torch.randn(NUM_ROWS, 16, generator=draws), torch.randint(0, 4, (NUM_ROWS,), generator=draws)


def net() -> nn.Module:
    """The same weights each time."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 4))


def train_ours(folder: Path, cut: int, resume: bool) -> nn.Module:
    """A checkpoint every `cut` steps; a new process goes on from what it finds."""
    from training_core.data.streams.batching import Batching
    from training_core.data.streams.resident import DeviceStream
    from training_core.engine.checkpoints.hook import CheckpointHook
    from training_core.engine.checkpoints.manager import CheckpointManager
    from training_core.engine.loop import fit
    from training_core.engine.updates.gradient import GradientUpdate
    from training_core.engine.updates.optimizers import OptimizerConfig
    from training_core.engine.updates.schedules import build_schedule
    from training_core.objectives import Supervised
    from training_core.schema import Batch, TaskSpec

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, inputs: Mapping[str, Tensor], available: Tensor) -> Tensor:
            return self.net(inputs["x"])

    x, y = rows()
    model = Wrapped()
    torch.manual_seed(0)
    schedule = build_schedule("one_cycle", total_updates=NUM_STEPS, updates_per_epoch=STEPS_PER_EPOCH)
    update = GradientUpdate(
        Supervised(TaskSpec.classification(("a", "b", "c", "d"))), OptimizerConfig(lr=LR), schedule=schedule
    )
    stream = DeviceStream(Batch({"x": x}, torch.ones(NUM_ROWS, 1, dtype=torch.bool), y), Batching(BATCH_ROWS))
    manager = CheckpointManager(folder, keep_last_n=99)
    start = manager.load_checkpoint(manager.checkpoints()[0].path) if resume else None
    hook = CheckpointHook(manager, every_steps=cut)
    fit(model, stream, update, [hook], epochs=NUM_STEPS // STEPS_PER_EPOCH, resume=start)
    return model


def train_lightning(folder: Path, cut: int, resume: bool) -> nn.Module:
    """`ModelCheckpoint` and `ckpt_path`."""
    import lightning
    from lightning.pytorch.callbacks import ModelCheckpoint

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    lightning.seed_everything(0, verbose=False)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def training_step(self, batch: Any, index: int) -> Tensor:
            return functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), LR)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, NUM_STEPS)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    saver = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=cut, save_top_k=-1)
    trainer = lightning.Trainer(
        max_steps=NUM_STEPS, accelerator="cpu", logger=False, callbacks=[saver], enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    module = Module()
    loader = DataLoader(TensorDataset(*rows()), BATCH_ROWS, shuffle=True)
    trainer.fit(module, loader, ckpt_path=str(folder / f"step={cut}.ckpt") if resume else None)
    return module


def train_hf(folder: Path, cut: int, resume: bool) -> nn.Module:
    """`save_steps` and `resume_from_checkpoint`."""
    from transformers import Trainer, TrainingArguments
    from transformers.trainer_callback import PrinterCallback

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            raw = self.net(x)
            return {"loss": functional.cross_entropy(raw, labels), "logits": raw}

    settings = TrainingArguments(
        str(folder), max_steps=NUM_STEPS, per_device_train_batch_size=BATCH_ROWS, learning_rate=LR, report_to=[],
        use_cpu=True, save_steps=cut, disable_tqdm=True, logging_strategy="no", seed=0,
    )  # fmt: skip
    x, y = rows()
    trainer = Trainer(Wrapped(), settings, train_dataset=[{"x": x[i], "labels": y[i]} for i in range(NUM_ROWS)])  # pyright: ignore[reportArgumentType]
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=str(folder / f"checkpoint-{cut}") if resume else None)
    return trainer.model  # pyright: ignore[reportReturnType]


def train_accelerate(folder: Path, cut: int, resume: bool) -> nn.Module:
    """`save_state`, `load_state` and, in an epoch's middle, `skip_first_batches`."""
    from accelerate import Accelerator
    from accelerate.utils import DataLoaderConfiguration, set_seed

    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True))
    model = net()
    set_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), LR)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, NUM_STEPS)
    loader = DataLoader(TensorDataset(*rows()), BATCH_ROWS, shuffle=True)
    model, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)
    step, batches = 0, loader
    if resume:
        accelerator.load_state(str(folder))
        step = cut
        loader.set_epoch(cut // STEPS_PER_EPOCH)
        if cut % STEPS_PER_EPOCH:
            batches = accelerator.skip_first_batches(loader, cut % STEPS_PER_EPOCH)
    while step < NUM_STEPS:
        for x, y in batches:
            optimizer.zero_grad()
            accelerator.backward(functional.cross_entropy(model(x), y))
            optimizer.step()
            schedule.step()
            step += 1
            if step == cut and not resume:
                accelerator.save_state(str(folder))
            if step >= NUM_STEPS:
                break
        batches = loader
    return accelerator.unwrap_model(model)


ENGINES = {
    "ours": Engine("this engine", "training_core", train_ours),
    "lightning": Engine("Lightning Trainer", "lightning", train_lightning),
    "accelerate": Engine("Accelerate", "accelerate", train_accelerate),
    "hf": Engine("HF Trainer", "transformers", train_hf),
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    options.add_argument("--train", nargs=4, metavar=("ENGINE", "FOLDER", "CUT", "RESUME"), help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.train:
        name, folder, cut, resume = given.train
        print("sha256", train_here(ENGINES[name], Path(folder), int(cut), resume == "1"))
        return
    table = Table(title=f"bit-exact resume: {NUM_STEPS} steps, cut after one of them")
    for column in ("", "cut at", "straight run repeats", "resumed run is bit-exact"):
        table.add_column(column)
    for name in given.engines:
        engine = ENGINES[name]
        if importlib.util.find_spec(engine.needs) is None:
            table.add_row(engine.label, "", "", f"left out: {engine.needs} is not installed")
            continue
        for cut, what in CUTS.items():
            with tempfile.TemporaryDirectory() as folder:
                straight, again, resumed = (
                    in_a_process(name, Path(folder, place), cut, resume)
                    for place, resume in (("first", False), ("second", False), ("first", True))
                )
            table.add_row(engine.label, what, say(straight == again), say(straight == resumed))
    Console(width=120).print(table)


def train_here(engine: Engine, folder: Path, cut: int, resume: bool) -> str:
    """SHA-256 of the weights after training."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    model = engine.train(folder, cut, resume)
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest()


def in_a_process(name: str, folder: Path, cut: int, resume: bool) -> str:
    """The same, in a process of its own."""
    command = [sys.executable, __file__, "--train", name, str(folder), str(cut), str(int(resume))]
    environment = {**os.environ, "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    found = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("sha256 ")]
    if done.returncode or not found:
        raise SystemExit(f"{name} could not be run:\n{done.stderr[-2000:]}")
    return found[0]


def say(equal: bool) -> str:
    return "yes" if equal else "NO"


if __name__ == "__main__":
    main()
