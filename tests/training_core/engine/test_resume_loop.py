"""Training that goes on from a snapshot ends as if it had never stopped."""

import gc
import io
import weakref
from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor, nn

from training_core.data.streams.batching import Batching
from training_core.data.streams.resident import DeviceStream
from training_core.engine.epoch_metrics import EpochMetrics
from training_core.engine.hooks import Validation
from training_core.engine.loop import History, Hook, Snapshot, TrainingState, fit
from training_core.engine.updates.gradient import GradientUpdate
from training_core.engine.updates.optimizers import OptimizerConfig
from training_core.errors import ConfigError
from training_core.objectives import Supervised
from training_core.schema import Batch, TaskSpec
from training_core.seeding import torch_seeded

TASK = TaskSpec.classification(("a", "b"))
NUM_BATCHES = 4  # per epoch, the last one not full


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.4), nn.Linear(8, 2))

    def forward(self, inputs: Mapping[str, Tensor], available: Tensor) -> Tensor:
        return self.layers(inputs["x"])


class SnapshotAt(Hook):
    """Keeps what a checkpoint taken at `step` would hold, as it reads back from a file; at an epoch's end if `late`."""

    def __init__(self, step: int, late: bool) -> None:
        self.step, self.late, self.kept = step, late, io.BytesIO()

    def on_batch_end(self, state: TrainingState, model: nn.Module) -> None:
        if state.step == self.step and not self.late:
            self._take(state)

    def on_epoch_end(self, state: TrainingState, model: nn.Module) -> None:
        if state.step == self.step and self.late:
            self._take(state)

    def _take(self, state: TrainingState) -> None:
        assert state.snapshot is not None
        torch.save(state.snapshot(), self.kept)

    def read(self) -> Snapshot:
        self.kept.seek(0)
        return torch.load(self.kept, weights_only=True)


def rows(num_rows: int, seed: int) -> Batch:
    x = torch.randn(num_rows, 3, generator=torch.Generator().manual_seed(seed))
    return Batch({"x": x}, torch.ones(num_rows, 1, dtype=torch.bool), (x.sum(dim=1) > 0).long())


def train(hook: SnapshotAt, resume: Snapshot | None = None, seed: int = 3) -> tuple[dict[str, Tensor], History]:
    with torch_seeded(seed, "net"):
        net = Net()
    judged = DeviceStream(rows(20, 1), Batching(7, shuffle=False))
    hooks = [Validation(Supervised(TASK), judged, patience=3), hook]
    update = GradientUpdate(Supervised(TASK), OptimizerConfig(lr=0.01))
    stream = DeviceStream(rows(30, 0), Batching(8, seed=5))
    with torch_seeded(seed, "training"):
        history = fit(net, stream, update, hooks, epochs=5, resume=resume)
    return net.state_dict(), history


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("step", [1, 3, NUM_BATCHES, NUM_BATCHES + 1, 3 * NUM_BATCHES, 5 * NUM_BATCHES])
def test_a_snapshot_goes_on_bit_for_bit(step: int, late: bool) -> None:
    if late and step % NUM_BATCHES:
        pytest.skip("no epoch ends there")
    taken = SnapshotAt(step, late)
    weights, history = train(taken)
    resumed, continued = train(SnapshotAt(0, False), taken.read(), seed=99)
    assert continued == history
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)


def test_means_are_the_same_whether_or_not_they_were_put_away() -> None:
    values = torch.randn(1300, 2, dtype=torch.float64)
    sizes = torch.randint(1, 9, (1300,))
    whole, parts = EpochMetrics(), EpochMetrics()
    for i, (value, size) in enumerate(zip(values, sizes.tolist(), strict=True)):
        whole.add({"loss": value[0], "norm": value[1]} if i % 2 else {"loss": value[0]}, size)
        parts.add({"loss": value[0], "norm": value[1]} if i % 2 else {"loss": value[0]}, size)
        if i % 400 == 0:
            state = parts.state_dict()
            parts = EpochMetrics()
            parts.load_state_dict(state)
    assert whole.means() == parts.means()
    assert whole.means()["loss"].item() == pytest.approx(float((values[:, 0] * sizes).sum() / sizes.sum()), rel=1e-12)
    odd = slice(1, None, 2)
    expected = float((values[odd, 1] * sizes[odd]).sum() / sizes[odd].sum())
    assert whole.means()["norm"].item() == pytest.approx(expected, rel=1e-12)


def test_a_cohort_s_learners_are_averaged_over_their_own_rows() -> None:
    metrics = EpochMetrics()
    metrics.add({"loss": torch.tensor([1.0, 5.0])}, torch.tensor([2, 4]))
    metrics.add({"loss": torch.tensor([4.0, torch.nan])}, torch.tensor([1, 0]))
    assert metrics.means()["loss"].tolist() == [2.0, 5.0]


def test_the_first_wild_step_is_named_across_blocks() -> None:
    metrics = EpochMetrics()
    for step in range(1, 1201):
        metrics.add({"loss": torch.tensor(float("nan") if step in {900, 1100} else 1.0)}, 1)
    metrics.means()
    assert metrics.first_wild("loss") == 900


class StopAt(Hook):
    """Ends training in the middle of an epoch."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_batch_end(self, state: TrainingState, model: nn.Module) -> None:
        if state.step == self.step:
            state.stop_reason = "enough"


def train_until(step: int, taken: SnapshotAt, resume: Snapshot | None = None) -> tuple[dict[str, Tensor], History]:
    """With windows of two batches, of which the last is half full."""
    torch.manual_seed(0)
    net = Net()
    update = GradientUpdate(Supervised(TASK), OptimizerConfig(lr=0.01), accumulation=2)
    stream = DeviceStream(rows(30, 0), Batching(8, seed=5))
    history = fit(net, stream, update, [StopAt(step), taken], epochs=5, resume=resume)
    return net.state_dict(), history


def test_a_snapshot_of_the_step_that_ended_training_closes_its_epoch() -> None:
    taken = SnapshotAt(NUM_BATCHES + 3, late=False)
    weights, history = train_until(NUM_BATCHES + 3, taken)
    resumed, continued = train_until(NUM_BATCHES + 3, SnapshotAt(0, False), taken.read())
    assert continued == history
    assert len(continued.epochs) == 2
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)


def test_what_trained_is_let_go_as_soon_as_training_is_over() -> None:
    update = GradientUpdate(Supervised(TASK), OptimizerConfig())
    held = weakref.ref(update)
    gc.collect()
    gc.disable()
    try:
        fit(Net(), DeviceStream(rows(30, 0), Batching(8)), update, epochs=1)
        del update
        assert held() is None
    finally:
        gc.enable()


class Counts(Hook):
    """Keeps how many steps it has seen."""

    def __init__(self) -> None:
        self.seen = 0

    def on_batch_end(self, state: TrainingState, model: nn.Module) -> None:
        self.seen += 1

    def state_dict(self) -> dict[str, int]:
        return {type(self).__name__: self.seen}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.seen = state[type(self).__name__]


class CountsToo(Counts):
    """Of another class."""


def go_on(hooks: Sequence[Hook], resume: Snapshot | None = None) -> None:
    update = GradientUpdate(Supervised(TASK), OptimizerConfig(lr=0.01))
    fit(Net(), DeviceStream(rows(30, 0), Batching(8, seed=5)), update, hooks, epochs=2, resume=resume)


def test_a_snapshot_says_which_hooks_it_is_of() -> None:
    taken = SnapshotAt(NUM_BATCHES, late=True)
    go_on([Counts(), CountsToo(), taken])
    snapshot, (first, second) = taken.read(), (Counts(), CountsToo())
    assert snapshot["hook_names"] == ["Counts", "CountsToo"]
    go_on([Hook(), first, second], snapshot)
    assert (first.seen, second.seen) == (2 * NUM_BATCHES, 2 * NUM_BATCHES)
    for others, named in (
        ([second, first], "CountsToo, Counts;"),
        ([first], "Counts;"),
        ([first, second, Counts()], "Counts, CountsToo, Counts;"),
        ([], "none;"),
    ):
        with pytest.raises(ConfigError, match=f"of these hooks: Counts, CountsToo; those that .* here are: {named}"):
            go_on(others, snapshot)


def test_a_snapshot_of_old_is_taken_by_as_many_hooks() -> None:
    """Without names, and with the states of hooks that keep nothing."""
    taken = SnapshotAt(NUM_BATCHES, late=True)
    go_on([Counts(), taken])
    snapshot = taken.read()
    del snapshot["hook_names"]
    snapshot["hooks"].append({})
    first = Counts()
    go_on([first, Hook()], snapshot)
    assert first.seen == 2 * NUM_BATCHES
    with pytest.raises(ConfigError, match="is of 2 hooks, and here are 1; give the same hooks"):
        go_on([Counts()], snapshot)
    with pytest.raises(ConfigError, match="does not hold what CountsToo keeps"):
        go_on([CountsToo(), Hook()], snapshot)
