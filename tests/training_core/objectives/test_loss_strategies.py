"""Every loss against torch's own or a closed form, with weights, under vmap, and refusing what does not fit."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from training_core.errors import ConfigError, DataError
from training_core.objectives import (
    ClassificationLoss,
    FocalLoss,
    GaussianNLLLoss,
    HuberLoss,
    LanguageModelingLoss,
    LossInputs,
    MultilabelFocalLoss,
    MultilabelLoss,
    PEFTAwareLoss,
    PerSampleLoss,
    QuantileLoss,
    QuantizationSafeLoss,
    RegressionLoss,
    SegmentationLoss,
    VisionLoss,
)
from training_core.objectives.adapted_losses import quantised
from training_core.schema import TaskSpec

pytestmark = pytest.mark.filterwarnings("error")
CLASS_WEIGHTS = (1.0, 2.0, 3.0)


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def codes(*shape: int, num: int = 3, seed: int = 1) -> Tensor:
    return torch.randint(0, num, shape, generator=torch.Generator().manual_seed(seed))


def tokens_with_padding() -> Tensor:
    labels = codes(4, 6, num=5)
    labels[1, 3:], labels[2, 1:] = -100, -100  # the third has no token to foretell
    return labels


def pixels_with_gaps() -> Tensor:
    labels = codes(4, 3, 2)
    labels[0, 0, 0], labels[2] = -100, -100
    return labels


CASES: dict[str, tuple[PerSampleLoss, Tensor, Tensor]] = {
    "classification": (ClassificationLoss(), draws(4, 3), codes(4)),
    "classification, all settings": (ClassificationLoss(CLASS_WEIGHTS, 0.1), draws(4, 3), codes(4)),
    "focal": (FocalLoss(CLASS_WEIGHTS, gamma=1.5), draws(4, 3), codes(4)),
    "multilabel": (MultilabelLoss(), draws(4, 3), codes(4, 3, num=2).double()),
    "multilabel, all settings": (MultilabelLoss(CLASS_WEIGHTS, 0.1), draws(4, 3), codes(4, 3, num=2).double()),
    "multilabel focal": (MultilabelFocalLoss(CLASS_WEIGHTS), draws(4, 3), codes(4, 3, num=2).double()),
    "regression": (RegressionLoss(), draws(4, 2), draws(4, 2, seed=1)),
    "huber": (HuberLoss(0.3), draws(4, 2), draws(4, 2, seed=1)),
    "quantiles": (QuantileLoss((0.1, 0.5, 0.9)), draws(4, 6), draws(4, 2, seed=1)),
    "gaussian": (GaussianNLLLoss(), draws(4, 4), draws(4, 2, seed=1)),
    "language": (LanguageModelingLoss(0.1), draws(4, 6, 5), tokens_with_padding()),
    "segmentation": (SegmentationLoss(class_weights=CLASS_WEIGHTS), draws(4, 3, 3, 2), pixels_with_gaps()),
    "vision": (VisionLoss("segmentation", CLASS_WEIGHTS, 0.1), draws(4, 3, 3, 2), pixels_with_gaps()),
    "adapters": (PEFTAwareLoss(ClassificationLoss(CLASS_WEIGHTS)), draws(4, 3), codes(4)),
    "quantised": (QuantizationSafeLoss(RegressionLoss(), bits=4), draws(4, 2), draws(4, 2, seed=1)),
}
every_loss = pytest.mark.parametrize(("loss", "logits", "labels"), CASES.values(), ids=list(CASES))


@every_loss
def test_the_loss_of_a_batch_is_the_weighted_mean_of_the_losses_of_its_samples(
    loss: PerSampleLoss, logits: Tensor, labels: Tensor
) -> None:
    loss.validate_inputs(logits, labels)
    weight = torch.tensor([0.5, 2.0, 1.0, 0.0], dtype=torch.float64)
    for inputs in (None, LossInputs(sample_weight=weight)):
        losses = loss.losses(logits, labels, inputs)
        given = loss.weights(labels, inputs)
        whole = torch.ones(4, dtype=torch.float64) if given is None else given.double()
        mean, over = loss.mean(logits, labels, inputs)
        assert losses.shape == (4,)
        torch.testing.assert_close(mean, (losses * whole).sum() / whole.sum(), rtol=1e-12, atol=1e-12)
        assert over is None if given is None else torch.equal(over.double(), whole.sum())
        assert torch.equal(loss.compute_loss(logits, labels, inputs), mean)


@every_loss
def test_a_sample_has_the_loss_it_would_have_alone(loss: PerSampleLoss, logits: Tensor, labels: Tensor) -> None:
    alone = torch.cat([loss.losses(logits[i : i + 1], labels[i : i + 1]) for i in range(len(logits))])
    torch.testing.assert_close(loss.losses(logits, labels), alone, rtol=1e-12, atol=1e-12)


@every_loss
def test_gradients_are_those_of_finite_differences(loss: PerSampleLoss, logits: Tensor, labels: Tensor) -> None:
    if isinstance(loss, QuantizationSafeLoss):
        pytest.skip("its gradient is by design not that of what it computes")
    weight = torch.tensor([0.5, 2.0, 1.0, 0.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda raw: loss.compute_loss(raw, labels, {"sample_weight": weight}), logits.clone().requires_grad_()
    )


@every_loss
def test_losses_work_under_vmap_with_gradients(loss: PerSampleLoss, logits: Tensor, labels: Tensor) -> None:
    weight = torch.tensor([0.5, 2.0, 1.0, 0.0], dtype=torch.float64)
    many, targets = torch.stack([logits, logits.flip(0) * 2]), torch.stack([labels, labels.flip(0)])
    gradients, totals = torch.func.vmap(
        torch.func.grad_and_value(lambda raw, wanted: loss.compute_loss(raw, wanted, {"sample_weight": weight}))
    )(many, targets)
    for k in range(2):
        leaf = many[k].clone().requires_grad_()
        total = loss.compute_loss(leaf, targets[k], {"sample_weight": weight})
        total.backward()
        torch.testing.assert_close(totals[k], total.detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradients[k], leaf.grad, rtol=1e-12, atol=1e-12)


@every_loss
def test_a_batch_that_weighs_nothing_has_loss_and_gradient_zero(
    loss: PerSampleLoss, logits: Tensor, labels: Tensor
) -> None:
    leaf = logits.clone().requires_grad_()
    total = loss.compute_loss(leaf, labels, {"sample_weight": torch.zeros(4, dtype=torch.float64)})
    total.backward()
    assert total.item() == 0 and leaf.grad is not None and not leaf.grad.any()


@every_loss
def test_inputs_of_a_wrong_shape_are_refused_with_what_was_got_and_expected(
    loss: PerSampleLoss, logits: Tensor, labels: Tensor
) -> None:
    for wrong_logits, wrong_labels in ((logits[:3], labels), (logits.unsqueeze(-1), labels), (logits.long(), labels)):
        with pytest.raises(DataError, match=r"got logits \w+ \[.*\] and labels \w+ \[.*\]; expected"):
            loss.validate_inputs(wrong_logits, wrong_labels)


@every_loss
def test_a_lone_sample_has_a_finite_loss(loss: PerSampleLoss, logits: Tensor, labels: Tensor) -> None:
    assert math.isfinite(loss.compute_loss(1000 * logits[:1], labels[:1]).item())


def test_class_codes_that_are_not_int64_are_refused() -> None:
    with pytest.raises(DataError, match="class codes int64"):
        ClassificationLoss().validate_inputs(draws(4, 3), codes(4).int())


def test_classification_is_torchs_cross_entropy() -> None:
    raw, labels = draws(9, 3), codes(9)
    weights = torch.tensor(CLASS_WEIGHTS, dtype=torch.float64)
    ours = ClassificationLoss(CLASS_WEIGHTS).compute_loss(raw, labels)
    assert ours.item() == pytest.approx(functional.cross_entropy(raw, labels, weight=weights).item(), rel=1e-12)
    given = ClassificationLoss().compute_loss(raw, labels, {"class_weights": weights})
    assert given.item() == ours.item()
    smooth = ClassificationLoss(label_smoothing=0.2).compute_loss(raw, labels)
    assert smooth.item() == pytest.approx(functional.cross_entropy(raw, labels, label_smoothing=0.2).item(), rel=1e-12)


def test_focal_loss_is_its_formula_and_without_gamma_cross_entropy() -> None:
    raw, labels = draws(9, 3), codes(9)
    right = raw.softmax(1)[torch.arange(9), labels]
    expected = ((1 - right) ** 2 * -right.log()).mean()
    assert FocalLoss().compute_loss(raw, labels).item() == pytest.approx(expected.item(), rel=1e-12)
    plain = ClassificationLoss(CLASS_WEIGHTS).compute_loss(raw, labels)
    assert FocalLoss(CLASS_WEIGHTS, gamma=0).compute_loss(raw, labels).item() == pytest.approx(plain.item(), rel=1e-12)


def test_multilabel_focal_loss_is_its_formula() -> None:
    raw, labels = draws(9, 3), codes(9, 3, num=2).double()
    right = torch.where(labels == 1, raw.sigmoid(), 1 - raw.sigmoid())
    expected = ((1 - right) ** 2 * -right.log()).mean()
    assert MultilabelFocalLoss().compute_loss(raw, labels).item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_loss_of_a_certain_answer_has_a_finite_gradient(gamma: float) -> None:
    raw = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    FocalLoss(gamma=gamma).compute_loss(raw, torch.tensor([0, 0])).backward()
    assert raw.grad is not None and bool(raw.grad.isfinite().all()) and bool(raw.grad[1].any())


def test_multilabel_is_torchs_with_weights_of_positives() -> None:
    raw, labels = draws(9, 3), codes(9, 3, num=2).double()
    weights = torch.tensor(CLASS_WEIGHTS, dtype=torch.float64)
    expected = functional.binary_cross_entropy_with_logits(raw, labels, pos_weight=weights)
    assert MultilabelLoss(CLASS_WEIGHTS).compute_loss(raw, labels).item() == pytest.approx(expected.item(), rel=1e-12)


def test_losses_of_values_are_torchs() -> None:
    raw, labels = draws(9, 2), draws(9, 2, seed=1)
    assert RegressionLoss().compute_loss(raw, labels).item() == functional.mse_loss(raw, labels).item()
    expected = functional.huber_loss(raw, labels, delta=0.3).item()
    assert HuberLoss(0.3).losses(raw, labels).mean().item() == pytest.approx(expected, rel=1e-12)
    log_variance = draws(9, 2, seed=2)
    ours = GaussianNLLLoss().compute_loss(torch.cat([raw, log_variance], 1), labels)
    torchs = functional.gaussian_nll_loss(raw, labels, log_variance.exp())
    assert ours.item() == pytest.approx(torchs.item(), rel=1e-12)
    assert torch.equal(GaussianNLLLoss().predict(torch.cat([raw, log_variance], 1)), raw)


def test_the_constant_with_the_lowest_pinball_loss_is_the_quantile() -> None:
    labels = torch.arange(1.0, 101.0, dtype=torch.float64).unsqueeze(1)
    for quantile in (0.1, 0.5, 0.9):
        loss = QuantileLoss((quantile,))
        losses = [loss.compute_loss(torch.full_like(labels, guess), labels).item() for guess in range(1, 101)]
        assert abs(1 + losses.index(min(losses)) - 100 * quantile) <= 1


def test_half_the_absolute_error_is_the_loss_of_the_median() -> None:
    raw, labels = draws(9, 2), draws(9, 2, seed=1)
    expected = functional.l1_loss(raw, labels).item() / 2
    assert QuantileLoss().compute_loss(raw, labels).item() == pytest.approx(expected, rel=1e-12)


def test_language_modelling_is_the_mean_over_all_real_next_tokens() -> None:
    raw, labels = draws(4, 6, 5), tokens_with_padding()
    expected = functional.cross_entropy(raw[:, :-1].reshape(-1, 5), labels[:, 1:].reshape(-1))
    assert LanguageModelingLoss().compute_loss(raw, labels).item() == pytest.approx(expected.item(), rel=1e-12)
    over = LanguageModelingLoss().mean(raw, labels)[1]
    assert over is not None and over.item() == int((labels[:, 1:] != -100).sum())


def test_padding_may_be_told_by_label_by_mask_or_by_id() -> None:
    raw, labels = draws(4, 6, 5), tokens_with_padding()
    expected = LanguageModelingLoss().compute_loss(raw, labels)
    ids = labels.masked_fill(labels == -100, 4)
    masked = LanguageModelingLoss().compute_loss(raw, ids, {"attention_mask": (labels != -100).long()})
    assert torch.equal(masked, expected)
    unused = labels.masked_fill(labels == 4, 3)
    by_label = LanguageModelingLoss().compute_loss(raw, unused)
    by_id = LanguageModelingLoss().compute_loss(raw, unused.masked_fill(unused == -100, 4), {"pad_token_id": 4})
    assert torch.equal(by_id, by_label)


def test_what_stands_at_padding_changes_nothing() -> None:
    raw, labels = draws(4, 6, 5), tokens_with_padding()
    changed = raw.clone()
    changed[1, 3:], changed[2, 1:] = 1e6, -1e6
    # The logits before a padded position foretell padding, and so do those of padded positions.
    changed[1, 2], changed[2, 0] = 7.0, -3.0
    assert torch.equal(
        LanguageModelingLoss().compute_loss(raw, labels), LanguageModelingLoss().compute_loss(changed, labels)
    )


def test_a_sequence_of_one_token_foretells_nothing() -> None:
    with pytest.raises(DataError, match="T at least 2"):
        LanguageModelingLoss().validate_inputs(draws(2, 1, 5), codes(2, 1))


def test_segmentation_is_torchs_with_ignored_pixels_and_class_weights() -> None:
    raw, labels = draws(4, 3, 3, 2), pixels_with_gaps()
    weights = torch.tensor(CLASS_WEIGHTS, dtype=torch.float64)
    expected = functional.cross_entropy(raw, labels, weight=weights)
    ours = SegmentationLoss(class_weights=CLASS_WEIGHTS).compute_loss(raw, labels)
    assert ours.item() == pytest.approx(expected.item(), rel=1e-12)
    other = SegmentationLoss(ignore_index=255).compute_loss(raw, labels.masked_fill(labels == -100, 255))
    assert other.item() == pytest.approx(functional.cross_entropy(raw, labels).item(), rel=1e-12)


def test_detection_is_refused_with_a_reason() -> None:
    with pytest.raises(ConfigError, match="Detection needs boxes matched"):
        VisionLoss("detection")  # pyright: ignore[reportArgumentType]


class Adapted(nn.Module):
    """A base with an adapter beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(4, 3)
        self.lora_a = nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.lora_a(x)


def test_only_adapters_learn_or_training_ends() -> None:
    model = Adapted()
    model.base.requires_grad_(False)
    loss = PEFTAwareLoss(ClassificationLoss()).bound_to(model, adapters=("lora_",))
    loss.compute_loss(model(torch.randn(5, 4)), codes(5)).backward()
    assert model.base.weight.grad is None and model.lora_a.weight.grad is not None
    model.base.bias.requires_grad_(True)
    with pytest.raises(ConfigError, match=r"1 parameters of the base are trained, 'base\.bias' first"):
        loss.compute_loss(model(torch.randn(5, 4)), codes(5))
    model.base.bias.requires_grad_(False)
    model.base.weight.grad = torch.zeros_like(model.base.weight)
    with pytest.raises(ConfigError, match=r"'base\.weight' first"):
        loss.compute_loss(model(torch.randn(5, 4)), codes(5))


def test_a_model_without_frozen_base_or_without_adapters_is_refused() -> None:
    with pytest.raises(ConfigError, match="0 of 3 parameters are of the base"):
        PEFTAwareLoss(ClassificationLoss()).bound_to(Adapted())
    with pytest.raises(ConfigError, match="2 parameters of the base are trained"):
        PEFTAwareLoss(ClassificationLoss()).bound_to(Adapted(), adapters=("lora_",))
    with pytest.raises(ConfigError, match="0 can learn"):
        PEFTAwareLoss(ClassificationLoss()).bound_to(Adapted().requires_grad_(False))


@pytest.mark.parametrize(("bits", "symmetric"), [(8, True), (8, False), (4, True), (4, False), (2, True)])
def test_quantised_values_lie_on_few_levels_and_no_further_than_half_a_step_away(bits: int, symmetric: bool) -> None:
    values = draws(3, 500) + (0 if symmetric else 2)
    rounded = quantised(values, bits, symmetric)
    steps = (values.abs().amax(1) / (2 ** (bits - 1) - 1)) if symmetric else None
    for row in range(3):
        assert len(rounded[row].unique()) <= 2**bits
        low, high = values[row].min().clamp(max=0), values[row].max().clamp(min=0)
        step = steps[row] if steps is not None else (high - low) / (2**bits - 1)
        assert float((values[row] - rounded[row]).abs().max()) <= float(step) * 0.5000001


def test_nothing_quantises_to_nothing_and_zero_stays_zero() -> None:
    assert not quantised(torch.zeros(2, 3), 8).any() and not quantised(torch.zeros(2, 3), 8, symmetric=False).any()
    assert quantised(torch.tensor([[0.0, 0.37, 1.1]]), 4, symmetric=False)[0, 0] == 0


def test_quantised_losses_have_straight_through_gradients_that_are_cut() -> None:
    raw, labels = (10 * draws(4, 2)).requires_grad_(), draws(4, 2, seed=1)
    loss = QuantizationSafeLoss(RegressionLoss(), bits=4, clip_gradient=1.5)
    loss.compute_loss(raw, labels).backward()
    shown = quantised(raw.detach(), 4).requires_grad_()
    functional.mse_loss(shown, labels).backward()
    assert raw.grad is not None and shown.grad is not None
    assert float(shown.grad.abs().max()) > 1.5
    torch.testing.assert_close(raw.grad, shown.grad.clamp(-1.5, 1.5), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_answers_of_two_bits_are_better_after_training_with_two_bits(seed: int) -> None:
    torch.manual_seed(seed)
    centres = 1.5 * torch.randn(8, 4, dtype=torch.float64)
    labels = torch.randint(0, 8, (600,))
    x = centres[labels] + 0.6 * torch.randn(600, 4, dtype=torch.float64)

    def score(loss: PerSampleLoss) -> float:
        """How many unseen samples the quantised answer gets right; where classes tie, the share of the right one."""
        torch.manual_seed(0)
        model = nn.Linear(4, 8).double()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        for _ in range(200):
            optimizer.zero_grad()
            loss.compute_loss(model(x[:300]), labels[:300]).backward()
            optimizer.step()
        answers = quantised(model(x[300:]).detach(), bits=2)
        best = (answers == answers.amax(1, keepdim=True)).double()
        return float((best / best.sum(1, keepdim=True))[torch.arange(300), labels[300:]].mean())

    assert score(QuantizationSafeLoss(ClassificationLoss(), bits=2)) > score(ClassificationLoss())


@pytest.mark.parametrize(
    "make",
    [
        lambda: ClassificationLoss(label_smoothing=1.0),
        lambda: ClassificationLoss((1.0, 0.0)),
        lambda: MultilabelLoss((1.0, float("inf"))),
        lambda: FocalLoss(gamma=-1),
        lambda: FocalLoss(label_smoothing=0.1),
        lambda: HuberLoss(0.0),
        lambda: QuantileLoss((0.5, 1.0)),
        lambda: QuantileLoss(()),
        lambda: QuantizationSafeLoss(bits=1),
        lambda: QuantizationSafeLoss(clip_gradient=0.0),
        lambda: QuantizationSafeLoss().wrapped,
        lambda: HuberLoss().with_options(label_smoothing=0.1),
        lambda: HuberLoss().with_options(class_weights=(1.0, 2.0)),
        lambda: HuberLoss().for_task(TaskSpec.classification("ab")),
        lambda: ClassificationLoss().for_task(TaskSpec.language_modeling("abc")),
        lambda: LanguageModelingLoss().for_task(TaskSpec.classification("abc")),
    ],
)
def test_settings_out_of_bounds_or_out_of_place_are_refused(make: object) -> None:
    with pytest.raises(ConfigError):
        make()  # pyright: ignore[reportCallIssue]


def test_class_weights_of_another_number_than_the_outputs_are_refused() -> None:
    with pytest.raises(ConfigError, match="got 2 class weights for 3 outputs"):
        ClassificationLoss((1.0, 2.0)).validate_inputs(draws(4, 3), codes(4))
