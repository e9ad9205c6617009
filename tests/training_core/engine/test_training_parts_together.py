"""Schedule, average, stages, curriculum, monitors, early stopping at once: on the real update, and after a resume."""

import io
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from training_core.data.streams.batching import Batching
from training_core.data.streams.resident import DeviceStream
from training_core.engine.hooks import Validation
from training_core.engine.loop import History, Hook, Snapshot, TrainingState, fit
from training_core.engine.training import ScheduleKind, Stage
from training_core.engine.updates.averaging import WeightAverage
from training_core.engine.updates.gradient import GradientUpdate
from training_core.engine.updates.optimizers import OptimizerConfig
from training_core.engine.updates.schedules import ScheduleHook, build_schedule
from training_core.engine.updates.stages import CurriculumHook, CurriculumStage, StagesHook
from training_core.engine.watching.callbacks import EarlyStopping, TimeBudget
from training_core.engine.watching.gradient_monitor import GradientMonitor
from training_core.engine.watching.monitors import LearningRateMonitor
from training_core.engine.watching.training_metrics import MetricsEngine, logits_on
from training_core.objectives import Supervised, WeightedSum
from training_core.schema import Batch, TaskSpec
from training_core.seeding import torch_seeded

TASK = TaskSpec.classification(("a", "b"))
NUM_BATCHES = 5  # per epoch: two windows of two, and half a one
UPDATES_PER_EPOCH = 3
EPOCHS = 8


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.drop, self.head = nn.Linear(3, 8), nn.Dropout(0.3), nn.Linear(8, 2)

    def forward(self, inputs: Mapping[str, Tensor], available: Tensor) -> Tensor:
        return self.head(self.drop(self.body(inputs["x"]).relu()))


class SnapshotAt(Hook):
    """Keeps what a checkpoint taken at `step` would hold, as it reads back from a file; at an epoch's end if `late`."""

    def __init__(self, step: int, late: bool) -> None:
        self.step, self.late, self.kept = step, late, io.BytesIO()

    def on_batch_end(self, state: TrainingState, model: nn.Module) -> None:
        if state.step == self.step and not self.late and state.snapshot is not None:
            torch.save(state.snapshot(), self.kept)

    def on_epoch_end(self, state: TrainingState, model: nn.Module) -> None:
        if state.step == self.step and self.late and state.snapshot is not None:
            torch.save(state.snapshot(), self.kept)


def rows(num_rows: int, seed: int) -> Batch:
    x = torch.randn(num_rows, 3, generator=torch.Generator().manual_seed(seed))
    return Batch({"x": x}, torch.ones(num_rows, 1, dtype=torch.bool), (x.sum(dim=1) > 0).long())


class Training:
    """Everything at once; `train` may be called once."""

    def __init__(self, kind: ScheduleKind, seed: int = 3) -> None:
        with torch_seeded(seed, "net"):
            self.net = Net()
        self.seed = seed
        schedule = build_schedule(
            kind, total_updates=EPOCHS * UPDATES_PER_EPOCH, updates_per_epoch=UPDATES_PER_EPOCH, warmup_epochs=1.5
        )
        average, monitor, judge = WeightAverage(0.7), GradientMonitor(2), Supervised(TASK)
        objective = WeightedSum({"plain": (1.0, judge), "smooth": (1.0, Supervised(TASK, label_smoothing=0.2))})
        update = GradientUpdate(
            objective, OptimizerConfig(lr=0.05), accumulation=2, schedule=schedule, average=average, monitor=monitor
        )
        judged = DeviceStream(rows(20, 1), Batching(7, shuffle=False))
        self.engine, self.rates = MetricsEngine(predict=logits_on(judged)), LearningRateMonitor(update, interval=1)
        self.update = update
        self.hooks: list[Hook] = [
            StagesHook((Stage(epochs=2, frozen=("body",), lr_multiplier=0.5), Stage(epochs=1)), update),
            CurriculumHook(objective, (CurriculumStage(epochs=3, weights={"smooth": 0.0}),)),
            Validation(judge, judged, 6, average),
            monitor,
            ScheduleHook(schedule),
            EarlyStopping("validation/loss", patience=6, average=average),
            self.engine,
            TimeBudget(1e6),
            self.rates,
        ]

    def train(self, last: Hook, resume: Snapshot | None = None) -> History:
        stream = DeviceStream(rows(37, 0), Batching(8, seed=5))
        with torch_seeded(self.seed, "training"):
            return fit(self.net, stream, self.update, [*self.hooks, last], epochs=EPOCHS, resume=resume)


def table(engine: MetricsEngine) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name != "epoch_seconds"} for row in engine.rows()]


@pytest.mark.parametrize("kind", ["plateau", "one_cycle"])
@pytest.mark.parametrize(
    ("step", "late"), [(1, False), (5, False), (5, True), (8, False), (15, True), (16, False), (23, False)]
)
def test_all_of_it_goes_on_from_a_snapshot_bit_for_bit(kind: ScheduleKind, step: int, late: bool) -> None:
    whole, taken = Training(kind), SnapshotAt(step, late)
    history = whole.train(taken)
    taken.kept.seek(0)
    resumed = Training(kind, seed=99)
    assert resumed.train(Hook(), torch.load(taken.kept, weights_only=True)) == history
    weights = resumed.net.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in whole.net.state_dict().items())
    assert table(resumed.engine) == table(whole.engine)
    assert resumed.rates.rows == whole.rates.rows


def test_the_learning_rate_is_that_of_warm_up_schedule_and_stage() -> None:
    training = Training("linear")
    training.train(Hook())
    schedule = build_schedule("linear", total_updates=24, updates_per_epoch=UPDATES_PER_EPOCH, warmup_epochs=1.5)
    by_step = dict(training.rates.rows)
    last_of_epoch = [by_step[epoch * NUM_BATCHES] for epoch in range(1, len(training.engine.rows()) + 1)]
    # the window that is not full is closed after the last batch, so by then two of the epoch's three updates were made
    expected = [
        0.05 * (0.5 if epoch < 2 else 1.0) * schedule.factor(epoch * 3 + 1) for epoch in range(len(last_of_epoch))
    ]
    assert last_of_epoch == pytest.approx(expected, rel=1e-12)
