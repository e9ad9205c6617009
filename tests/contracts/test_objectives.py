"""What every objective promises: closed forms, right gradients, no dependence on the order of a batch, named terms."""

import math

import pytest
import torch
from torch import Tensor, nn

from training_core.errors import ConfigError
from training_core.objectives import Loss, Objective, Supervised, WeightedSum, activate
from training_core.schema import Batch, TaskSpec

pytestmark = pytest.mark.filterwarnings("error")

CLASSES = TaskSpec.classification("abc")
LABELS = TaskSpec.multilabel("ab")
VALUES = TaskSpec.regression(("height", "weight"))


class Given(nn.Module):
    """A model that answers with its own parameters, whatever it is shown."""

    def __init__(self, raw: Tensor) -> None:
        super().__init__()
        self.raw = nn.Parameter(raw)

    def forward(self, inputs: dict[str, Tensor], available: Tensor) -> Tensor:
        return self.raw


class Judge(nn.Module):
    """An objective as a module, so that it can be called with other parameters."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, batch: Batch) -> Tensor:
        return self.objective(self.model, batch).total


def batch(target: Tensor, weight: Tensor | None = None) -> Batch:
    return Batch(inputs={}, available=torch.ones(len(target), 1, dtype=torch.bool), target=target, weight=weight)


def example(task: TaskSpec) -> tuple[Tensor, Tensor, Tensor]:
    """Raw outputs, target and weight of five samples."""
    source = torch.Generator().manual_seed(3)
    raw = torch.randn(5, task.num_outputs, generator=source, dtype=torch.float64)
    target = torch.randn(5, task.num_outputs, generator=source, dtype=torch.float64)
    if task.kind == "multilabel":
        target = (target > 0).double()
    if task.kind == "classification":
        target = torch.tensor([0, 2, 1, 1, 0])
    return raw, target, torch.tensor([1.0, 2.0, 0.5, 0.0, 3.0], dtype=torch.float64)


OBJECTIVES = {
    "classes": (CLASSES, Supervised(CLASSES)),
    "classes, smoothed and weighted": (CLASSES, Supervised(CLASSES, 0.1, (1.0, 2.0, 3.0))),
    "labels": (LABELS, Supervised(LABELS)),
    "labels, smoothed and weighted": (LABELS, Supervised(LABELS, 0.1, (2.0, 3.0))),
    "focal": (CLASSES, Supervised(CLASSES, class_weights=(1.0, 2.0, 3.0), loss="focal")),
    "focal labels": (LABELS, Supervised(LABELS, class_weights=(2.0, 3.0), loss="multilabel_focal")),
    "images": (CLASSES, Supervised(CLASSES, 0.1, loss="vision")),
    "values": (VALUES, Supervised(VALUES)),
    "huber": (VALUES, Supervised(VALUES, loss="huber")),
    "median": (VALUES, Supervised(VALUES, loss="quantile")),
    "adapters": (CLASSES, Supervised(CLASSES, 0.1, loss="peft_aware")),
    "sum": (VALUES, WeightedSum({"a": (0.5, Supervised(VALUES)), "b": (2.0, Supervised(VALUES))})),
}
every_objective = pytest.mark.parametrize(("task", "objective"), OBJECTIVES.values(), ids=list(OBJECTIVES))


@every_objective
def test_gradient_is_that_of_finite_differences(task: TaskSpec, objective: Objective) -> None:
    raw, target, weight = example(task)
    model = Given(raw.clone())
    objective(model, batch(target, weight)).total.backward()
    assert model.raw.grad is not None
    step = 1e-6
    for i, j in [(0, 0), (1, 1), (4, task.num_outputs - 1)]:
        moved = torch.zeros_like(raw)
        moved[i, j] = step
        with torch.no_grad():
            up = objective(Given(raw + moved), batch(target, weight)).total
            down = objective(Given(raw - moved), batch(target, weight)).total
        assert float(model.raw.grad[i, j]) == pytest.approx(float(up - down) / (2 * step), rel=1e-5, abs=1e-9)


@every_objective
def test_a_cohort_of_models_under_vmap_gets_the_losses_and_gradients_of_each(
    task: TaskSpec, objective: Objective
) -> None:
    raw, target, weight = example(task)
    stacked = torch.stack([raw, raw.flip(0) * 0.5, raw + 1])

    def one(raw: Tensor, weight: Tensor) -> Tensor:
        model = Given(torch.zeros_like(raw))
        return torch.func.functional_call(Judge(model, objective), {"model.raw": raw}, (batch(target, weight),))

    weights = torch.stack([weight, weight.flip(0), torch.zeros_like(weight)])
    gradients, losses = torch.func.vmap(torch.func.grad_and_value(one))(stacked, weights)
    for k in range(3):
        model = Given(stacked[k].clone())
        total = objective(model, batch(target, weights[k])).total
        total.backward()
        assert model.raw.grad is not None
        torch.testing.assert_close(losses[k], total.detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradients[k], model.raw.grad, rtol=1e-12, atol=1e-12)


@every_objective
def test_order_of_the_batch_does_not_matter(task: TaskSpec, objective: Objective) -> None:
    raw, target, weight = example(task)
    order = torch.tensor([3, 1, 4, 0, 2])
    straight = objective(Given(raw), batch(target, weight)).total
    shuffled = objective(Given(raw[order]), batch(target[order], weight[order])).total
    assert straight.item() == pytest.approx(shuffled.item(), rel=1e-12)


@every_objective
def test_a_sample_of_weight_two_counts_like_two_samples(task: TaskSpec, objective: Objective) -> None:
    raw, target, _ = example(task)
    weight = torch.tensor([2.0, 1.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    rows = torch.tensor([0, 0, 1, 2, 3])
    weighted = objective(Given(raw), batch(target, weight)).total
    repeated = objective(Given(raw[rows]), batch(target[rows])).total
    assert weighted.item() == pytest.approx(repeated.item(), rel=1e-12)


@every_objective
def test_terms_are_named_scalars(task: TaskSpec, objective: Objective) -> None:
    raw, target, weight = example(task)
    loss = objective(Given(raw), batch(target, weight))
    assert loss.terms and all(name and term.ndim == 0 for name, term in loss.terms.items())


def test_cross_entropy_of_even_logits_is_the_logarithm_of_the_number_of_classes() -> None:
    loss = Supervised(CLASSES)(Given(torch.zeros(4, 3)), batch(torch.tensor([0, 1, 2, 0])))
    assert loss.total.item() == pytest.approx(math.log(3))
    assert list(loss.terms) == ["cross_entropy"]


def test_binary_cross_entropy_of_even_logits_is_the_logarithm_of_two() -> None:
    loss = Supervised(LABELS)(Given(torch.zeros(3, 2)), batch(torch.tensor([[0.0, 1], [1, 1], [0, 0]])))
    assert loss.total.item() == pytest.approx(math.log(2))


def test_squared_error_is_averaged_over_columns_and_samples() -> None:
    loss = Supervised(VALUES)(Given(torch.zeros(2, 2)), batch(torch.tensor([[1.0, 3.0], [0.0, 2.0]])))
    assert loss.total.item() == pytest.approx((1 + 9 + 0 + 4) / 4)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_classification_agrees_with_torch(smoothing: float) -> None:
    raw, target, _ = example(CLASSES)
    ours = Supervised(CLASSES, smoothing)(Given(raw), batch(target)).total
    torchs = nn.functional.cross_entropy(raw, target, label_smoothing=smoothing)
    assert ours.item() == pytest.approx(torchs.item(), rel=1e-12)


def test_class_weights_agree_with_torch() -> None:
    raw, target, _ = example(CLASSES)
    factors = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    ours = Supervised(CLASSES, class_weights=factors.tolist())(Given(raw), batch(target)).total
    assert ours.item() == pytest.approx(nn.functional.cross_entropy(raw, target, weight=factors).item(), rel=1e-12)


def test_label_weights_count_positives() -> None:
    raw, target, _ = example(LABELS)
    factors = torch.tensor([2.0, 3.0], dtype=torch.float64)
    ours = Supervised(LABELS, class_weights=factors.tolist())(Given(raw), batch(target)).total
    torchs = nn.functional.binary_cross_entropy_with_logits(raw, target, pos_weight=factors)
    assert ours.item() == pytest.approx(torchs.item(), rel=1e-12)


def test_a_batch_of_weight_nothing_has_loss_zero() -> None:
    raw, target, weight = example(VALUES)
    assert Supervised(VALUES)(Given(raw), batch(target, 0 * weight)).total.item() == 0.0


def test_a_weighted_sum_adds_and_keeps_terms_apart() -> None:
    def one(model: nn.Module, batch: Batch) -> Loss:
        return Loss(torch.tensor(1.0), {"x": torch.tensor(1.0)})

    def ten(model: nn.Module, batch: Batch) -> Loss:
        return Loss(torch.tensor(10.0), {"x": torch.tensor(10.0)})

    loss = WeightedSum({"one": (3.0, one), "ten": (0.5, ten)})(Given(torch.zeros(1, 1)), batch(torch.zeros(1, 1)))
    assert loss.total.item() == 8.0
    assert {name: float(term) for name, term in loss.terms.items()} == {"one/x": 1.0, "ten/x": 10.0}


@pytest.mark.parametrize(
    ("task", "smoothing", "weights"),
    [
        (VALUES, 0.1, None),
        (VALUES, 0.0, (1.0, 1.0)),
        (CLASSES, 1.0, None),
        (CLASSES, -0.1, None),
        (CLASSES, 0.0, (1.0, 1.0)),
        (CLASSES, 0.0, (1.0, 0.0, 1.0)),
    ],
)
def test_settings_that_do_not_fit_the_task_are_refused(
    task: TaskSpec, smoothing: float, weights: tuple[float, ...] | None
) -> None:
    with pytest.raises(ConfigError):
        Supervised(task, smoothing, weights)


def test_an_empty_sum_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        WeightedSum({})


def test_activation_gives_what_the_task_asks_for() -> None:
    raw = torch.tensor([[0.0, 0.0, 0.0], [900.0, 0.0, -900.0]])
    assert torch.allclose(activate(CLASSES, raw).sum(dim=1), torch.ones(2))
    assert torch.equal(activate(TaskSpec.multilabel("abc"), raw)[1], torch.tensor([1.0, 0.5, 0.0]))
    assert torch.equal(activate(TaskSpec.regression(("a", "b", "c")), raw), raw)
