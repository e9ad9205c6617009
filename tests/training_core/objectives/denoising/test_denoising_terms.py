"""The formulas of denoising against closed forms and other implementations of them."""

import math

import numpy as np
import pytest
import torch
from denoising_world import CLASSES, IMAGE, LABELS, SEQUENCE, TABLE, TOKENS, VALUES, VECTOR
from torch.distributions import Bernoulli, Categorical, Normal, kl_divergence
from torch.nn import functional

from training_core.objectives.denoising.alignment import info_nce
from training_core.objectives.denoising.consistency import divergence
from training_core.objectives.denoising.features import TargetFeatures
from training_core.objectives.denoising.information import gaussian_kl, redundancy
from training_core.objectives.denoising.prediction import cosine_distance
from training_core.objectives.denoising.reconstruction import distance
from training_core.objectives.denoising.views import masked_mean, mean_over_modalities, normalised

SOURCE = torch.Generator().manual_seed(5)


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=SOURCE, dtype=torch.float64)


def test_info_nce_is_the_cross_entropy_of_finding_ones_own_row() -> None:
    similarity, candidates = drawn(5, 5), torch.ones(5, dtype=torch.bool)
    expected = functional.cross_entropy(7.0 * similarity, torch.arange(5), reduction="none")
    torch.testing.assert_close(info_nce(similarity, candidates, 7.0), expected)


def test_info_nce_leaves_out_rows_that_are_no_candidates() -> None:
    similarity, candidates = drawn(5, 5), torch.tensor([True, False, True, True, False])
    kept = candidates.nonzero().view(-1)
    expected = info_nce(similarity[kept][:, kept], torch.ones(3, dtype=torch.bool), 3.0)
    torch.testing.assert_close(info_nce(similarity, candidates, 3.0)[kept], expected)


def test_info_nce_of_one_row_is_nothing() -> None:
    assert info_nce(drawn(1, 1), torch.ones(1, dtype=torch.bool), 10.0).item() == 0.0


def test_equal_similarities_are_told_apart_by_chance_only() -> None:
    losses = info_nce(torch.zeros(6, 6), torch.ones(6, dtype=torch.bool), 10.0)
    torch.testing.assert_close(losses, torch.full((6,), math.log(6)))


@pytest.mark.parametrize("hardness", [0.5, 2.0])
def test_hard_negatives_weigh_as_their_exponential_says(hardness: float) -> None:
    similarity, candidates, sharpness = drawn(5, 5), torch.tensor([True, True, False, True, True]), 4.0
    found = info_nce(similarity, candidates, sharpness, hardness)
    for row in [0, 1, 3, 4]:
        others = [c for c in range(5) if c != row and bool(candidates[c])]
        tilt = np.exp(hardness * similarity[row, others].numpy())
        weights = tilt / tilt.mean()
        told = np.exp(sharpness * similarity[row, others].numpy())
        own = math.exp(sharpness * float(similarity[row, row]))
        assert found[row].item() == pytest.approx(-math.log(own / (own + float((weights * told).sum()))), rel=1e-9)


def test_equally_similar_negatives_weigh_alike_however_hard() -> None:
    similarity = torch.eye(4, dtype=torch.float64)
    candidates = torch.ones(4, dtype=torch.bool)
    torch.testing.assert_close(info_nce(similarity, candidates, 5.0, 3.0), info_nce(similarity, candidates, 5.0))


def test_divergence_of_classes_labels_and_values_is_torchs() -> None:
    full, shown = drawn(4, 3), drawn(4, 3)
    classes = kl_divergence(Categorical(logits=full), Categorical(logits=shown))
    torch.testing.assert_close(divergence(CLASSES, full, shown), classes)
    labels = kl_divergence(Bernoulli(logits=full), Bernoulli(logits=shown)).mean(dim=1)
    torch.testing.assert_close(divergence(LABELS, full, shown), labels)
    values = kl_divergence(Normal(full, torch.ones_like(full)), Normal(shown, torch.ones_like(full))).mean(dim=1)
    torch.testing.assert_close(divergence(VALUES, full, shown), values)


@pytest.mark.parametrize("task", [CLASSES, LABELS, VALUES], ids=lambda task: task.kind)
def test_equal_answers_do_not_diverge_and_sure_ones_stay_finite(task: object) -> None:
    raw = torch.tensor([[800.0, -800.0, 3.0]], dtype=torch.float64)
    assert divergence(task, raw, raw).item() == pytest.approx(0.0, abs=1e-12)  # pyright: ignore[reportArgumentType]
    assert torch.isfinite(divergence(task, raw, -raw)).all()  # pyright: ignore[reportArgumentType]


def test_gaussian_kl_is_torchs() -> None:
    mean, log_variance = drawn(3, 2, 4), drawn(3, 2, 4)
    spread = Normal(mean, (0.5 * log_variance).exp())
    expected = kl_divergence(spread, Normal(torch.zeros_like(mean), torch.ones_like(mean))).mean(dim=-1)
    torch.testing.assert_close(gaussian_kl(mean, log_variance), expected)


def test_redundancy_is_numpys_covariance_off_the_diagonal() -> None:
    latents, present = drawn(9, 2, 4), torch.ones(9, 2, dtype=torch.bool)
    present[6:, 1] = False
    found = redundancy(latents, present)
    for m, rows in enumerate([9, 6]):
        covariance = np.cov(latents[:rows, m].numpy(), rowvar=False)
        off = covariance - np.diag(np.diag(covariance))
        assert found[m].item() == pytest.approx((off**2).sum() / 4, rel=1e-9)


def test_redundancy_of_fewer_than_two_rows_is_nothing() -> None:
    assert redundancy(drawn(1, 2, 4), torch.ones(1, 2, dtype=torch.bool)).tolist() == [0.0, 0.0]
    assert redundancy(drawn(3, 2, 4), torch.zeros(3, 2, dtype=torch.bool)).tolist() == [0.0, 0.0]


def test_distance_is_the_squared_error_and_the_angle() -> None:
    found, target = drawn(4, 6), drawn(4, 6)
    expected = (found - target).square().mean(1) + 1 - functional.cosine_similarity(found, target, dim=1)
    torch.testing.assert_close(distance(found, target), expected, rtol=1e-6, atol=1e-7)
    assert distance(found, torch.zeros_like(found)).isfinite().all()


def test_cosine_distance_is_nothing_along_and_two_against() -> None:
    one = drawn(3, 6)
    torch.testing.assert_close(cosine_distance(one, 3 * one), torch.zeros(3).double(), atol=1e-7, rtol=0)
    torch.testing.assert_close(cosine_distance(one, -one), torch.full((3,), 2.0).double(), atol=1e-7, rtol=0)


def test_what_is_normalised_has_a_gradient_at_nothing() -> None:
    zero = torch.zeros(2, 3, requires_grad=True)
    normalised(zero).sum().backward()
    assert zero.grad is not None and zero.grad.isfinite().all()


def test_means_leave_out_what_is_masked_and_are_nothing_of_nothing() -> None:
    values, mask = torch.tensor([[1.0, 5.0], [3.0, 7.0]]), torch.tensor([[True, False], [True, False]])
    assert masked_mean(values, mask).item() == 2.0
    assert masked_mean(values, mask, dim=0).tolist() == [2.0, 0.0]
    judged = mean_over_modalities(values, mask)
    assert judged.total.item() == 2.0 and judged.per_modality.tolist() == [2.0, 0.0]


def test_an_image_is_averaged_to_smaller_and_smaller_grids() -> None:
    features = TargetFeatures(IMAGE)
    assert features.widths == (2 * 8 * 7, 2 * 4 * 4, 2 * 2 * 2)
    values = drawn(3, *IMAGE.shape)
    scales = features(values, torch.tensor([True, True, False]))
    assert tuple(scale.shape[1] for scale in scales) == features.widths
    torch.testing.assert_close(
        scales[2], functional.adaptive_avg_pool2d(values, 2).flatten(1) * torch.tensor([[1.0], [1.0], [0.0]]).double()
    )


def test_a_sequence_is_averaged_to_fewer_and_fewer_steps() -> None:
    features = TargetFeatures(SEQUENCE)
    assert features.widths == (24, 8, 2)
    values = drawn(3, *SEQUENCE.shape)
    torch.testing.assert_close(features(values, torch.ones(3, dtype=torch.bool))[2], values.mean(dim=1))


def test_a_table_is_numbers_and_a_one_for_each_category() -> None:
    values = torch.tensor([[0.5, -1.0, 2.0, 3.0], [math.nan, 1.0, 0.0, 0.0]])
    (features,) = TargetFeatures(TABLE)(values, torch.tensor([True, False]))
    assert features.tolist() == [[0.5, -1.0, 0, 0, 1, 0, 0, 0, 1], [0.0, 0.0, 1, 0, 0, 1, 0, 0, 0]]


def test_a_text_is_its_bag_of_words_whatever_their_order() -> None:
    features = TargetFeatures(TOKENS)
    ids = torch.tensor([[3, 9, 4, 0, 0, 0], [9, 4, 3, 0, 0, 0], [5, 6, 7, 0, 0, 0], [0] * 6])
    (bags,) = features(ids, torch.ones(4, dtype=torch.bool))
    torch.testing.assert_close(bags[0], bags[1])
    angles = functional.cosine_similarity(bags[0], bags[2], dim=0)
    assert abs(float(angles)) < 0.4
    assert not bags[3].any()


def test_a_vector_has_one_scale() -> None:
    values = drawn(2, 5)
    (features,) = TargetFeatures(VECTOR)(values, torch.tensor([True, False]))
    assert torch.equal(features[0], values[0]) and not features[1].any()
