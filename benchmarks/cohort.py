"""Train learners one by one and as a stack, side by side, and print a table of ratios to the fastest bare loop.

`python benchmarks/cohort.py` takes a few minutes, most of it compiling; `--device cuda` adds the step as a CUDA graph.
Every learner has its own initial weights, bootstrap rows, feature mask and learning rate. The rival is a bare torch
loop with fused Adam, one learner after the other. What counts are the ratios within a run: every round times every
way once, one after the other, in CPU time of this process (on a GPU in wall time, because there it waits); neighbours
that take the processor away do not count, and those that take its caches hit all ways. Beside each ratio stands the
largest difference of the learners' outputs to those of the bare loop after 50 steps from equal weights.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from training_core.engine.cohort.batches import CohortBatch
from training_core.engine.cohort.forms import Form
from training_core.engine.cohort.stacked import StackedModel
from training_core.engine.cohort.update import CohortUpdate
from training_core.engine.updates.gradient import GradientUpdate
from training_core.engine.updates.optimizers import OptimizerConfig
from training_core.learners import FusionNetConfig
from training_core.objectives import Supervised
from training_core.schema import Batch, ColumnSpec, DataSpec, ModalitySpec, TaskSpec

TASK = TaskSpec.classification([str(label) for label in range(10)])
NUM_ROWS, POOL, EQUAL_STEPS = 8192, 64, 50
MODALITIES = (
    ModalitySpec(name="left", kind="vector", shape=(64,)),
    ModalitySpec(name="right", kind="vector", shape=(32,)),
    ModalitySpec(
        name="record",
        kind="tabular",
        shape=(8,),
        columns=tuple(ColumnSpec(name=f"column {i}") for i in range(8)),
        cardinalities=(12, 5),
    ),
    ModalitySpec(name="note", kind="text", shape=(12,), vocabulary_size=500),
)


class SmallMLP(nn.Module):
    """64-128-10, the net of which a step is nearly all overhead."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def forward(self, inputs: Mapping[str, Tensor], available: Tensor) -> Tensor:
        """[B, 64] to [B, 10]."""
        return self.layers(inputs["left"])


@dataclass
class World:
    """Rows, and which of them each of K learners is shown in which step."""

    build: Callable[[], nn.Module]
    values: dict[str, Tensor]
    masks: dict[str, Tensor]
    """Which features each learner sees, [K, …]; only of vectors."""
    labels: Tensor
    rows: Tensor
    """[step, K, B]"""
    rates: list[float]

    @property
    def num_learners(self) -> int:
        """K."""
        return len(self.rates)

    def nets(self) -> list[nn.Module]:
        """Each learner's, with initial weights of its own."""
        found = []
        for seed in range(self.num_learners):
            torch.manual_seed(seed)
            found.append(self.build().to(self.labels.device))
        return found

    def batch(self, step: int, k: int) -> Batch:
        """What learner `k` is shown in a step."""
        rows = self.rows[step % POOL, k]
        inputs = {n: v[rows] * self.masks[n][k] if n in self.masks else v[rows] for n, v in self.values.items()}
        return Batch(inputs, self.everything[0], self.labels[rows])

    def cohort_batch(self, step: int) -> CohortBatch:
        """The same for all learners."""
        rows = self.rows[step % POOL]
        inputs = {n: v[rows] for n, v in self.values.items()}
        inputs |= {n: inputs[n] * mask[:, None] for n, mask in self.masks.items()}
        return CohortBatch(inputs, self.everything, self.labels[rows], self.ones, counts=self.counts)

    def __post_init__(self) -> None:
        _, num_learners, num_rows = self.rows.shape
        device = self.labels.device
        self.everything = torch.ones(num_learners, num_rows, len(self.values), dtype=torch.bool, device=device)
        self.ones = torch.ones(num_learners, num_rows, device=device)
        self.counts = torch.full((num_learners,), num_rows)


def world(net: str, num_learners: int, batch: int, device: str) -> World:
    draws = torch.Generator().manual_seed(1)
    spec = DataSpec(modalities=MODALITIES[: 1 if net == "mlp" else 4], task=TASK)
    values: dict[str, Tensor] = {}
    for modality in spec.modalities:
        shape = (NUM_ROWS, *modality.shape)
        if modality.kind == "text":
            values[modality.name] = torch.randint(1, modality.vocabulary_size, shape, generator=draws)
        else:
            values[modality.name] = torch.randn(shape, generator=draws)
    if "record" in values:
        values["record"][:, 6:] = torch.randint(0, 5, (NUM_ROWS, 2), generator=draws).float()
    seen = {"left": (torch.rand(num_learners, 64, generator=draws) < 0.7).float()}
    return World(
        SmallMLP if net == "mlp" else lambda: FusionNetConfig(dropout=0.0).build(spec, int(torch.initial_seed())),
        {name: tensor.to(device) for name, tensor in values.items()},
        {name: mask.to(device) for name, mask in seen.items()},
        torch.randint(0, 10, (NUM_ROWS,), generator=draws).to(device),
        torch.randint(0, NUM_ROWS, (POOL, num_learners, batch), generator=draws).to(device),
        torch.logspace(-3.5, -2.5, num_learners).tolist(),
    )


Steps = Callable[[], Any]
"""Makes one step of all learners it trains."""


def bare(rows: World, nets: Sequence[nn.Module], k: int) -> Steps:
    """The fastest bare loop: fused Adam, nothing else."""
    net, optimizer, steps = nets[k], torch.optim.Adam(nets[k].parameters(), lr=rows.rates[k], fused=True), count()

    def step() -> None:
        batch = rows.batch(next(steps), k)
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(net(batch.inputs, batch.available), batch.target).backward()
        optimizer.step()

    return step


def config(lr: float) -> OptimizerConfig:
    return OptimizerConfig(kind="adam", lr=lr, weight_decay=0.0)


def alone(rows: World, nets: Sequence[nn.Module], k: int) -> Steps:
    """The engine's own update of one learner."""
    update, steps = GradientUpdate(Supervised(TASK), config(rows.rates[k]), clip_norm=0.0), count()
    update.start(nets[k])
    return lambda: update.step(nets[k], rows.batch(next(steps), k))


def stacked(rows: World, nets: Sequence[nn.Module], form: Form, clip_norm: float = 0.0) -> tuple[Steps, StackedModel]:
    """The engine's update of all learners."""
    stack, steps = StackedModel(nets), count()
    update = CohortUpdate(Supervised(TASK), [config(lr) for lr in rows.rates], clip_norm=clip_norm, form=form)
    update.start(stack)
    return lambda: update.step(stack, rows.cohort_batch(next(steps))), stack


@torch.no_grad()
def difference(rows: World, nets: Sequence[nn.Module], others: Sequence[nn.Module]) -> float:
    """The largest between the outputs of two groups of nets."""
    found = 0.0
    for k, (net, other) in enumerate(zip(nets, others, strict=True)):
        batch = rows.batch(0, k)
        outputs = [each.eval()(batch.inputs, batch.available) for each in (net, other)]
        found = max(found, float((outputs[0] - outputs[1]).abs().max()))
    return found


def differences(rows: World, forms: Sequence[Form]) -> dict[str, float]:
    """Of each way's outputs to the bare loop's, after the same steps."""
    reference = rows.nets()
    for k in range(rows.num_learners):
        step = bare(rows, reference, k)
        for _ in range(EQUAL_STEPS):
            step()
    found: dict[str, float] = {}
    for form in forms:
        nets = rows.nets()
        step, stack = stacked(rows, nets, form)
        for _ in range(EQUAL_STEPS):
            step()
        for k, net in enumerate(nets):
            stack.write_to(k, net)
        found[form] = difference(rows, reference, nets)
    return found


def seconds(step: Steps, device: str, num_steps: int) -> float:
    """Of one step."""
    on_cpu = device == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter
    start = clock()
    for _ in range(num_steps):
        step()
    if not on_cpu:
        torch.cuda.synchronize()
    return (clock() - start) / num_steps


def compare(net: str, num_learners: int, arguments: argparse.Namespace) -> None:
    device: str = arguments.device
    rows = world(net, num_learners, arguments.batch, device)
    forms: list[Form] = ["stacked"]
    forms += [] if arguments.no_compile else ["compiled"]
    forms += ["graphed"] if device.startswith("cuda") else []
    equal = differences(rows, forms)
    few = list(range(0, num_learners, max(1, num_learners // 4)))[:4]  # of the learners, whose time speaks for all
    share = num_learners / len(few)
    loops = {"one by one, bare loop": bare, "one by one, engine": alone}
    ways = {name: ([make(rows, rows.nets(), k) for k in few], share) for name, make in loops.items()}
    ways |= {form: ([stacked(rows, rows.nets(), form)[0]], 1.0) for form in forms}
    ways["stacked, clipped"] = ([stacked(rows, rows.nets(), "stacked", clip_norm=1.0)[0]], 1.0)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(arguments.rounds + 1):
        for name, (steps, weight) in ways.items():
            own = [seconds(step, device, arguments.steps) for step in steps]
            if turn:  # the first round is for warming up
                taken[name].append(sum(own) * weight)
    reference = taken["one by one, bare loop"]
    print(f"\n{net}, {num_learners} learners, batch {arguments.batch}, {device}, torch threads: {arguments.threads}")
    print(f"{'':24}{'µs per step of all':>20}{'median ratio':>14}{'least – most':>16}{'|Δ output|':>12}")
    for name, times in taken.items():
        ratios = [base / own for base, own in zip(reference, times, strict=True)]
        spread = f"{min(ratios):.2f} – {max(ratios):.2f}"
        gap = f"{equal[name]:.1e}" if name in equal else ""
        print(
            f"{name:24}{statistics.median(times) * 1e6:>20,.0f}{statistics.median(ratios):>14.2f}{spread:>16}{gap:>12}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=["mlp", "fusion"], choices=["mlp", "fusion"])
    parser.add_argument("--learners", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=50, help="per round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-compile", action="store_true", help="leave the compiled form out")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for net in arguments.nets:
        for num_learners in arguments.learners:
            compare(net, num_learners, arguments)


if __name__ == "__main__":
    main()
