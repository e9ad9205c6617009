"""Text nets: how tokens are pooled, and what does not change the answer."""

from typing import Any

import pytest
import torch

from training_core.learners import LearnerSettings, TextNetConfig
from training_core.learners.text_net import AttentionPool, ConvolutionPool, TokenEmbedding
from training_core.schema import DataSpec, ModalitySpec, TaskSpec

NOTE = ModalitySpec(name="note", kind="text", shape=(6,), vocabulary_size=20)
CLASSES = TaskSpec.classification(("no", "yes"))
CONFIG = TextNetConfig(embedding_width=8, width=8)
POOLS = pytest.mark.parametrize("pool", [AttentionPool, ConvolutionPool])
IDS = torch.tensor([[3, 7, 1, 0, 0, 0], [5, 5, 9, 2, 8, 4], [0, 0, 0, 0, 0, 0]])


def made(pool: Any) -> Any:
    torch.manual_seed(0)
    return pool(NOTE, CONFIG).eval()


@POOLS
def test_padding_changes_nothing(pool: Any) -> None:
    net = made(pool)
    longer = torch.cat([IDS, torch.zeros(3, 4, dtype=torch.int64)], dim=1)
    torch.testing.assert_close(net(IDS), net(longer))
    assert net(IDS).shape == (3, net.width) and not net(IDS)[2].any()


def test_attention_is_the_softmax_of_gated_scores_over_the_tokens_that_are_there() -> None:
    net = made(AttentionPool)
    found = net(IDS)[0]
    embedded = net.embed.table.weight[IDS[0, :3]]
    content, gate = net.gates(embedded).chunk(2, dim=-1)
    weights = net.scores(content.tanh() * gate.sigmoid()).softmax(dim=0)  # [tokens, heads]
    slices = embedded.reshape(3, 4, 2)
    mean = (slices * weights.unsqueeze(-1)).sum(dim=0).flatten()
    torch.testing.assert_close(found, torch.cat([embedded.sum(dim=0) / 3**0.5, mean]))


def test_convolution_keeps_the_strongest_response() -> None:
    net = made(ConvolutionPool)
    embedded = net.embed.table.weight[IDS[1]].T.unsqueeze(0)
    responses = net.filters(embedded)[0].clamp(min=0)
    torch.testing.assert_close(net(IDS)[1, 8:], responses.amax(dim=1))


def test_tokens_are_left_out_in_training_only_at_the_given_rate() -> None:
    embed = TokenEmbedding(NOTE, CONFIG.model_copy(update={"token_dropout": 0.25}))
    torch.manual_seed(0)
    ids = torch.ones(200, 50, dtype=torch.int64)
    embedded, counts = embed.train()(ids)
    torch.testing.assert_close(counts, counts.round())
    assert counts.unique().tolist() == [0, 1] or set(counts.round().unique().tolist()) == {0, 1}
    assert abs(counts.mean().item() - 0.75) < 0.02
    assert not embedded[counts < 0.5].any()
    assert embed.eval()(ids)[1].min() == 1


def test_data_without_text_is_refused() -> None:
    spec = DataSpec(modalities=(ModalitySpec(name="v", kind="vector", shape=(3,)),), task=CLASSES)
    assert "text" in str(LearnerSettings().text_net.supports(spec))


@pytest.mark.parametrize("pooling", ["attention", "convolution"])
def test_it_learns_which_word_a_text_holds(pooling: Any) -> None:
    torch.manual_seed(0)
    ids = torch.randint(2, 20, (128, 6))
    target = torch.randint(0, 2, (128,))
    ids[torch.arange(128), torch.randint(0, 6, (128,))] = torch.where(target > 0, 1, 2)
    ids = torch.where((target > 0).unsqueeze(1) & (ids == 2), torch.full_like(ids, 3), ids)
    spec = DataSpec(modalities=(NOTE,), task=CLASSES)
    net = CONFIG.model_copy(update={"pooling": pooling, "token_dropout": 0.0}).build(spec, 0)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    there = torch.ones(128, 1, dtype=torch.bool)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net({"note": ids}, there), target).backward()
        optimizer.step()
    assert (net.eval()({"note": ids}, there).argmax(dim=1) == target).float().mean() > 0.95


def test_an_odd_embedding_width_has_one_set_of_weights() -> None:
    config = TextNetConfig(embedding_width=7, width=8)
    assert AttentionPool(NOTE, config)(IDS).shape == (3, 14)
