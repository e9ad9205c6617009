"""What models return, in all the forms they return it, and how they are asked."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from training_core.errors import DataError
from training_core.objectives import ModelOutput, ask_net, forward_of
from training_core.schema import Batch

LOGITS, SCALAR, HIDDEN = torch.arange(6.0).view(2, 3), torch.tensor(0.5), torch.ones(2, 4)


@dataclass
class Named:
    loss: Tensor | None
    logits: Tensor
    hidden_states: Any = None


@dataclass
class OnlyOne:
    embedding: Tensor


class HuggingFaceLike(OrderedDict):  # as transformers.utils.ModelOutput: a mapping with attributes
    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(name)


Pair = namedtuple("Pair", ["loss", "logits"])


@pytest.mark.parametrize(
    ("raw", "has_loss"),
    [
        (LOGITS, False),
        ((LOGITS,), False),
        ([LOGITS, HIDDEN], False),
        ((SCALAR, LOGITS, HIDDEN), True),
        ({"logits": LOGITS}, False),
        ({"loss": SCALAR, "logits": LOGITS, "hidden_states": HIDDEN}, True),
        ({"prediction": LOGITS, "attention": HIDDEN}, False),
        ({"scores": LOGITS, "temperature": SCALAR}, False),
        (Named(SCALAR, LOGITS, HIDDEN), True),
        (Named(None, LOGITS), False),
        (OnlyOne(LOGITS), False),
        (HuggingFaceLike(loss=SCALAR, logits=LOGITS), True),
        (SimpleNamespace(logits=LOGITS, loss=SCALAR), True),
        (Pair(SCALAR, LOGITS), True),
        (ModelOutput(LOGITS, SCALAR), True),
    ],
)
def test_logits_and_loss_are_found_in_whatever_a_model_returns(raw: Any, has_loss: bool) -> None:
    output = ModelOutput.from_raw(raw)
    assert torch.equal(output.logits, LOGITS)
    assert (output.loss is not None) == has_loss and (not has_loss or output.loss is SCALAR)


def test_what_a_model_thought_on_the_way_is_kept() -> None:
    assert ModelOutput.from_raw({"logits": LOGITS, "hidden_states": HIDDEN}).hidden_states is HIDDEN
    assert ModelOutput.from_raw((LOGITS, HIDDEN)).hidden_states == (HIDDEN,)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (None, "returned NoneType"),
        (3.0, "returned float"),
        ("logits", "returned str"),
        ((), "tuple of nothing"),
        ((SCALAR,), r"tuple of tensor \[\]"),
        ({"a": LOGITS, "b": HIDDEN}, r"a: tensor \[2, 3\], b: tensor \[2, 4\]"),
        ({}, "nothing in it"),
        ({"loss": SCALAR}, r"loss: tensor \[\]"),
    ],
)
def test_where_no_logits_can_be_told_the_error_says_what_was_got(raw: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ModelOutput.from_raw(raw)


def batch(**inputs: Tensor) -> Batch:
    return Batch(inputs=inputs, available=torch.ones(2, 1, dtype=torch.bool))


def test_our_nets_are_asked_as_they_are() -> None:
    class Net(nn.Module):
        def forward(self, inputs: dict[str, Tensor], available: Tensor) -> Tensor:
            return inputs["x"]

    assert forward_of(Net()) is ask_net
    assert torch.equal(ask_net(Net(), batch(x=LOGITS)), LOGITS)


def test_a_model_of_one_argument_gets_the_only_input() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    assert torch.equal(forward_of(model)(model, batch(anything=LOGITS)), model(LOGITS))


def test_a_model_gets_the_inputs_it_has_arguments_for() -> None:
    class Chosen(nn.Module):
        def forward(self, input_ids: Tensor, scale: float = 2.0) -> dict[str, Tensor]:
            return {"logits": scale * input_ids}

    class All(nn.Module):
        def forward(self, **inputs: Tensor) -> Tensor:
            return inputs["input_ids"] + inputs["attention_mask"]

    both = batch(input_ids=LOGITS, attention_mask=torch.ones(2, 3))
    assert torch.equal(forward_of(Chosen())(Chosen(), both), 2 * LOGITS)
    assert torch.equal(forward_of(All())(All(), both), LOGITS + 1)


def test_a_model_whose_arguments_have_other_names_is_told() -> None:
    model = nn.Bilinear(3, 3, 1)
    with pytest.raises(DataError, match="takes input1, input2, and the batch has left, right"):
        forward_of(model)(model, batch(left=LOGITS, right=LOGITS))
