import pytest
import torch
from torch import nn

from training_core.engine.optimizers import OptimizerConfig
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


def test_frozen_parameters_are_left_out() -> None:
    model = net()
    model[0].requires_grad_(False)
    groups = OptimizerConfig().build(model).param_groups
    assert sum(len(group["params"]) for group in groups) == 4


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


def test_an_unknown_optimizer_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'kind' is 'lion'.*'adamw', 'adam', 'sgd' or 'radam'"):
        OptimizerConfig.parse({"kind": "lion"}, "training")
