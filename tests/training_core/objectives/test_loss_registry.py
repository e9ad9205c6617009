"""Losses by name, what of them learners can be trained with, class weights, and sums whose weights change."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from training_core.errors import ConfigError, DataError
from training_core.objectives import (
    LOSSES,
    ClassificationLoss,
    FocalLoss,
    GaussianNLLLoss,
    LanguageModelingLoss,
    Loss,
    LossInputs,
    LossStrategy,
    LossStrategyRegistry,
    PerSampleLoss,
    RegressionLoss,
    Supervised,
    WeightedSum,
    balanced_class_weights,
    default_loss,
    get_loss_strategy,
)
from training_core.schema import Batch, TaskSpec

CLASSES, LABELS, VALUES = TaskSpec.classification(3), TaskSpec.multilabel(2), TaskSpec.regression(2)


class Constant(nn.Module):
    """Answers every row alike."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.arange(float(width)))

    def forward(self, inputs: dict[str, Tensor], available: Tensor) -> Tensor:
        return self.bias.expand(len(available), -1)


class OfMyOwn:
    """The least a strategy can be."""

    def compute_loss(self, logits: Tensor, labels: Tensor, inputs: LossInputs | None = None) -> Tensor:
        return (logits.argmax(1) != labels).double().mean() + 0 * logits.sum()

    def validate_inputs(self, logits: Tensor, labels: Tensor) -> None:
        pass


def rows(target: Tensor, weight: Tensor | None = None) -> Batch:
    return Batch(inputs={}, available=torch.ones(len(target), 1, dtype=torch.bool), target=target, weight=weight)


def test_every_built_in_loss_is_a_strategy_with_a_loss_per_sample() -> None:
    registry = LossStrategyRegistry()
    assert {"language_modeling", "classification", "focal", "huber", "quantile", "gaussian_nll"} <= {*registry.names()}
    for name in registry.names():
        strategy = registry.get(name)
        assert isinstance(strategy, LossStrategy) and isinstance(strategy, PerSampleLoss)
    assert isinstance(get_loss_strategy("language_modeling"), LanguageModelingLoss)


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown loss 'hinge'; choose one of classification, focal"):
        LossStrategyRegistry().get("hinge")
    with pytest.raises(ConfigError, match="unknown loss 'hinge'"):
        Supervised(CLASSES, loss="hinge")


def test_a_registered_strategy_is_found_in_that_registry_only() -> None:
    registry = LossStrategyRegistry()
    mine = OfMyOwn()
    registry.register("mine", mine)
    assert registry.get("mine") is mine and "mine" not in LOSSES.names()


@pytest.mark.parametrize(
    ("name", "strategy", "message"),
    [
        ("focal", OfMyOwn(), "there is a loss 'focal' already"),
        (" ", OfMyOwn(), "cannot be called"),
        ("default", OfMyOwn(), "cannot be called"),
        ("mine", OfMyOwn, "is a class; register an instance"),
        ("mine", nn.CrossEntropyLoss(), r"has no method compute_loss\(logits, labels, inputs\)"),
        ("mine", type("T", (), {"compute_loss": lambda self, logits: 0})(), "compute_loss cannot be called as"),
        (
            "mine",
            type("T", (), {"compute_loss": OfMyOwn.compute_loss, "validate_inputs": lambda self: 0})(),
            "validate_inputs cannot be called as",
        ),
    ],
)
def test_what_is_no_strategy_is_refused_when_it_is_registered(name: str, strategy: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LossStrategyRegistry().register(name, strategy)  # pyright: ignore[reportArgumentType]


def test_the_least_strategy_trains_but_weighs_no_samples() -> None:
    objective = Supervised(CLASSES, loss=OfMyOwn())
    target = torch.tensor([2, 2, 0])
    loss = objective(Constant(3), rows(target))
    assert loss.total.item() == pytest.approx(1 / 3) and list(loss.terms) == ["OfMyOwn"]
    with pytest.raises(DataError, match="no loss per sample, so it cannot weigh samples"):
        objective(Constant(3), rows(target, torch.ones(3)))
    with pytest.raises(ConfigError, match="neither `label_smoothing` nor class weights"):
        Supervised(CLASSES, 0.1, loss=OfMyOwn())


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (CLASSES, "cross_entropy"),
        (LABELS, "binary_cross_entropy"),
        (VALUES, "squared_error"),
        (TaskSpec.language_modeling(9), "next_token_cross_entropy"),
        (TaskSpec.segmentation(3), "pixel_cross_entropy"),
    ],
)
def test_every_task_has_a_loss_of_its_own(task: TaskSpec, expected: str) -> None:
    assert default_loss(task).name == expected
    assert default_loss(task).for_task(task).name == expected


def test_wrapping_losses_take_the_loss_of_the_task_and_its_settings() -> None:
    for task, smoothing in ((CLASSES, 0.1), (LABELS, 0.1), (VALUES, 0.0)):
        for name in ("peft_aware", "quantization_safe"):
            wrapping = Supervised(task, smoothing, loss=name)
            target = torch.tensor([0, 2]) if task is CLASSES else torch.ones(2, 2)
            plain = Supervised(task, smoothing)(Constant(task.num_outputs), rows(target)).total
            wrapped = wrapping(Constant(task.num_outputs), rows(target)).total
            assert wrapped.item() == pytest.approx(plain.item(), rel=0.02)  # quantised logits are not quite the same


def test_a_loss_named_for_learners_needs_one_output_per_target() -> None:
    with pytest.raises(ConfigError, match="'gaussian_nll' needs 2 outputs for each of the 2 targets"):
        Supervised(VALUES, loss="gaussian_nll")
    wide = Supervised(VALUES, loss=GaussianNLLLoss())
    assert wide(Constant(4), rows(torch.zeros(3, 2))).total.isfinite()
    with pytest.raises(DataError, match=r"2 outputs per sample.* wants 4"):
        wide(Constant(2), rows(torch.zeros(3, 2)))


def test_the_loss_says_what_its_mean_is_over() -> None:
    target = torch.tensor([0, 1, 2, 2])
    assert Supervised(CLASSES)(Constant(3), rows(target)).weight is None
    weighted = Supervised(CLASSES, class_weights=(1.0, 2.0, 4.0))(Constant(3), rows(target)).weight
    assert weighted is not None and weighted.item() == 11
    both = Supervised(CLASSES, class_weights=(1.0, 2.0, 4.0))(Constant(3), rows(target, torch.tensor([1.0, 0, 0, 0.5])))
    assert both.weight is not None and both.weight.item() == 3


def test_outputs_of_few_bits_are_summed_up_in_more() -> None:
    class Half(Constant):
        def forward(self, inputs: dict[str, Tensor], available: Tensor) -> Tensor:
            return super().forward(inputs, available).bfloat16()

    loss = Supervised(CLASSES)(Half(3), rows(torch.tensor([0, 1])))
    assert loss.total.dtype == torch.float32


def test_a_batch_without_target_or_with_outputs_of_another_shape_is_refused() -> None:
    with pytest.raises(DataError, match="no target"):
        Supervised(CLASSES)(Constant(3), Batch(inputs={}, available=torch.ones(2, 1, dtype=torch.bool)))
    with pytest.raises(DataError, match=r"got logits float32 \[2, 2\] and labels float32 \[2, 1\]"):
        Supervised(VALUES)(Constant(2), rows(torch.zeros(2, 1)))


def test_balanced_classes_weigh_alike_and_balanced_labels_are_half_positive() -> None:
    target = np.array([0] * 6 + [1] * 3 + [2])
    weights = balanced_class_weights(CLASSES, target)
    assert [weights[c] * n for c, n in enumerate((6, 3, 1))] == pytest.approx([10 / 3] * 3)
    assert balanced_class_weights(TaskSpec.classification(4), target)[3] == 1.0
    labels = np.array([[1, 0], [0, 0], [0, 0], [0, 0]])
    assert balanced_class_weights(LABELS, labels) == (3.0, 1.0)
    with pytest.raises(ConfigError, match="regression"):
        balanced_class_weights(VALUES, np.zeros((3, 2)))


def constant(value: float) -> object:
    def objective(model: nn.Module, batch: Batch) -> Loss:
        calls.append(value)
        return Loss(torch.tensor(value), {"x": torch.tensor(value)})

    return objective


calls: list[float] = []


def test_the_weights_of_a_sum_change_and_a_part_of_weight_nothing_is_not_computed() -> None:
    both = WeightedSum({"one": (3.0, constant(1.0)), "ten": (0.5, constant(10.0))})  # pyright: ignore[reportArgumentType]
    model, batch = Constant(1), rows(torch.zeros(1, 1))
    assert both(model, batch).total.item() == 8.0 and both.weights == {"one": 3.0, "ten": 0.5}
    both.set_weights({"ten": 0})
    calls.clear()
    loss = both(model, batch)
    assert loss.total.item() == 3.0 and list(loss.terms) == ["one/x"] and calls == [1.0]
    kept = both.state_dict()
    both.set_weights({"one": 0, "ten": 2})
    assert both(model, batch).total.item() == 20.0
    both.load_state_dict(kept)
    assert both.weights == {"one": 3.0, "ten": 0.0}


@pytest.mark.parametrize("weights", [{"two": 1.0}, {"one": -1.0}, {"one": float("nan")}, {"one": 0.0, "ten": 0.0}])
def test_weights_that_make_no_sense_are_refused_and_change_nothing(weights: dict[str, float]) -> None:
    both = WeightedSum({"one": (3.0, constant(1.0)), "ten": (0.5, constant(10.0))})  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError):
        both.set_weights(weights)
    assert both.weights == {"one": 3.0, "ten": 0.5}


def test_settings_of_strategies_are_values_that_can_be_changed_for_a_task() -> None:
    focal = FocalLoss(gamma=3.0).with_options(class_weights=(1.0, 2.0, 3.0))
    assert focal.gamma == 3.0 and isinstance(focal.class_weights, Tensor)
    same = ClassificationLoss()
    assert same.with_options() is same and isinstance(RegressionLoss().for_task(VALUES), RegressionLoss)
