"""Tokens of columns: what they are made of, and that a missing cell is not a zero."""

import math

import torch
from torch import Tensor

from training_core.learners import LearnerSettings, TabularTransformerConfig
from training_core.learners.column_tokens import ColumnTokens, num_column_tokens
from training_core.schema import ColumnSpec, DataSpec, ModalitySpec, TaskSpec

CLASSES = TaskSpec.classification(("no", "yes"))
TABLE = ModalitySpec(
    name="record",
    kind="tabular",
    shape=(4,),
    columns=tuple(ColumnSpec(name=name) for name in ("age", "size", "size is missing", "town")),
    cardinalities=(3,),
)
THERE = torch.tensor([True])


def made(modality: ModalitySpec = TABLE) -> ColumnTokens:
    torch.manual_seed(0)
    return ColumnTokens(modality, width=6, num_frequencies=3)


def row(*values: float) -> Tensor:
    return torch.tensor([values])


def test_a_column_that_says_another_is_missing_has_no_token_of_its_own() -> None:
    tokens = made()
    assert tokens(row(1.0, 2.0, 0.0, 1.0), THERE).shape == (1, 3, 6)
    assert tokens.num_tokens == num_column_tokens(TABLE) == 3
    assert tokens.get_buffer("numbers").tolist() == [0, 1]


def test_a_numbers_token_is_its_formula() -> None:
    tokens, value = made(), 0.7
    expected = value * tokens.direction[1] + tokens.place[1]
    for k in range(3):
        angle = 2 * math.pi * tokens.frequencies[1, k] * value
        expected = expected + angle.sin() * tokens.periodic[1, k] + angle.cos() * tokens.periodic[1, 3 + k]
    found = tokens(row(0.0, value, 0.0, 0.0), THERE)[0, 1]
    torch.testing.assert_close(found, expected)


def test_a_missing_cell_is_told_from_the_mean_and_from_other_columns() -> None:
    tokens = made()
    present, missing = tokens(row(0.3, 0.0, 0.0, 1.0), THERE), tokens(row(0.3, 0.0, 1.0, 1.0), THERE)
    torch.testing.assert_close(missing[0, 1], tokens.missing[1])
    assert not torch.allclose(present[0, 1], missing[0, 1])
    assert torch.equal(present[0, [0, 2]], missing[0, [0, 2]])


def test_an_absent_modality_is_nothing_but_missing_cells() -> None:
    tokens = made()
    torch.testing.assert_close(tokens(row(0.3, 0.0, 0.0, 1.0), ~THERE)[0], tokens.missing)


def test_categories_are_looked_up_and_wild_codes_stay_within_the_column() -> None:
    tokens = made()
    assert tokens.categories is not None
    for code, place in ((2.0, 2), (9.0, 2), (-4.0, 0)):
        assert torch.equal(tokens(row(0, 0, 0, code), THERE)[0, 2], tokens.categories.weight[place])


def test_names_alike_in_a_vector_or_without_a_partner_are_columns_like_others() -> None:
    assert num_column_tokens(ModalitySpec(name="v", kind="vector", shape=(5,))) == 5
    odd = TABLE.model_copy(update={"columns": (*TABLE.columns[:1], ColumnSpec(name="x"), *TABLE.columns[2:])})
    assert num_column_tokens(odd) == 4


def test_a_table_of_categories_only_has_tokens_too() -> None:
    only = ModalitySpec(name="t", kind="tabular", shape=(2,), cardinalities=(3, 4))
    assert made(only)(row(1.0, 3.0), THERE).shape == (1, 2, 6)


def test_too_many_columns_are_a_reason_not_to() -> None:
    wide = DataSpec(modalities=(ModalitySpec(name="v", kind="vector", shape=(129,)),), task=CLASSES)
    assert "129 columns are too many" in str(LearnerSettings().tabular_transformer.supports(wide))


def test_a_column_that_bends_is_learnt() -> None:
    torch.manual_seed(0)
    spec = DataSpec(modalities=(ModalitySpec(name="v", kind="vector", shape=(2,)),), task=TaskSpec.regression())
    net = TabularTransformerConfig(width=16, num_blocks=1, dropout=0.0).build(spec, 0)
    values = torch.randn(256, 2)
    target = torch.sin(4 * values[:, :1])
    available = torch.ones(256, 1, dtype=torch.bool)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for _ in range(150):
        optimizer.zero_grad()
        (net({"v": values}, available) - target).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        error = (net.eval()({"v": values}, available) - target).square().mean()
    assert error < 0.15 * target.var()
