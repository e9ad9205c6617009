"""What `data.preprocessing.Preprocessor` does, as torch modules: raw numbers in, those a learner is fed out.

Shapes: N rows, D features. Sums and products are float64 like there, in the same order, so that every encoded number is
the same to the bit.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from training_core.data.preprocessing import MAX_STANDARDISED, ModalityState, Preprocessor
from training_core.schema import ModalitySpec


@dataclass(frozen=True)
class Raw:
    """What the graph is given.

    `values` by modality: [N, …], tables float64 with NaN for absent cells, other arrays float32. `tokens` by text:
    int64 [N, T], 0 where nothing is. `terms` by text and analyzer: the numbers of its pieces int64 [N, K], 0 where
    nothing is, and how often each occurs, float64 [N, K]. `available` by modality: bool [N].
    """

    values: dict[str, Tensor]
    tokens: dict[str, Tensor]
    terms: dict[tuple[str, str], tuple[Tensor, Tensor]]
    available: dict[str, Tensor]


class ArrayEncoding(nn.Module):
    """A vector, an image or a sequence, standardised; rows without it are zeros."""

    def __init__(self, modality: ModalitySpec, state: ModalityState, columns: tuple[int, ...] | None) -> None:
        super().__init__()
        axis = 0 if modality.kind == "image" else len(modality.shape) - 1
        shape = [-1 if i == axis else 1 for i in range(len(modality.shape))]
        self.register_buffer("mean", torch.tensor(state.mean, dtype=torch.float64).reshape(shape))
        self.register_buffer("scale", torch.tensor(state.scale, dtype=torch.float64).reshape(shape))
        self.register_buffer("columns", None if columns is None else torch.tensor(columns, dtype=torch.int64))

    def forward(self, values: Tensor, available: Tensor) -> Tensor:
        """[N, …] to float32 [N, …]."""
        if self.columns is not None:
            values = values.index_select(1, self.get_buffer("columns"))
        centred = (values.double() - self.get_buffer("mean")) * self.get_buffer("scale")
        mask = available.reshape(available.shape + (1,) * (values.ndim - 1))
        bounded = centred.clamp(-MAX_STANDARDISED, MAX_STANDARDISED)
        return torch.where(mask, bounded, torch.zeros_like(bounded)).float()


class TableEncoding(nn.Module):
    """A table: numbers standardised, 0 where absent; 1 where a number is absent; categories as codes, 0 unknown."""

    def __init__(self, modality: ModalitySpec, state: ModalityState, columns: tuple[int, ...] | None) -> None:
        super().__init__()
        own = list(range(len(modality.columns))) if columns is None else list(columns)
        numeric = [place for place, column in zip(own, modality.columns, strict=True) if column.categories is None]
        coded = [place for place, column in zip(own, modality.columns, strict=True) if column.categories is not None]
        self.register_buffer("numeric", torch.tensor(numeric, dtype=torch.int64))
        self.register_buffer("coded", torch.tensor(coded, dtype=torch.int64))
        self.register_buffer("mean", torch.tensor(state.mean, dtype=torch.float64))
        self.register_buffer("scale", torch.tensor(state.scale, dtype=torch.float64))
        self.register_buffer("indicators", torch.tensor(state.indicators, dtype=torch.int64))
        # One row of codes for all columns: that of column c and dataset code k stands at starts[c] + k + 1.
        tables = [_codes(seen) for seen in state.seen]
        sizes = [len(table) for table in tables]
        self.register_buffer("codes", torch.from_numpy(np.concatenate(tables)) if tables else torch.zeros(0))
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]) if sizes else np.zeros(0)
        self.register_buffer("starts", torch.tensor(starts, dtype=torch.int64))
        self.register_buffer("last", torch.tensor([float(size) for size in sizes], dtype=torch.float64))

    def forward(self, values: Tensor, available: Tensor) -> Tensor:
        """[N, columns] to float32 [N, numbers + indicators + categories]."""
        numbers = values.index_select(1, self.get_buffer("numeric"))
        absent = torch.isnan(numbers)
        centred = (numbers - self.get_buffer("mean")) * self.get_buffer("scale")
        bounded = centred.clamp(-MAX_STANDARDISED, MAX_STANDARDISED)
        parts = [torch.where(absent, torch.zeros_like(bounded), bounded)]
        if len(self.get_buffer("indicators")):
            parts.append(absent.index_select(1, self.get_buffer("indicators")).double())
        if len(self.get_buffer("coded")):
            given = values.index_select(1, self.get_buffer("coded"))
            known = given == given.floor()  # NaN and fractions are no code
            place = torch.where(known, given, torch.full_like(given, -1.0)).clamp(min=-1.0) + 1.0
            place = torch.where(place < self.get_buffer("last"), place, torch.zeros_like(place)).long()
            parts.append(self.get_buffer("codes")[place + self.get_buffer("starts")])
        joined = torch.cat(parts, dim=1)
        return torch.where(available.unsqueeze(1), joined, torch.zeros_like(joined)).float()


class MemberEncoding(nn.Module):
    """Everything one learner is fed, from what the graph is given."""

    def __init__(self, preprocessor: Preprocessor, features: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        self.names = preprocessor.input_spec.names
        self.num_tokens: dict[str, int] = {}
        self.encodings = nn.ModuleDict()
        for place, modality in enumerate(preprocessor.input_spec.modalities):
            state = preprocessor.states[modality.name]
            if modality.kind == "text":
                self.num_tokens[modality.name] = state.num_tokens
                continue
            kind = TableEncoding if modality.kind == "tabular" else ArrayEncoding
            self.encodings[str(place)] = kind(modality, state, features.get(modality.name))

    def forward(self, raw: Raw) -> dict[str, Tensor]:
        """By modality float32 [N, …], or int64 ids [N, tokens] of texts that are taken as tokens."""
        encoded: dict[str, Tensor] = {}
        for place, name in enumerate(self.names):
            available = raw.available[name]
            if str(place) in self.encodings:
                encoded[name] = self.encodings[str(place)](raw.values[name], available)
            elif self.num_tokens[name]:
                ids = raw.tokens[name][:, : self.num_tokens[name]]
                encoded[name] = torch.where(available.unsqueeze(1), ids, torch.zeros_like(ids))
        return encoded


def _codes(seen: tuple[int, ...]) -> np.ndarray:
    """Encoded codes by dataset code plus 1, float64: 0 for absent, unknown and unseen."""
    table = np.zeros((max(seen) if seen else 0) + 2)
    table[np.array(seen, dtype=np.int64) + 1] = np.arange(1, len(seen) + 1)
    return table
