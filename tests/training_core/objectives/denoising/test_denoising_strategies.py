"""Weights of denoising's objectives over the epochs, and settings that contradict themselves."""

import pytest
import torch
from pydantic import ValidationError

from training_core.objectives.denoising import (
    OBJECTIVES,
    DenoisingConfig,
    DenoisingStage,
    adapted_weights,
    first_weights,
    remembered,
    staged_weights,
)

TWO = DenoisingConfig(enabled=True, objectives=("alignment", "consistency"), strategy="curriculum", weight=0.2)


def test_adaptive_weights_let_objectives_contribute_alike() -> None:
    magnitudes = torch.tensor([[1.0, 2.0, 0.5], [3.0, 3.0, 3.0]])
    weights = adapted_weights(torch.full((3,), 0.1), magnitudes)
    torch.testing.assert_close(weights * magnitudes, torch.tensor([[0.1] * 3, [0.3] * 3]))
    torch.testing.assert_close(weights.log().mean(dim=1).exp(), torch.tensor([0.1, 0.1]))


def test_adaptive_weights_are_bounded() -> None:
    weights = adapted_weights(torch.full((3,), 0.1), torch.tensor([1e-6, 1.0, 1e6]))
    torch.testing.assert_close(weights, torch.tensor([0.4, 0.1, 0.025]))


def test_an_objective_that_found_nothing_keeps_the_weight_that_was_asked_for() -> None:
    weights = torch.tensor([0.1, 0.3])
    torch.testing.assert_close(adapted_weights(weights, torch.tensor([0.0, 2.0])), weights)


def test_a_single_objective_counts_the_same_whether_its_weight_is_fixed_or_adaptive() -> None:
    for kind in OBJECTIVES:
        first = torch.tensor(first_weights(DenoisingConfig(enabled=True, objectives=(kind,), strategy="adaptive")))
        assert first.tolist() == pytest.approx(first_weights(DenoisingConfig(enabled=True, objectives=(kind,))))
        torch.testing.assert_close(adapted_weights(first, torch.tensor([0.03])), first)


def test_magnitudes_remember_half_and_ignore_what_is_not_finite() -> None:
    first = remembered(torch.zeros(3), torch.tensor([2.0, 4.0, float("nan")]))
    assert first.tolist() == [2.0, 4.0, 0.0]
    assert remembered(first, torch.tensor([4.0, float("inf"), 1.0])).tolist() == [3.0, 4.0, 1.0]


def test_a_curriculum_without_stages_grows() -> None:
    weights = [staged_weights(TWO, epoch)[0] for epoch in (1, 5, 6, 10, 11, 500)]
    assert weights == pytest.approx([0.02, 0.02, 0.1, 0.1, 0.2, 0.2])


def test_stages_name_objectives_and_weights() -> None:
    stages = (DenoisingStage(epochs=2, objectives=("alignment",)), DenoisingStage(epochs=1, weight=0.5))
    config = TWO.model_copy(update={"stages": stages})
    assert [staged_weights(config, epoch) for epoch in (1, 2, 3, 9)] == [[0.2, 0.0]] * 2 + [[0.5, 5.0]] * 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objectives": ()}, "`objectives` is empty"),
        ({"views": ()}, "name one or several of shown, rest, full"),
        ({"views": ("full", "full")}, "each once"),
        ({"objectives": ("alignment", "alignment")}, "names one twice"),
        ({"stages": [{"epochs": 2}]}, "go with strategy curriculum"),
        (
            {
                "objectives": ("alignment",),
                "strategy": "curriculum",
                "stages": [{"epochs": 2, "objectives": ["prediction"]}],
            },
            "stage 1 names 'prediction'",
        ),
        ({"weight": -0.1}, "greater than or equal to 0"),
        ({"temperature": 0.0}, "greater than 0"),
        ({"objectives": ("rotation",)}, "reconstruction"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DenoisingConfig.model_validate({"enabled": True, **settings})


def test_learners_on_fewer_than_two_of_its_modalities_have_none_of_it() -> None:
    config = DenoisingConfig(enabled=True, modalities=("a", "b"), weight=0.3)
    assert config.on(("a", "b", "c")) == config
    assert config.on(("a", "c")) == DenoisingConfig() == DenoisingConfig(weight=0.5).on(("a", "b"))
