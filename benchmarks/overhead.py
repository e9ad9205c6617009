"""What a training step costs beside the arithmetic: the engine and its peers against a bare loop, side by side.

`python benchmarks/overhead.py` takes about a minute. The net is a small perceptron, with which every microsecond of
Python shows; the bare loop is `zero_grad`, forward, `backward`, `step` with fused Adam. The source of batches looks at
the clock when the first batch after the warm-up, and when the last one, is asked for, so nothing is added to any engine
and neither setting up nor tidying up counts. Every round runs every engine once, one after the other; what counts are
the ratios within a round, in process CPU time, because neighbours on the machine change wall time. Peers take part when
they are installed: `pip install polychoir[bench]`.
"""

import argparse
import importlib.util
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional

from training_core.engine.loop import Hook, TrainingState, fit
from training_core.engine.updates.gradient import GradientUpdate
from training_core.engine.updates.optimizers import OptimizerConfig
from training_core.engine.updates.schedules import build_schedule
from training_core.objectives import Supervised
from training_core.schema import Batch, TaskSpec

NUM_FEATURES, NUM_HIDDEN, NUM_CLASSES = 64, 128, 10
NUM_ROWS = 16_384


class Source:
    """The same batches again and again, `num_steps` of them; stamps the clock at `warmup` and at the last one."""

    def __init__(self, batches: list[Any], num_steps: int, warmup: int) -> None:
        self._batches, self._num_steps, self._warmup = batches, num_steps, warmup
        self._stamps: list[float] = []

    def __len__(self) -> int:
        return self._num_steps

    def __iter__(self) -> Iterator[Any]:
        for step in range(self._num_steps):
            if step in (self._warmup, self._num_steps - 1):
                self._stamps.append(time.process_time())
            yield self._batches[step % len(self._batches)]

    @property
    def seconds_per_step(self) -> float:
        """From the first batch after the warm-up to the last, exclusive."""
        began, ended = self._stamps
        return (ended - began) / (self._num_steps - 1 - self._warmup)


@dataclass
class Contest:
    """What every engine is given: the same rows, the same first weights, the same optimiser."""

    batch_rows: int
    num_steps: int
    warmup: int

    def __post_init__(self) -> None:
        draws = torch.Generator().manual_seed(0)
        x = torch.randn(NUM_ROWS, NUM_FEATURES, generator=draws)
        y = torch.randint(0, NUM_CLASSES, (NUM_ROWS,), generator=draws)
        cuts = range(0, NUM_ROWS - self.batch_rows + 1, self.batch_rows)
        self.pairs = [(x[start : start + self.batch_rows], y[start : start + self.batch_rows]) for start in cuts]

    def layers(self) -> nn.Sequential:
        """The net, the same weights each time."""
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(NUM_FEATURES, NUM_HIDDEN), nn.ReLU(), nn.Linear(NUM_HIDDEN, NUM_CLASSES))

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Fused Adam."""
        return torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def source(self, batches: list[Any] | None = None) -> Source:
        """A source of `batches`; of pairs (x, y) by default."""
        return Source(self.pairs if batches is None else batches, self.num_steps, self.warmup)


Engine = Callable[[Contest], Source]


def bare(contest: Contest) -> Source:
    model, source = contest.layers(), contest.source()
    optimizer = contest.optimizer(model)
    for x, y in source:
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return source


def bare_with_extras(contest: Contest) -> Source:
    """The usual ways to clip, to schedule and to sum the loss."""
    model, source = contest.layers(), contest.source()
    optimizer = contest.optimizer(model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / contest.num_steps)
    parameters, total, norms = list(model.parameters()), torch.zeros(()), torch.zeros(())
    for x, y in source:
        optimizer.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(model(x), y)
        loss.backward()
        norms += nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        total += loss.detach()
    return source


class OneModality(nn.Module):
    """The layers, as a learner of one modality."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, inputs: dict[str, Tensor], available: Tensor) -> Tensor:
        """Raw outputs."""
        return self.layers(inputs["x"])


class Listener(Hook):
    """Listens to every step."""

    def on_batch_end(self, state: TrainingState, model: nn.Module) -> None:
        """Nothing, once per step."""


def engine(contest: Contest, has_extras: bool) -> Source:
    task = TaskSpec.classification(tuple(f"{code}" for code in range(NUM_CLASSES)))
    present = torch.ones(contest.batch_rows, 1, dtype=torch.bool)
    source = contest.source([Batch({"x": x}, present, y) for x, y in contest.pairs])
    optimizer = OptimizerConfig(kind="adam", lr=1e-3, weight_decay=0.0)
    if has_extras:
        schedule = build_schedule("linear", total_updates=contest.num_steps, updates_per_epoch=contest.num_steps)
        update = GradientUpdate(Supervised(task), optimizer, schedule=schedule)
    else:
        update = GradientUpdate(Supervised(task), optimizer, clip_norm=0.0, measures_norm=False)
    fit(OneModality(contest.layers()), source, update, [Listener()] if has_extras else [], epochs=1)
    return source


def lightning(contest: Contest, has_extras: bool) -> Source:
    import lightning as peer
    from lightning.pytorch.loggers import CSVLogger

    class Module(peer.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layers = contest.layers()

        def training_step(self, batch: Any, number: int) -> Tensor:
            x, y = batch
            loss = functional.cross_entropy(self.layers(x), y)
            if has_extras:
                self.log("loss", loss, on_step=False, on_epoch=True)
            return loss

        def configure_optimizers(self) -> Any:
            return contest.optimizer(self)

    source = contest.source()
    with tempfile.TemporaryDirectory(prefix="polychoir-bench-") as folder:
        peer.Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=CSVLogger(folder) if has_extras else False,
            gradient_clip_val=1.0 if has_extras else None,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(Module(), source)
    return source


def fabric(contest: Contest) -> Source:
    from lightning.fabric import Fabric

    peer, source = Fabric(accelerator="cpu", devices=1), contest.source()
    layers = contest.layers()
    model, optimizer = peer.setup(layers, contest.optimizer(layers))
    for x, y in source:
        optimizer.zero_grad(set_to_none=True)
        peer.backward(functional.cross_entropy(model(x), y))
        optimizer.step()
    return source


def accelerate(contest: Contest, has_extras: bool) -> Source:
    from accelerate import Accelerator

    peer, source = Accelerator(cpu=True), contest.source()
    layers = contest.layers()
    plain = contest.optimizer(layers)
    schedule = torch.optim.lr_scheduler.LambdaLR(plain, lambda step: 1 - step / contest.num_steps)
    model, optimizer, schedule = peer.prepare(layers, plain, schedule)
    for x, y in source:
        optimizer.zero_grad(set_to_none=True)
        peer.backward(functional.cross_entropy(model(x), y))
        if has_extras:
            peer.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if has_extras:
            schedule.step()
    return source


def transformers(contest: Contest) -> Source:
    """`Trainer`, which clips unless told otherwise."""
    from transformers import Trainer, TrainingArguments
    from transformers.trainer_callback import PrinterCallback

    source = contest.source([{"x": x, "labels": y} for x, y in contest.pairs])

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = contest.layers()

        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            raw = self.layers(x)
            return {"loss": functional.cross_entropy(raw, labels), "logits": raw}

    class OwnBatches(Trainer):
        def get_train_dataloader(self) -> Any:
            return source

    model = Model()
    with tempfile.TemporaryDirectory(prefix="polychoir-bench-") as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=contest.num_steps,
            per_device_train_batch_size=contest.batch_rows,
            report_to=[],
            use_cpu=True,
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = OwnBatches(
            model, arguments, train_dataset=[0] * NUM_ROWS, optimizers=(contest.optimizer(model), None)
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return source


def engines() -> dict[str, Engine]:
    """By name; the first is what the others are compared with. Peers only where they are installed."""
    found: dict[str, Engine] = {
        "bare loop": bare,
        "bare loop, extras": bare_with_extras,
        "Polychoir": lambda contest: engine(contest, has_extras=False),
        "Polychoir, extras": lambda contest: engine(contest, has_extras=True),
    }
    if importlib.util.find_spec("lightning"):
        found["Fabric"] = fabric
        found["Lightning"] = lambda contest: lightning(contest, has_extras=False)
        found["Lightning, clip and log"] = lambda contest: lightning(contest, has_extras=True)
    if importlib.util.find_spec("accelerate"):
        found["Accelerate"] = lambda contest: accelerate(contest, has_extras=False)
        found["Accelerate, clip and schedule"] = lambda contest: accelerate(contest, has_extras=True)
        if importlib.util.find_spec("transformers"):
            found["Hugging Face Trainer, clip"] = transformers
    return found


def compare(contest: Contest, rounds: int, only: str) -> Table:
    """Rounds of all engines."""
    found = engines()
    first = next(iter(found))
    found = {name: run for name, run in found.items() if name == first or only in name}
    times: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(rounds):
        for name, run in found.items():
            times[name].append(run(contest).seconds_per_step)
    net = f"{NUM_FEATURES}-{NUM_HIDDEN}-{NUM_CLASSES}"
    title = f"perceptron {net}, batch {contest.batch_rows}, fused Adam, extras: clipping, norm, schedule, loss, hook"
    table = Table("engine", "µs per step", "median ratio", "least – most", "fastest of fastest", title=title)
    for name, taken in times.items():
        ratios = [own / base for own, base in zip(taken, times[first], strict=True)]
        table.add_row(
            name,
            f"{1e6 * statistics.median(taken):.0f}",
            f"{statistics.median(ratios):.3f}",
            f"{min(ratios):.3f} – {max(ratios):.3f}",
            f"{min(taken) / min(times[first]):.3f}",
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 256])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--warmup", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="engines whose name holds this, and the bare loop")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    warnings.filterwarnings("ignore")  # peers advise about loaders that are not used here
    logging.disable(logging.WARNING)
    console = Console(width=120)
    for batch_rows in arguments.batch:
        contest = Contest(batch_rows, arguments.steps, arguments.warmup)
        console.print(compare(contest, arguments.rounds, arguments.only))


if __name__ == "__main__":
    main()
