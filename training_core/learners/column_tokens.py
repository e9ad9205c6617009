"""A token per column of a table or vector, which says when the cell is missing: the front of a tabular transformer.

Shapes: B samples, D encoded columns, C tokens, K frequencies, W width. Runs under `torch.vmap`.
"""

import math

import torch
from torch import Tensor, nn

from training_core.schema import ModalitySpec

FREQUENCY_SPREAD = 0.3
"""Standard deviation of the initial frequencies, in turns per standard deviation of a column: two of those apart is
about half a turn, so that a bend in the middle of a column is seen at once and finer ones are learnt."""
TOKEN_SPREAD = 0.3
"""Standard deviation of initial tokens: their sum with the part that depends on the value starts at about 1."""


class ColumnTokens(nn.Module):
    """Encoded columns [B, D] of one modality to tokens [B, C, W].

    A number v becomes `v · w + b + [sin(2πcv), cos(2πcv)] · M`, with a direction w, a place b, frequencies c and a
    matrix M of its own: the linear tokens of Gorishniy et al. 2021 (arXiv:2106.11959, section 3.3) beside the periodic
    embedding of Gorishniy et al. 2022 (arXiv:2203.05556, section 3.3). A category becomes a learned token. Where the
    cell is missing, or the whole modality, the token is one that the column learns for that. A column that only says
    that another is missing has no token of its own.
    """

    def __init__(self, modality: ModalitySpec, width: int, num_frequencies: int) -> None:
        super().__init__()
        numbers, indicator_of = _numeric_columns(modality)
        cardinalities = modality.cardinalities
        self.num_numeric = modality.num_numeric
        self.num_tokens = len(numbers) + len(cardinalities)
        self.register_buffer("numbers", torch.tensor(numbers, dtype=torch.int64), persistent=False)
        # Columns without an indicator look at one that is always 0, behind the others.
        places = [indicator_of.get(column, modality.num_numeric) for column in numbers]
        self.register_buffer("indicators", torch.tensor(places, dtype=torch.int64), persistent=False)
        starts = [sum(cardinalities[:i]) for i in range(len(cardinalities))]
        self.register_buffer("starts", torch.tensor(starts, dtype=torch.int64), persistent=False)
        last = [cardinality - 1 for cardinality in cardinalities]
        self.register_buffer("last", torch.tensor(last, dtype=torch.int64), persistent=False)
        if numbers:
            self.direction = nn.Parameter(TOKEN_SPREAD * torch.randn(len(numbers), width))
            self.place = nn.Parameter(TOKEN_SPREAD * torch.randn(len(numbers), width))
            self.frequencies = nn.Parameter(FREQUENCY_SPREAD * torch.randn(len(numbers), num_frequencies))
            spread = TOKEN_SPREAD / math.sqrt(num_frequencies)
            self.periodic = nn.Parameter(spread * torch.randn(len(numbers), 2 * num_frequencies, width))
        self.categories = nn.Embedding(sum(cardinalities), width) if starts else None
        if self.categories is not None:
            nn.init.normal_(self.categories.weight, std=TOKEN_SPREAD)
        self.missing = nn.Parameter(TOKEN_SPREAD * torch.randn(self.num_tokens, width))

    def forward(self, values: Tensor, available: Tensor) -> Tensor:
        """Tokens [B, C, W] of `values` [B, D], finite where `available` (bool [B])."""
        tokens = []
        there = available.unsqueeze(1).expand(-1, self.num_tokens)
        if len(self.get_buffer("numbers")):
            tokens.append(self._number_tokens(values.index_select(1, self.get_buffer("numbers"))))
            columns = torch.cat([values[:, : self.num_numeric], torch.zeros_like(values[:, :1])], dim=1)
            known = columns.index_select(1, self.get_buffer("indicators")) < 0.5
            known = torch.cat([known, torch.ones_like(values[:, self.num_numeric :], dtype=torch.bool)], dim=1)
            there = there & known
        if self.categories is not None:
            codes = values[:, self.num_numeric :].long().clamp(min=0)
            tokens.append(self.categories(torch.minimum(codes, self.get_buffer("last")) + self.get_buffer("starts")))
        return torch.where(there.unsqueeze(-1), torch.cat(tokens, dim=1), self.missing)

    def _number_tokens(self, values: Tensor) -> Tensor:
        """[B, C] to [B, C, W]."""
        angles = 2 * math.pi * values.unsqueeze(-1) * self.frequencies
        waves = torch.cat([angles.sin(), angles.cos()], dim=-1)  # [B, C, 2K]
        linear = values.unsqueeze(-1) * self.direction + self.place
        return linear + (waves.transpose(0, 1) @ self.periodic).transpose(0, 1)


def num_column_tokens(modality: ModalitySpec) -> int:
    """Tokens of a modality, from a spec as given or encoded."""
    return len(_numeric_columns(modality)[0]) + len(modality.cardinalities)


def _numeric_columns(modality: ModalitySpec) -> tuple[list[int], dict[int, int]]:
    """Columns of numbers, and the column that says where one of them is missing, by its position.

    Preprocessing names the latter after the former.
    """
    names = [column.name for column in modality.columns[: modality.num_numeric]]
    position = {name: i for i, name in enumerate(names)}
    found = {position[name]: position[f"{name} is missing"] for name in names if f"{name} is missing" in position}
    indicators = set(found.values())
    return [i for i in range(modality.num_numeric) if i not in indicators], found
