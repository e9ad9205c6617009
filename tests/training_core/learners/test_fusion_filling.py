"""A fusion net that fills what is missing with what the other modalities foretell of it."""

import pytest
import torch
from torch import Tensor, nn

from training_core.learners import FusionNetConfig
from training_core.learners.foretelling import Foretelling
from training_core.objectives import Supervised
from training_core.objectives.denoising import DenoisedNet, DenoisingConfig, SupervisedAndDenoising
from training_core.schema import Batch, DataSpec, ModalitySpec, TaskSpec

SPEC = DataSpec(
    modalities=tuple(ModalitySpec(name=name, kind="vector", shape=(4,)) for name in ("a", "b", "c")),
    task=TaskSpec.classification("xyz"),
)
CONFIG = FusionNetConfig(width=8, num_heads=2, dropout=0.0, fill_missing=True)


def rows(available: list[list[bool]]) -> tuple[dict[str, Tensor], Tensor]:
    source = torch.Generator().manual_seed(0)
    return {name: torch.randn(len(available), 4, generator=source) for name in SPEC.names}, torch.tensor(available)


def test_what_is_filled_in_is_the_mean_of_what_the_available_others_foretell() -> None:
    torch.manual_seed(0)
    foretelling, latents = Foretelling(3, 8), torch.randn(2, 3, 8)
    available = torch.tensor([[True, True, False], [False, False, True]])
    filled, foretold = foretelling.fill(latents, available), foretelling(latents)
    torch.testing.assert_close(filled[0, 2], (foretold[0, 0, 2] + foretold[0, 1, 2]) / 2)
    torch.testing.assert_close(filled[0, 0], foretold[0, 1, 0])
    torch.testing.assert_close(filled[1, 0], foretold[1, 2, 0])
    assert not filled[1, 2].any()


def test_nothing_is_foretold_from_what_is_not_there() -> None:
    foretelling = Foretelling(3, 8)
    latents = torch.randn(1, 3, 8)
    latents[0, 1] = float("nan")
    assert foretelling.fill(latents, torch.tensor([[True, False, False]])).isfinite().all()


def test_a_net_that_fills_answers_alike_whatever_stands_where_nothing_is() -> None:
    inputs, available = rows([[True, True, False], [True, False, False], [False, False, False]])
    net = CONFIG.build(SPEC, 0)
    answer = net(inputs, available)
    spoilt = {
        name: values.masked_fill(~available[:, i : i + 1], torch.inf) for i, (name, values) in enumerate(inputs.items())
    }
    assert torch.equal(net(spoilt, available), answer) and answer.isfinite().all()


def test_it_fills_only_where_something_is_missing() -> None:
    inputs, available = rows([[True, True, True], [True, True, False]])
    net = CONFIG.build(SPEC, 0)
    before = net(inputs, available)
    with torch.no_grad():
        for parameter in net.get_submodule("foretelling").parameters():
            parameter.mul_(3)
    after = net(inputs, available)
    assert torch.equal(before[0], after[0]) and not torch.equal(before[1], after[1])


def test_a_net_that_does_not_fill_has_the_same_first_weights() -> None:
    plain = CONFIG.model_copy(update={"fill_missing": False}).build(SPEC, 5).state_dict()
    filling = CONFIG.build(SPEC, 5).state_dict()
    assert all(torch.equal(values, filling[name]) for name, values in plain.items())
    assert {name.partition(".")[0] for name in filling.keys() - plain.keys()} == {"foretelling"}


def test_prediction_trains_the_predictor_that_stays_in_the_net() -> None:
    inputs, available = rows([[True, True, True], [True, True, False]])
    torch.manual_seed(0)
    net = DenoisedNet(CONFIG.build(SPEC, 0), SPEC, DenoisingConfig(enabled=True, objectives=("prediction",)))
    assert not list(net.parts.parameters())
    target = torch.tensor([0, 1])
    SupervisedAndDenoising(Supervised(SPEC.task))(net, Batch(inputs, available, target)).total.backward()
    foretelling: nn.Module = net.net.get_submodule("foretelling")
    assert all(p.grad is not None and p.grad.any() for p in foretelling.parameters())


@pytest.mark.parametrize("fill", [False, True])
def test_filling_costs_work(fill: bool) -> None:
    config = CONFIG.model_copy(update={"fill_missing": fill})
    work, _ = config.estimate_cost(SPEC, 100, 10)
    plain, _ = CONFIG.model_copy(update={"fill_missing": False}).estimate_cost(SPEC, 100, 10)
    assert (work > plain) == fill
