"""Several batches per update end where one large batch would, however unequal and weighted they are."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from training_core.engine.loop import History, Hook, Snapshot, TrainingState, fit
from training_core.engine.updates.accumulation import Clipping, joint_norm
from training_core.engine.updates.averaging import WeightAverage
from training_core.engine.updates.gradient import GradientUpdate
from training_core.engine.updates.optimizers import OptimizerConfig
from training_core.engine.updates.schedules import build_schedule
from training_core.objectives import Loss, Supervised
from training_core.schema import Batch, TaskSpec
from training_core.seeding import torch_seeded

TASK = TaskSpec.classification(("a", "b", "c"))
ADAM = OptimizerConfig(kind="adamw", lr=0.05)


class Net(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 3))

    def forward(self, inputs: Mapping[str, Tensor], available: Tensor) -> Tensor:
        return self.layers(inputs["x"])


def rows(num_rows: int, weighted: bool, dtype: torch.dtype = torch.float64, seed: int = 0) -> Batch:
    draws = torch.Generator().manual_seed(seed)
    x = torch.randn(num_rows, 4, dtype=dtype, generator=draws)
    weight = torch.rand(num_rows, dtype=dtype, generator=draws) * 3 if weighted else None
    target = torch.randint(0, 3, (num_rows,), generator=draws)
    return Batch({"x": x}, torch.ones(num_rows, 1, dtype=torch.bool), target, weight)


def cut(batch: Batch, sizes: Sequence[int]) -> list[Batch]:
    pieces, start = [], 0
    for size in sizes:
        here = slice(start, start + size)
        assert batch.target is not None
        weight = None if batch.weight is None else batch.weight[here]
        pieces.append(Batch({"x": batch.inputs["x"][here]}, batch.available[here], batch.target[here], weight))
        start += size
    return pieces


def train(batches: Sequence[Batch], objective: Any, epochs: int = 3, **settings: Any) -> tuple[Net, History]:
    net = Net().double()
    history = fit(net, batches, GradientUpdate(objective, ADAM, **settings), epochs=epochs)
    return net, history


@pytest.mark.parametrize("class_weights", [None, (1.0, 2.0, 5.0)])
@pytest.mark.parametrize("weighted", [False, True])
def test_unequal_batches_make_the_same_updates_as_one_large_batch(
    weighted: bool, class_weights: tuple[float, ...] | None
) -> None:
    objective = Supervised(TASK, class_weights=class_weights)
    whole = rows(24, weighted)
    large, together = train([whole], objective, clip_norm=0.1)
    small, apart = train(cut(whole, [1, 9, 3, 11]), objective, clip_norm=0.1, accumulation=4)
    for one, other in zip(large.parameters(), small.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    for before, after in zip(together.epochs, apart.epochs, strict=True):
        # The weights of the classes are float32, and so is what they sum to.
        assert after["training/loss"] == pytest.approx(before["training/loss"], rel=1e-6 if class_weights else 1e-12)


def test_the_mean_of_means_would_have_been_something_else() -> None:
    whole = rows(24, weighted=False)
    large, _ = train([whole], Supervised(TASK))
    net = Net().double()
    optimizer = ADAM.build(net)
    for _ in range(3):
        for piece in cut(whole, [1, 9, 3, 11]):
            (Supervised(TASK)(net, piece).total / 4).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert not torch.allclose(large.layers[0].weight, net.layers[0].weight, atol=1e-3)


def test_batches_left_over_at_the_end_of_an_epoch_make_an_update_of_their_own() -> None:
    whole = rows(20, weighted=False)
    expected = Net().double()
    by_hand = ADAM.build(expected)
    for _ in range(2):
        for window in cut(whole, [12, 8]):
            Supervised(TASK)(expected, window).total.backward()
            by_hand.step()
            by_hand.zero_grad()
    net = Net().double()
    update = GradientUpdate(Supervised(TASK), ADAM, clip_norm=0.0, accumulation=3)
    fit(net, cut(whole, [4, 4, 4, 4, 4]), update, epochs=2)
    assert update.num_updates == 4
    for one, other in zip(expected.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_the_gradient_s_norm_is_reported_by_the_steps_that_update_and_is_that_of_the_window() -> None:
    whole = rows(8, weighted=False)
    net = Net().double()
    update = GradientUpdate(Supervised(TASK), ADAM, accumulation=2)
    update.start(net)
    first, second = (update.step(net, piece) for piece in cut(whole, [3, 5]))
    assert list(first) == ["loss"]
    assert list(second) == ["loss", "gradient_norm"]
    fresh = Net().double()
    Supervised(TASK)(fresh, whole).total.backward()
    expected = torch.cat([p.grad.flatten() for p in fresh.parameters() if p.grad is not None]).norm()
    assert float(second["gradient_norm"]) == pytest.approx(float(expected), rel=1e-12)


def test_samples_that_all_weigh_nothing_change_nothing() -> None:
    whole = rows(6, weighted=True)
    assert whole.weight is not None
    whole.weight.zero_()
    net = Net().double()
    before = [parameter.detach().clone() for parameter in net.parameters()]
    update = GradientUpdate(Supervised(TASK), OptimizerConfig(kind="sgd", lr=1.0, weight_decay=0.0), accumulation=2)
    update.start(net)
    for piece in cut(whole, [2, 4]):
        update.step(net, piece)
    assert all(torch.equal(old, new) for old, new in zip(before, net.parameters(), strict=True))


def test_the_stats_tell_steps_updates_and_norms_without_reading_the_device() -> None:
    net = Net().double()
    update = GradientUpdate(Supervised(TASK), ADAM, clip_norm=0.01, accumulation=2)
    update.start(net)
    for piece in cut(rows(15, weighted=False), [5, 5, 5]):
        update.step(net, piece)
    stats = update.stats
    assert (stats.global_step, stats.effective_step, stats.num_batches) == (3, 1, 1)
    assert stats.num_parameters == 4 * 8 + 8 + 8 * 3 + 3
    assert stats.norm_before_clip is not None
    assert stats.norm_after_clip is not None
    assert float(stats.norm_before_clip) > 0.01
    assert float(stats.norm_after_clip) == pytest.approx(0.01)


def test_both_bounds_hold_after_clipping_and_the_norm_afterwards_is_known() -> None:
    torch.manual_seed(0)
    gradients = [torch.randn(5, 3), torch.randn(7)]
    clipping = Clipping(norm=2.0, value=0.3)
    clipping(gradients, joint_norm(gradients))
    after = clipping.norm_after
    assert after is not None
    assert max(float(gradient.abs().max()) for gradient in gradients) == pytest.approx(0.3)
    assert float(after) == pytest.approx(float(torch.cat([g.flatten() for g in gradients]).norm()), rel=1e-6)
    assert float(after) < 2.0


def test_clipping_by_value_agrees_with_torch() -> None:
    ours, theirs = Net().double(), Net().double()
    batch = rows(9, weighted=False)
    sgd = OptimizerConfig(kind="sgd", lr=1.0, weight_decay=0.0, momentum=0.0)
    update = GradientUpdate(Supervised(TASK), sgd, clip_norm=0.0, clip_value=0.02)
    update.start(ours)
    update.step(ours, batch)
    Supervised(TASK)(theirs, batch).total.backward()
    nn.utils.clip_grad_value_(theirs.parameters(), 0.02)
    torch.optim.SGD(theirs.parameters(), lr=1.0).step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


class SnapshotAt(Hook):
    def __init__(self, step: int) -> None:
        self.step, self.kept = step, io.BytesIO()

    def on_batch_end(self, state: TrainingState, model: nn.Module) -> None:
        if state.step == self.step:
            assert state.snapshot is not None
            torch.save(state.snapshot(), self.kept)

    def read(self) -> Snapshot:
        self.kept.seek(0)
        return torch.load(self.kept, weights_only=True)


class Batches:
    """Five batches; knows how many were taken."""

    def __init__(self) -> None:
        self.position = 0

    def __iter__(self) -> Any:
        for batch in cut(rows(35, weighted=True, dtype=torch.float32), [8, 8, 8, 8, 3])[self.position :]:
            self.position = (self.position + 1) % 5
            yield batch

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.position = state["position"]


SETTINGS: dict[str, dict[str, Any]] = {
    "accumulating": {"accumulation": 3},
    "bf16": {"accumulation": 2, "precision": "bf16"},
    "fp16": {"accumulation": 2, "precision": "fp16"},
    "checkpointing": {"accumulation": 2, "gradient_checkpointing": True},
    "clipping by value": {"clip_value": 0.01},
}


def interrupted(settings: Mapping[str, Any], hook: SnapshotAt, kind: str, resume: Snapshot | None, seed: int) -> Any:
    net, average = Net(dropout=0.3), WeightAverage(0.9)
    schedule = build_schedule("one_cycle", total_updates=12, updates_per_epoch=3)
    optimizer = OptimizerConfig.parse({"kind": kind, "lr": 0.02}, "test")
    update = GradientUpdate(Supervised(TASK), optimizer, schedule=schedule, average=average, **settings)
    with torch_seeded(seed, "training"):
        history = fit(net, Batches(), update, [hook], epochs=3, resume=resume)
    return [*net.parameters(), *average.state_dict()["average"]], history, update.num_updates, update.lr


@pytest.mark.parametrize("step", [1, 2, 4, 5, 7, 14])
@pytest.mark.parametrize("name", SETTINGS)
def test_an_update_goes_on_bit_for_bit_in_the_middle_of_a_window(name: str, step: int) -> None:
    hook = SnapshotAt(step)
    weights, history, num_updates, lr = interrupted(SETTINGS[name], hook, "adamw", None, seed=1)
    resumed, continued, num_continued, lr_continued = interrupted(
        SETTINGS[name], SnapshotAt(0), "adamw", hook.read(), seed=2
    )
    assert all(torch.equal(one, other) for one, other in zip(weights, resumed, strict=True))
    assert (history, num_updates, lr) == (continued, num_continued, lr_continued)


@pytest.mark.parametrize("kind", ["adam", "sgd", "radam", "lion", "sophia"])
def test_every_optimizer_goes_on_bit_for_bit(kind: str) -> None:
    if kind in {"lion", "sophia"}:
        pytest.importorskip("pytorch_optimizer")
    hook = SnapshotAt(6)  # sophia's estimate of the curvature, made in the first update, is in the state by then
    weights, history, *_ = interrupted({"accumulation": 2}, hook, kind, None, seed=1)
    resumed, continued, *_ = interrupted({"accumulation": 2}, SnapshotAt(0), kind, hook.read(), seed=2)
    assert all(torch.equal(one, other) for one, other in zip(weights, resumed, strict=True))
    assert history == continued


def test_a_snapshot_is_not_changed_by_those_who_go_on_from_it() -> None:
    hook = SnapshotAt(4)
    interrupted({"accumulation": 3}, hook, "adamw", None, seed=1)
    snapshot = hook.read()
    first, *_ = interrupted({"accumulation": 3}, SnapshotAt(0), "adamw", snapshot, seed=2)
    second, *_ = interrupted({"accumulation": 3}, SnapshotAt(0), "adamw", snapshot, seed=3)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_the_loss_of_a_step_is_that_of_its_batch() -> None:
    net = Net().double()
    update = GradientUpdate(Supervised(TASK), ADAM, accumulation=2)
    update.start(net)
    batch = rows(5, weighted=True)
    loss: Loss = Supervised(TASK)(net, batch)
    assert float(update.step(net, batch)["loss"]) == float(loss.total.detach())
    assert batch.weight is not None
    assert float(update.num_rows(batch)) == pytest.approx(float(batch.weight.sum()))
