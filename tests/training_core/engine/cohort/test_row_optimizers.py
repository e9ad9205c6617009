import pytest
import torch
from stack_world import SmallNet, weights
from torch import Tensor

from training_core.engine.cohort.row_optimizers import build_row_optimizer
from training_core.engine.cohort.stacked import StackedModel
from training_core.engine.updates.optimizers import OptimizerConfig
from training_core.errors import ConfigError

KINDS = pytest.mark.parametrize("kind", ["adamw", "adam", "sgd", "radam"])
NUM_LEARNERS = 3


def configs(kind: str) -> list[OptimizerConfig]:
    return [
        OptimizerConfig.parse(
            {"kind": kind, "lr": 10 ** (-1 - k), "weight_decay": 0.1 * k, "momentum": 0.3 * k}, "test"
        )
        for k in range(NUM_LEARNERS)
    ]


def gradients_of(stack: StackedModel, step: int) -> Tensor:
    draws = torch.Generator().manual_seed(step)
    return torch.randn(stack.flat.shape, generator=draws, dtype=torch.float64).to(stack.flat.dtype)


def give_gradients(net: torch.nn.Module, stack: StackedModel, row: int, gradients: Tensor) -> None:
    views = stack.parameters_of(gradients)
    for name, parameter in net.named_parameters():
        parameter.grad = views[name][row].clone()


@KINDS
@pytest.mark.parametrize("how", ["step", "step_rows", "step_where"])
def test_every_row_moves_as_torch_s_optimiser_moves_it_alone(kind: str, how: str) -> None:
    nets = [SmallNet(seed).double() for seed in range(NUM_LEARNERS)]
    stack = StackedModel(nets)
    rows = build_row_optimizer(configs(kind), stack.flat, stack.num_decayed)
    alone = [config.build(net) for config, net in zip(configs(kind), nets, strict=True)]
    for step in range(50):
        # Learner 1 sits some steps out, so that its count and its moments differ from the others'.
        present = torch.tensor([True, how == "step" or step % 3 != 1, True])
        gradients = gradients_of(stack, step)
        for k, (net, optimizer) in enumerate(zip(nets, alone, strict=True)):
            if present[k]:
                give_gradients(net, stack, k, gradients)
                optimizer.step()
        gradients[~present] = float("nan")
        if how == "step":
            rows.step(stack.flat, gradients)
        elif how == "step_rows":
            rows.step_rows(stack.flat, gradients, present.nonzero().view(-1))
        else:
            rows.step_where(stack.flat, gradients, present)
    for k, net in enumerate(nets):
        other = SmallNet(9).double()
        stack.write_to(k, other)
        assert torch.allclose(weights(other), weights(net), rtol=0, atol=1e-12)


@KINDS
def test_an_absent_row_keeps_its_bits(kind: str) -> None:
    stack = StackedModel([SmallNet(seed) for seed in range(NUM_LEARNERS)])
    rows = build_row_optimizer(configs(kind), stack.flat, stack.num_decayed)
    rows.step(stack.flat, gradients_of(stack, 0))
    before = {name: values[1].clone() for name, values in rows.state.items()} | {"flat": stack.flat[1].clone()}
    rows.step_rows(stack.flat, gradients_of(stack, 1), torch.tensor([0, 2]))
    rows.step_where(stack.flat, gradients_of(stack, 2), torch.tensor([True, False, True]))
    after = {name: values[1] for name, values in rows.state.items()} | {"flat": stack.flat[1]}
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert rows.state["steps"].view(-1).tolist() == [3, 1, 3]


@KINDS
def test_the_rates_of_a_schedule_reach_the_step_and_its_weight_decay(kind: str) -> None:
    net = SmallNet(0).double()
    stack = StackedModel([net, net])
    config = OptimizerConfig.parse({"kind": kind, "lr": 0.1, "weight_decay": 0.1}, "test")
    rows, alone = build_row_optimizer([config, config], stack.flat, stack.num_decayed), config.build(net)
    for step in range(10):
        rate = 0.1 / (1 + step)
        for group in alone.param_groups:
            group["lr"] = rate
        rows.set_learning_rates([rate, 0.0])
        gradients = gradients_of(stack, step)
        give_gradients(net, stack, 0, gradients)
        alone.step()
        rows.step(stack.flat, gradients)
    stack.write_to(0, other := SmallNet(9).double())
    assert torch.allclose(weights(other), weights(net), rtol=0, atol=1e-12)
    stack.write_to(1, other)
    assert torch.equal(weights(other), weights(SmallNet(0).double()))


@KINDS
def test_rows_that_are_kept_go_on_as_before(kind: str) -> None:
    stacks = [StackedModel([SmallNet(seed) for seed in range(NUM_LEARNERS)]) for _ in range(2)]
    whole, part = (build_row_optimizer(configs(kind), stack.flat, stack.num_decayed) for stack in stacks)
    for step in range(6):
        gradients = gradients_of(stacks[0], step)
        if step == 3:
            part.keep([2, 0])
            stacks[1].keep([2, 0])
        part.step(stacks[1].flat, (gradients[[2, 0]] if step >= 3 else gradients).clone())
        whole.step(stacks[0].flat, gradients)
    assert torch.equal(stacks[0].flat[[2, 0]], stacks[1].flat)


def test_weight_decay_spares_norms_and_biases() -> None:
    stack = StackedModel([SmallNet(0), SmallNet(1)])
    config = OptimizerConfig(kind="adamw", lr=0.1, weight_decay=0.5)
    before = {name: values.clone() for name, values in stack.parameters_of(stack.flat).items()}
    build_row_optimizer([config] * 2, stack.flat, stack.num_decayed).step(stack.flat, torch.zeros_like(stack.flat))
    for name, values in stack.parameters_of(stack.flat).items():
        factor = 1 - 0.1 * 0.5 if values.ndim > 2 else 1.0
        assert torch.allclose(values, before[name] * factor), name


def test_learners_with_different_kinds_of_optimiser_are_refused() -> None:
    stack = StackedModel([SmallNet(0), SmallNet(1)])
    mixed = [OptimizerConfig(kind="adam"), OptimizerConfig(kind="sgd")]
    with pytest.raises(ConfigError, match="different optimisers: adam, sgd"):
        build_row_optimizer(mixed, stack.flat, stack.num_decayed)


def test_an_optimiser_without_a_form_for_rows_is_refused() -> None:
    stack = StackedModel([SmallNet(0)])
    with pytest.raises(ConfigError, match="lion has no form for a stack"):
        build_row_optimizer([OptimizerConfig(kind="lion")], stack.flat, stack.num_decayed)
