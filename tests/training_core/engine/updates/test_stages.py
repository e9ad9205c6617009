"""Stages that freeze parts of a net, and curricula that weigh objectives."""

import io
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from training_core.data.streams.batching import Batching
from training_core.data.streams.resident import DeviceStream
from training_core.engine.loop import History, Hook, Snapshot, TrainingState, fit
from training_core.engine.training import Stage
from training_core.engine.updates.gradient import GradientUpdate
from training_core.engine.updates.optimizers import OptimizerConfig
from training_core.engine.updates.stages import CurriculumHook, CurriculumStage, StagesHook
from training_core.errors import ConfigError
from training_core.objectives import Loss, Supervised, WeightedSum
from training_core.schema import Batch, TaskSpec

TASK = TaskSpec.regression(("sum",))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(3, 3) for _ in range(11)])
        self.head = nn.Linear(3, 1)
        self.shift = nn.Parameter(torch.zeros(1))
        self.scale = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, inputs: Mapping[str, Tensor], available: Tensor) -> Tensor:
        hidden = inputs["x"]
        for block in self.blocks:
            hidden = hidden + block(hidden).tanh()
        return self.head(hidden) * self.scale + self.shift


def staged_update() -> GradientUpdate:
    return GradientUpdate(Supervised(TASK), OptimizerConfig(lr=0.01))


class Weights(Hook):
    """Keeps the weights at the end of every epoch, and which parameters require gradients."""

    def __init__(self, update: GradientUpdate) -> None:
        self.update = update
        self.kept: list[dict[str, Tensor]] = []
        self.multipliers: list[float] = []

    def on_epoch_end(self, state: TrainingState, model: nn.Module) -> None:
        self.kept.append({name: value.detach().clone() for name, value in model.named_parameters()})
        self.multipliers.append(self.update.lr_multiplier)


def stream() -> DeviceStream:
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    rows = Batch({"x": x}, torch.ones(20, 1, dtype=torch.bool), x.sum(dim=1, keepdim=True))
    return DeviceStream(rows, Batching(8, seed=5))


def moved(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> set[str]:
    """Modules with a parameter that changed."""
    return {name.rpartition(".")[0] or name for name in before if not torch.equal(before[name], after[name])}


STAGES = (
    Stage(epochs=2, frozen=("blocks",), lr_multiplier=2.0),
    Stage(epochs=1, frozen=("blocks.1", "shift")),
    Stage(epochs=1, lr_multiplier=0.1),
)


def train(stages: tuple[Stage, ...] = STAGES, *hooks: Hook, resume: Snapshot | None = None) -> tuple[Weights, Net]:
    torch.manual_seed(0)
    model, update = Net(), staged_update()
    weights = Weights(update)
    weights.kept.append({name: value.detach().clone() for name, value in model.named_parameters()})
    fit(model, stream(), update, [StagesHook(stages, update), weights, *hooks], epochs=5, name="net", resume=resume)
    return weights, model


def test_frozen_parts_stand_still_and_the_others_learn() -> None:
    weights, _ = train()
    blocks = {f"blocks.{number}" for number in range(11)}
    steps = [moved(before, after) for before, after in zip(weights.kept, weights.kept[1:], strict=False)]
    assert steps == [
        {"head", "shift"},
        {"head", "shift"},
        {"head"} | blocks - {"blocks.1"},  # blocks.10 is another name
        {"head", "shift"} | blocks,
        {"head", "shift"} | blocks,
    ]
    assert weights.multipliers == [2.0, 2.0, 1.0, 0.1, 0.1]


def test_after_training_requires_gradients_what_did_before() -> None:
    _, model = train((Stage(epochs=5, frozen=("blocks",)),))
    assert [name for name, value in model.named_parameters() if not value.requires_grad] == ["scale"]


def test_frozen_parameters_have_no_gradient_left() -> None:
    model, update = Net(), staged_update()
    hook = StagesHook((Stage(epochs=1, frozen=("head",)),), update)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    hook.on_training_start(TrainingState("net", 1), model)
    hook.on_epoch_start(TrainingState("net", 1, epoch=1), model)
    assert model.head.weight.grad is None
    assert model.shift.grad is not None


@pytest.mark.parametrize("step", [1, 4, 6, 7, 9, 10])
def test_stages_go_on_from_a_snapshot_bit_for_bit(step: int) -> None:
    """In the middle of a stage, at its end, and at its first step."""

    class SnapshotAt(Hook):
        kept = io.BytesIO()

        def on_batch_end(self, state: TrainingState, model: nn.Module) -> None:
            if state.step == step and state.snapshot is not None:
                self.kept = io.BytesIO()
                torch.save(state.snapshot(), self.kept)

    taken = SnapshotAt()
    whole, _ = train(STAGES, taken)
    taken.kept.seek(0)
    resumed, _ = train(STAGES, Hook(), resume=torch.load(taken.kept, weights_only=True))
    assert not moved(whole.kept[-1], resumed.kept[-1])
    assert resumed.multipliers == whole.multipliers[-len(resumed.multipliers) :]


def test_a_name_there_is_not_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(
        ConfigError, match=r"net: stage 2 freezes 'encoder', but .* there are shift, scale, blocks\.0, .*head"
    ):
        train((Stage(epochs=1), Stage(epochs=1, frozen=("encoder",))))


def test_a_stage_that_freezes_everything_is_refused_before_training() -> None:
    with pytest.raises(ConfigError, match="net: stage 1 freezes every parameter; leave one to train"):
        train((Stage(epochs=1, frozen=("blocks", "head", "shift")),))


class Part:
    """An objective that counts how often it was asked."""

    def __init__(self) -> None:
        self.num_calls = 0

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        self.num_calls += 1
        total = model(batch.inputs, batch.available).square().mean()
        return Loss(total, {"size": total})


def train_curriculum(
    stages: tuple[CurriculumStage, ...], *hooks: Hook, resume: Snapshot | None = None
) -> tuple[History, Part, Net]:
    torch.manual_seed(0)
    model, part = Net(), Part()
    objective = WeightedSum({"target": (1.0, Supervised(TASK)), "small": (0.5, part)})
    update = GradientUpdate(objective, OptimizerConfig(lr=0.01))
    curriculum = CurriculumHook(objective, stages)
    return fit(model, stream(), update, [curriculum, *hooks], epochs=4, resume=resume), part, model


CURRICULUM = (
    CurriculumStage(epochs=1, weights={"small": 0.0}),
    CurriculumStage(epochs=2, weights={"small": 2.0}),
    CurriculumStage(epochs=1, weights={}),
)


def test_a_curriculum_changes_what_objectives_count_and_switches_them_off() -> None:
    history, part, _ = train_curriculum(CURRICULUM)
    assert part.num_calls == 3 * 3
    assert "training/small/size" not in history.epochs[0]
    for metrics, weight in zip(history.epochs[1:], (2.0, 2.0, 0.5), strict=True):
        expected = metrics["training/target/squared_error"] + weight * metrics["training/small/size"]
        assert metrics["training/loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("step", [2, 3, 5])
def test_a_curriculum_goes_on_from_a_snapshot_bit_for_bit(step: int) -> None:
    class SnapshotAt(Hook):
        kept = io.BytesIO()

        def on_batch_end(self, state: TrainingState, model: nn.Module) -> None:
            if state.step == step and state.snapshot is not None:
                self.kept = io.BytesIO()
                torch.save(state.snapshot(), self.kept)

    taken = SnapshotAt()
    whole, _, model = train_curriculum(CURRICULUM, taken)
    taken.kept.seek(0)
    resumed, _, again = train_curriculum(CURRICULUM, Hook(), resume=torch.load(taken.kept, weights_only=True))
    assert resumed == whole
    assert not moved(dict(model.named_parameters()), dict(again.named_parameters()))


def test_a_curriculum_refuses_what_it_cannot_weigh() -> None:
    with pytest.raises(ConfigError, match="stage 1 of the curriculum weighs 'large'; there are target, small"):
        train_curriculum((CurriculumStage(epochs=1, weights={"large": 1.0}),))
    with pytest.raises(ConfigError, match="stage 1 of the curriculum leaves no objective that counts; keep one above"):
        train_curriculum((CurriculumStage(epochs=1, weights={"target": 0.0, "small": 0.0}),))
