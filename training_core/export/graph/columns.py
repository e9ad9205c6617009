"""What `learners.design_matrix.DesignMatrix` and linear models on it do, as torch modules.

Texts never become columns here: a linear model adds up the coefficients of the pieces a text has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from training_core.export.graph.encoding import Raw
from training_core.schema import DataSpec, ModalitySpec

Vocabularies = Mapping[tuple[str, str], Mapping[str, int]]
"""Per text and analyzer, the number of each piece that some learner knows, from 1."""


@dataclass(frozen=True)
class DesignState:
    """A fitted design matrix as it is saved: for which encoded samples, with which settings, and what it learnt."""

    spec: DataSpec
    learnt: Mapping[str, Any]
    max_one_hot: int | None = None
    missing_as_nan: bool = False
    analyzer: str = ""

    def widths(self, modality: ModalitySpec) -> list[int]:
        """0/1 columns of each column of codes; 0 where it stays as it is."""
        most = self.max_one_hot
        return [c - 1 if most is None or c - 1 <= most else 0 for c in modality.cardinalities]

    def num_columns(self, modality: ModalitySpec) -> int:
        """Columns of a modality that is no text."""
        widths = self.widths(modality)
        return modality.num_features - sum(1 for width in widths if width) + sum(widths)

    def terms(self, name: str) -> list[str]:
        """The pieces of the text `name` that count, in the order of their columns."""
        terms = self.learnt["texts"][name]["terms"]
        return terms.split("\n") if terms else []


class DenseColumns(nn.Module):
    """The columns of a design matrix that are no text, [N, columns] float64."""

    def __init__(self, state: DesignState) -> None:
        super().__init__()
        self.missing_as_nan = state.missing_as_nan
        self.indicated = list(state.learnt["indicated"])
        self.blocks: list[tuple[str, list[int], list[int], list[int]]] = []
        for modality in state.spec.modalities:
            if modality.kind == "text":
                continue
            widths = state.widths(modality)
            codes = [modality.num_numeric + i for i, width in enumerate(widths) if width]
            rest = [i for i in range(modality.num_features) if i not in set(codes)]
            self.blocks.append((modality.name, rest, codes, [width for width in widths if width]))

    def forward(self, encoded: Mapping[str, Tensor], raw: Raw) -> Tensor:
        """Modalities follow each other, then the indicators; a single column of zeros where there is none."""
        parts: list[Tensor] = []
        for name, rest, codes, widths in self.blocks:
            flat = encoded[name].flatten(1).double()
            absent = torch.full_like(flat, float("nan") if self.missing_as_nan else 0.0)
            flat = torch.where(raw.available[name].unsqueeze(1), flat, absent)
            if not codes:
                parts.append(flat)
                continue
            parts.append(flat[:, rest])
            for code, width in zip(codes, widths, strict=True):
                positions = torch.arange(1, width + 1, dtype=torch.float64)
                parts.append((flat[:, code : code + 1] == positions).double())
        parts += [raw.available[name].unsqueeze(1).double() for name in self.indicated]
        if not parts:
            return torch.zeros_like(next(iter(raw.available.values())), dtype=torch.float64).unsqueeze(1)
        return torch.cat(parts, dim=1)


class TermSum(nn.Module):
    """A text's TF-IDF weights times the coefficients of its pieces, [N, outputs]; see `learners.text_features`."""

    def __init__(
        self, terms: Sequence[str], idf: np.ndarray, coefficients: np.ndarray, vocabulary: Mapping[str, int]
    ) -> None:
        super().__init__()
        own = np.zeros(len(vocabulary) + 1, dtype=np.int64)
        own[[vocabulary[term] for term in terms]] = np.arange(1, len(terms) + 1)
        zero = np.zeros((1, coefficients.shape[1]))
        self.register_buffer("own", torch.from_numpy(own))
        self.register_buffer("idf", torch.from_numpy(np.concatenate([[0.0], idf])))
        self.register_buffer("coefficients", torch.from_numpy(np.concatenate([zero, coefficients])))

    def forward(self, ids: Tensor, counts: Tensor) -> Tensor:
        """Numbers of pieces [N, K] and how often each occurs [N, K] (0 where nothing is)."""
        own = self.get_buffer("own")[ids]
        weights = (1.0 + counts.clamp(min=1.0).log()) * self.get_buffer("idf")[own]
        length = weights.square().sum(dim=1, keepdim=True).sqrt()
        weights = weights / torch.where(length > 0, length, torch.ones_like(length))
        return (weights.unsqueeze(1) @ self.get_buffer("coefficients")[own]).squeeze(1)


class LinearColumns(nn.Module):
    """A linear model of one or several design matrices side by side: raw outputs [N, outputs]."""

    def __init__(
        self,
        designs: Sequence[DesignState],
        coefficients: np.ndarray,
        intercepts: np.ndarray,
        vocabularies: Vocabularies,
    ) -> None:
        super().__init__()
        self.dense = nn.ModuleList()
        self.texts: list[tuple[str, str]] = []
        self.sums = nn.ModuleList()
        kept, start = [], 0
        for state in designs:
            self.dense.append(DenseColumns(state))
            rows, before = [], start
            for modality in state.spec.modalities:
                width = len(state.terms(modality.name)) if modality.kind == "text" else state.num_columns(modality)
                own = coefficients[start : start + width]
                start += width
                if modality.kind != "text":
                    rows.append(own)
                elif width:
                    key = (modality.name, state.analyzer)
                    terms, idf = state.terms(modality.name), state.learnt["texts"][modality.name]["idf"]
                    self.texts.append(key)
                    self.sums.append(TermSum(terms, idf, own, vocabularies[key]))
            num = len(state.learnt["indicated"])
            rows.append(coefficients[start : start + num])
            start += num
            if start == before:  # a matrix is never without a column: one of zeros
                start += 1
            own = np.concatenate(rows)
            kept.append(own if len(own) else np.zeros((1, coefficients.shape[1])))
        self.register_buffer("coefficients", torch.from_numpy(np.concatenate(kept)))
        self.register_buffer("intercepts", torch.from_numpy(np.ascontiguousarray(intercepts)))

    def forward(self, encoded: Mapping[str, Tensor], raw: Raw) -> Tensor:
        """See the class."""
        joined = torch.cat([columns(encoded, raw) for columns in self.dense], dim=1)
        out = joined @ self.get_buffer("coefficients") + self.get_buffer("intercepts")
        for key, summed in zip(self.texts, self.sums, strict=True):
            ids, counts = raw.terms[key]
            there = raw.available[key[0]].unsqueeze(1)
            out = out + summed(torch.where(there, ids, torch.zeros_like(ids)), counts)
        return out
