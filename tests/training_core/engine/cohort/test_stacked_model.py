from copy import deepcopy

import numpy as np
import pytest
import torch
from stack_world import SmallNet, weights
from torch import nn

from training_core.engine.cohort.stacked import StackedModel, why_not_stackable
from training_core.errors import ConfigError


class WithBuffer(SmallNet):
    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.register_buffer("starts", torch.tensor([seed, seed + 1]), persistent=False)


def test_weights_go_into_the_stack_and_come_out_bit_for_bit() -> None:
    nets = [WithBuffer(seed) for seed in range(3)]
    stack = StackedModel(nets)
    for k, net in enumerate(nets):
        other = WithBuffer(9)
        stack.write_to(k, other)
        assert torch.equal(weights(other), weights(net))
        assert torch.equal(other.get_buffer("starts"), net.get_buffer("starts"))
    assert stack.flat.shape == (3, sum(parameter.numel() for parameter in nets[0].parameters()))


def test_the_stack_copies_and_does_not_change_the_nets() -> None:
    net = SmallNet(0)
    before = weights(net).clone()
    stack = StackedModel([net, SmallNet(1)])
    stack.flat.zero_()
    assert torch.equal(weights(net), before)


def test_a_net_can_be_read_into_a_row() -> None:
    stack = StackedModel([WithBuffer(0), WithBuffer(1)])
    stack.read_from(1, WithBuffer(7))
    stack.write_to(1, other := WithBuffer(9))
    assert torch.equal(weights(other), weights(WithBuffer(7)))
    assert other.get_buffer("starts").tolist() == [7, 8]
    stack.write_to(0, other)
    assert torch.equal(weights(other), weights(WithBuffer(0)))


def test_parameters_of_many_dimensions_come_first() -> None:
    stack = StackedModel([SmallNet(0), SmallNet(1)])
    dimensions = [len(shape) for shape in stack.shapes.values()]
    assert dimensions == sorted(dimensions, reverse=True)
    assert stack.num_decayed == sum(shape.numel() for shape in stack.shapes.values() if len(shape) > 1)


def test_a_frozen_parameter_is_carried_along_but_not_trained() -> None:
    nets = [SmallNet(seed) for seed in range(2)]
    for net in nets:
        net.layers[0].requires_grad_(False)
    stack = StackedModel(nets)
    assert set(stack.buffers) == {"layers.0.weight", "layers.0.bias"}
    stack.write_to(1, other := SmallNet(9))
    assert torch.equal(weights(other), weights(nets[1]))


def test_learners_that_are_kept_are_those_asked_for_in_that_order() -> None:
    nets = [WithBuffer(seed) for seed in range(4)]
    stack = StackedModel(nets)
    stack.keep([3, 1])
    assert stack.num_learners == 2
    stack.write_to(0, other := WithBuffer(9))
    assert torch.equal(weights(other), weights(nets[3])) and other.get_buffer("starts").tolist() == [3, 4]


@pytest.mark.parametrize("kept", [[0, 1, 2, 3], [2, 0]])
def test_a_saved_state_is_loaded_whatever_number_of_learners_it_has(kept: list[int]) -> None:
    saved = StackedModel([WithBuffer(seed) for seed in range(4)])
    saved.keep(kept)
    stack = StackedModel([WithBuffer(8)] * 4)
    stack.load_state_dict(deepcopy(saved.state_dict()))
    assert torch.equal(stack.flat, saved.flat)
    assert torch.equal(stack.buffers["starts"], saved.buffers["starts"])


def test_a_state_of_another_architecture_is_refused() -> None:
    stack = StackedModel([SmallNet(0)])
    with pytest.raises(ConfigError, match="another architecture"):
        stack.load_state_dict(StackedModel([WithBuffer(0)]).state_dict())
    with pytest.raises(ConfigError, match="not of the stack's architecture"):
        stack.write_to(0, SmallNet(0, extra=[nn.Linear(12, 12)]))


def mode(net: nn.Module) -> nn.Module:
    return net.eval()


@pytest.mark.parametrize(
    ("others", "reason"),
    [
        ([SmallNet(0, extra=[nn.Linear(12, 12)])], "differs from net 0"),
        ([SmallNet(0, extra=[nn.ELU()])], "differs from net 0"),
        ([mode(SmallNet(0))], "'training' of module '' is False instead of True"),
        ([SmallNet(0).double()], "float64"),
        ([SmallNet(1), nn.Sequential(nn.Linear(2, 2))], "net 2 differs"),
    ],
)
def test_unlike_nets_are_told_apart(others: list[nn.Module], reason: str) -> None:
    found = why_not_stackable([SmallNet(0), *others])
    assert found is not None and reason in found
    with pytest.raises(ConfigError, match="cannot be stacked"):
        StackedModel([SmallNet(0), *others])


def test_plain_attributes_tell_nets_apart_and_rates_of_dropout_do_not() -> None:
    nets = [SmallNet(seed, dropout=0.5 * seed, extra=[nn.ELU(1.0)]) for seed in range(2)]
    assert why_not_stackable(nets) is None
    found = why_not_stackable([nets[0], SmallNet(1, extra=[nn.ELU(0.5)])])
    assert found == "net 1 differs from net 0: 'alpha' of module 'layers.4' is 0.5 instead of 1.0"


def test_the_weights_of_a_net_with_dropout_come_back_from_a_stack() -> None:
    stack, net = StackedModel([SmallNet(0, dropout=0.3), SmallNet(1)], settings={"share": [0.1, 0.2]}), SmallNet(7, 0.3)
    stack.write_to(1, net)
    assert torch.equal(weights(net), weights(SmallNet(1)))
    assert stack.template.get_buffer("share").ndim == 0 and stack.buffers["share"].tolist() == pytest.approx([0.1, 0.2])


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (nn.LSTM(12, 12), "'layers.4' is a LSTM, whose fused kernel"),
        (nn.BatchNorm1d(12), "BatchNorm1d, which changes its running statistics"),
        (nn.InstanceNorm1d(12, track_running_stats=True), "running statistics"),
    ],
)
def test_modules_that_do_not_work_in_a_stack_are_named(module: nn.Module, reason: str) -> None:
    found = why_not_stackable([SmallNet(seed, extra=[deepcopy(module)]) for seed in range(2)])
    assert found is not None and reason in found


def test_a_tensor_that_nobody_knows_of_speaks_against_a_stack() -> None:
    nets = [SmallNet(0), SmallNet(1)]
    for net in nets:
        net.scale = torch.ones(3)
    assert "'scale' is neither parameter nor buffer" in (why_not_stackable(nets) or "")


def test_a_setting_that_is_not_plain_counts_too() -> None:
    nets = [SmallNet(0), SmallNet(1)]
    nets[0].activation = nets[1].activation = torch.relu
    assert why_not_stackable(nets) is None
    nets[1].activation = torch.tanh
    assert "'activation' of module ''" in (why_not_stackable(nets) or "")
    for net in nets:
        net.activation = np.zeros(3)
    assert "'activation' of module ''" in (why_not_stackable(nets) or "")  # arrays cannot say whether they are equal


def test_nothing_to_train_is_no_stack() -> None:
    assert why_not_stackable([]) == "there is no net"
    assert why_not_stackable([SmallNet(0).requires_grad_(False)]) == "no parameter requires a gradient"
    assert why_not_stackable([SmallNet(0), SmallNet(1)]) is None
