import sys

import pytest
import torch
from torch import nn

from training_core.engine.updates.curvature import differentiate_twice, step_with_curvature
from training_core.engine.updates.optimizers import OptimizerConfig
from training_core.errors import ConfigError

LR, DECAY = 0.1, 0.01


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))


def give_gradients(model: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_weights_decay_and_norms_and_biases_do_not() -> None:
    model = net()
    decay = {
        id(parameter): group["weight_decay"]
        for group in OptimizerConfig(weight_decay=DECAY).build(model).param_groups
        for parameter in group["params"]
    }
    expected = {name: DECAY if name in {"0.weight", "2.weight"} else 0.0 for name, _ in model.named_parameters()}
    assert {name: decay[id(parameter)] for name, parameter in model.named_parameters()} == expected


def test_a_frozen_parameter_stands_still_until_it_is_thawed_without_a_new_optimizer() -> None:
    model = net()
    optimizer = OptimizerConfig(lr=LR, weight_decay=DECAY).build(model)
    before = model[0].weight.detach().clone()
    for step in range(4):
        model[0].requires_grad_(step >= 2)
        if step == 2:
            assert torch.equal(model[0].weight, before), "not even the decay moves it"
        give_gradients(model, step)
        if step < 2:
            model[0].weight.grad = model[0].bias.grad = None
        optimizer.step()
    assert not torch.equal(model[0].weight, before)


def test_adamw_follows_its_formula() -> None:
    """Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2, in float64."""
    model = net()
    expected = {name: parameter.detach().double() for name, parameter in model.named_parameters()}
    first = {name: torch.zeros_like(value) for name, value in expected.items()}
    second = {name: torch.zeros_like(value) for name, value in expected.items()}
    optimizer = OptimizerConfig(kind="adamw", lr=LR, weight_decay=DECAY).build(model)
    for step in range(1, 6):
        give_gradients(model, step)
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            gradient = parameter.grad.double()
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            direction = (first[name] / (1 - 0.9**step)) / ((second[name] / (1 - 0.999**step)).sqrt() + 1e-8)
            decay = DECAY if parameter.ndim > 1 else 0.0
            expected[name] = expected[name] * (1 - LR * decay) - LR * direction
        optimizer.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach().double(), expected[name], rtol=1e-5, atol=1e-6)


def test_sgd_follows_nesterov() -> None:
    """Momentum buffer b = m·b + g, step lr·(g + m·b), as Sutskever et al. 2013 rewritten by torch."""
    model = nn.Linear(3, 2, bias=False)
    expected = model.weight.detach().double()
    buffer = torch.zeros_like(expected)
    optimizer = OptimizerConfig(kind="sgd", lr=LR, weight_decay=DECAY, momentum=0.9).build(model)
    for step in range(4):
        give_gradients(model, step)
        assert model.weight.grad is not None
        gradient = model.weight.grad.double() + DECAY * expected
        buffer = gradient if step == 0 else 0.9 * buffer + gradient
        expected = expected - LR * (gradient + 0.9 * buffer)
        optimizer.step()
    torch.testing.assert_close(model.weight.detach().double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["adam", "radam"])
def test_the_fast_implementation_agrees_with_torch_s_plain_one(kind: str) -> None:
    ours, plain = net(), net()
    optimizer = OptimizerConfig.parse({"kind": kind, "lr": LR, "weight_decay": 0.0}, "test").build(ours)
    loop = {"adam": torch.optim.Adam, "radam": torch.optim.RAdam}[kind](plain.parameters(), lr=LR, foreach=False)
    for step in range(10):
        give_gradients(ours, step)
        give_gradients(plain, step)
        optimizer.step()
        loop.step()
    for one, other in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_sgd_without_momentum_is_allowed() -> None:
    model = nn.Linear(2, 1, bias=False)
    before = model.weight.detach().clone()
    optimizer = OptimizerConfig(kind="sgd", lr=LR, weight_decay=0.0, momentum=0.0).build(model)
    model.weight.grad = torch.ones_like(model.weight)
    optimizer.step()
    torch.testing.assert_close(model.weight.detach(), before - LR)


def test_lion_follows_its_formula() -> None:
    """Chen et al. 2023, arXiv:2302.06675, algorithm 2, in float64, with β₁ = 0.9 and β₂ = 0.99."""
    pytest.importorskip("pytorch_optimizer")
    model = net()
    expected = {name: parameter.detach().double() for name, parameter in model.named_parameters()}
    momentum = {name: torch.zeros_like(value) for name, value in expected.items()}
    optimizer = OptimizerConfig(kind="lion", lr=LR, weight_decay=DECAY).build(model)
    for step in range(1, 6):
        give_gradients(model, step)
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            gradient = parameter.grad.double()
            direction = (0.9 * momentum[name] + 0.1 * gradient).sign()
            decay = DECAY if parameter.ndim > 1 else 0.0
            expected[name] = expected[name] - LR * (direction + decay * expected[name])
            momentum[name] = 0.99 * momentum[name] + 0.01 * gradient
        optimizer.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach().double(), expected[name], rtol=1e-5, atol=1e-5)


def test_sophia_follows_its_formula() -> None:
    """Liu et al. 2023, arXiv:2305.14342, algorithm 3: a step is lr · clip(m / max(h, ε), ρ), with ρ = 0.01."""
    pytest.importorskip("pytorch_optimizer")
    model = nn.Linear(3, 2, bias=False)
    expected = model.weight.detach().double()
    momentum, moment = torch.zeros_like(expected), torch.zeros_like(expected)
    optimizer = OptimizerConfig(kind="sophia", lr=LR, weight_decay=DECAY).build(model)
    for step in range(25):
        give_gradients(model, step)
        assert model.weight.grad is not None
        gradient = model.weight.grad.double()
        expected = expected * (1 - LR * DECAY)
        momentum = 0.96 * momentum + 0.04 * gradient
        if step % 10 == 0:
            estimate = torch.full_like(model.weight, 100.0 + step)
            moment = 0.99 * moment + 0.01 * estimate.double()
            step_with_curvature(optimizer, list(model.parameters()), [estimate])
        else:
            optimizer.step()
        expected = expected - LR * (momentum / moment.clamp(min=1e-12)).clamp(-0.01, 0.01)
    torch.testing.assert_close(model.weight.detach().double(), expected, rtol=1e-5, atol=1e-6)


def test_the_estimate_of_the_curvature_is_the_hessian_s_diagonal_on_average() -> None:
    """Of ½ Σ a w² + Σ w the diagonal is a, and since it is all of the Hessian u · a · u has no variance beyond u²."""
    slopes = torch.tensor([1.0, 4.0, 0.0])
    weight, idle, frozen = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(1))
    frozen.requires_grad_(False)
    torch.manual_seed(0)
    estimates = []
    for _ in range(800):
        weight.grad = None
        loss = (0.5 * slopes * weight.square() + weight).sum() * frozen.sum()
        first, second, third = differentiate_twice(loss, 3.0, [weight, idle, frozen])
        estimates.append(first)
        assert not second.any()
        assert not third.any()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, 3.0 * (slopes + 1.0))
    assert idle.grad is None
    torch.testing.assert_close(torch.stack(estimates).mean(dim=0), slopes, rtol=0.2, atol=1e-6)


def test_a_linear_loss_has_gradients_and_no_curvature() -> None:
    weight = nn.Parameter(torch.ones(2))
    (estimate,) = differentiate_twice((3.0 * weight).sum(), None, [weight])
    assert weight.grad is not None
    assert weight.grad.tolist() == [3.0, 3.0]
    assert not estimate.any()


@pytest.mark.parametrize("kind", ["lion", "sophia"])
def test_an_optimizer_of_an_extra_that_is_not_installed_names_the_extra(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(ConfigError, match=rf"'{kind}' comes with an extra: `pip install polychoir\[optimizers\]`"):
        OptimizerConfig.parse({"kind": kind}, "test").build(net())


@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd", "radam", "lion", "sophia"])
def test_no_optimizer_decays_norms_and_biases(kind: str) -> None:
    if kind in {"lion", "sophia"}:
        pytest.importorskip("pytorch_optimizer")
    optimizer = OptimizerConfig.parse({"kind": kind, "weight_decay": DECAY}, "test").build(net())
    for group in optimizer.param_groups:
        assert group["weight_decay"] == (DECAY if group["params"][0].ndim > 1 else 0.0)


def test_an_unknown_optimizer_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'kind' is 'adma'.*'adamw', 'adam', 'sgd', 'radam', 'lion' or 'sophia'"):
        OptimizerConfig.parse({"kind": "adma"}, "training")
