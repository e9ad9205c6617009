"""The whole ensemble as one torch module, and the tensors it takes and gives."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from training_core.data.text import MAX_TOKENS
from training_core.engine.trained import TrainedLearner
from training_core.export.graph.columns import Vocabularies
from training_core.export.graph.encoding import Raw
from training_core.export.graph.members import MemberGraph, term_lists
from training_core.export.graph.rules import Combination, Usable
from training_core.schema import DataSpec, TaskSpec
from training_core.selection.ensemble import Ensemble
from training_core.selection.manifest import Member

MASK = "available"
"""The input that says which modalities each row has."""


@dataclass(frozen=True)
class GraphInput:
    """One tensor the graph takes, all but the mask.

    `values`: a modality as it is. `tokens`: the hashed n-grams of a text. `term_ids` and `term_counts`: the pieces of a
    text that count for a linear model, by their numbers in `analyzer`'s vocabulary, and how often each occurs.
    """

    name: str
    modality: str
    holds: Literal["values", "tokens", "term_ids", "term_counts"]
    dtype: Literal["float32", "float64", "int64"]
    shape: tuple[int, ...]
    """Of one row; () for a number of pieces that differs from batch to batch."""
    analyzer: str = ""


class EnsembleGraph(nn.Module):
    """Answers as `Ensemble.predict` does, to rows with any modalities missing.

    Attributes:
        inputs: what `forward` takes, before the mask.
        members: the learners in it.
        vocabularies: numbers of the pieces of texts.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        members: Sequence[Member],
        learners: Mapping[str, TrainedLearner],
        vocabularies: Vocabularies,
    ) -> None:
        super().__init__()
        spec = ensemble.spec
        self.names = spec.names
        self.task: TaskSpec = spec.task
        self.members = tuple(members)
        self.vocabularies = vocabularies
        self.inputs = graph_inputs(spec, learners.values(), vocabularies)
        self.learners = nn.ModuleList(
            MemberGraph(learners[member.name], ensemble.folder / member.folder, vocabularies) for member in members
        )
        own = [[name in learners[m.name].modalities for name in spec.names] for m in members]
        can_do_without = [learners[m.name].tolerates for m in members]
        needed = [
            [mine and name not in without for name, mine in zip(spec.names, row, strict=True)]
            for row, without in zip(own, can_do_without, strict=True)
        ]
        self.usable = Usable(own, needed)
        self.combination = Combination(ensemble, members)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the tensors `forward` takes, in order; the mask is the last."""
        return (*(given.name for given in self.inputs), MASK)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of what it gives, in order."""
        return self.combination.output_names

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Predictions, of tensors in the order of `input_names`."""
        *given, available = tensors
        raw = self._raw(given, available)
        said = torch.stack([learner(raw) for learner in self.learners], dim=1)
        return self.combination(said, self.usable(available), available)

    def _raw(self, given: Sequence[Tensor], available: Tensor) -> Raw:
        values: dict[str, Tensor] = {}
        tokens: dict[str, Tensor] = {}
        ids: dict[tuple[str, str], Tensor] = {}
        counts: dict[tuple[str, str], Tensor] = {}
        for wanted, tensor in zip(self.inputs, given, strict=True):
            if wanted.holds == "values":
                values[wanted.modality] = tensor
            elif wanted.holds == "tokens":
                tokens[wanted.modality] = tensor
            else:
                (ids if wanted.holds == "term_ids" else counts)[wanted.modality, wanted.analyzer] = tensor
        masks = {name: available[:, i] for i, name in enumerate(self.names)}
        return Raw(values, tokens, {key: (ids[key], counts[key]) for key in ids}, masks)


def make_graph(ensemble: Ensemble) -> EnsembleGraph:
    """The graph of an ensemble, of those learners that can have a say.

    Raises:
        ConfigError: a learner is of a kind no graph is known for.
        StorageError: a learner's files do not read back.
    """
    members = _members_heard(ensemble)
    learners = {m.name: TrainedLearner.load(ensemble.folder / m.folder) for m in members}
    pieces: dict[tuple[str, str], set[str]] = {}
    for member in members:
        for key, terms in term_lists(learners[member.name], ensemble.folder / member.folder).items():
            pieces.setdefault(key, set()).update(terms)
    numbered = {key: {term: i for i, term in enumerate(sorted(terms), start=1)} for key, terms in pieces.items()}
    return EnsembleGraph(ensemble, members, learners, numbered).eval()


def graph_inputs(
    spec: DataSpec, learners: Collection[TrainedLearner], vocabularies: Vocabularies
) -> tuple[GraphInput, ...]:
    """The tensors that `learners` of a data set need, modality by modality; modalities nobody looks at have none."""
    looked_at = {name for learner in learners for name in learner.modalities}
    longest: dict[str, int] = {}
    for learner in learners:
        for name, state in learner.preprocessor.states.items():
            longest[name] = max(longest.get(name, 0), min(state.num_tokens, MAX_TOKENS))
    found: list[GraphInput] = []
    for modality in spec.modalities:
        name = modality.name
        if modality.kind == "text":
            if longest.get(name):
                found.append(GraphInput(f"{name}.tokens", name, "tokens", "int64", (longest[name],)))
            for key in sorted(key for key in vocabularies if key[0] == name):
                prefix = f"{name}.{key[1]}"
                found.append(GraphInput(f"{prefix}.ids", name, "term_ids", "int64", (), key[1]))
                found.append(GraphInput(f"{prefix}.counts", name, "term_counts", "float64", (), key[1]))
        elif name in looked_at:
            dtype = "float64" if modality.kind == "tabular" else "float32"
            found.append(GraphInput(name, name, "values", dtype, modality.shape))
    return tuple(found)


def _members_heard(ensemble: Ensemble) -> tuple[Member, ...]:
    """The learners that can ever have a say: those with a weight, as long as one of them answers to each modality.

    A learner that can answer with some modalities can with more, so where one of them answers to every single modality,
    no row makes the ensemble fall back on the others.
    """
    kept = [member for member in ensemble.members if member.name in set(ensemble.kept)]
    for alone in ensemble.spec.names:
        row = {name: np.array([name == alone]) for name in ensemble.spec.names}
        if not any(ensemble.learner(member.name).usable(row)[0] for member in kept):
            return ensemble.members
    return tuple(kept)
