"""What training does to the rows of a batch so that a net does not learn them by heart: mixing, hiding, noise.

Each change is a function of the seed, the epoch and the place in it only, never of what was drawn before or of who else
trains: an interrupted training goes on in the same bits, and a learner of a stack meets the rows it would meet alone.
Only the streams of training rows have a `Perturbation`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from training_core.data.preprocessing import Preprocessor
from training_core.data.streams.draws import GOLDEN, as_keys, draws, hashed, limits, mixed, normal_draws
from training_core.schema import Batch
from training_core.seeding import derive_seed, generator, torch_generator

AnyBatch = TypeVar("AnyBatch", bound=Batch)
Change = Callable[[Tensor], Tensor]

_LEAST_WEIGHT = 1e-12  # rows that only fill a batch up weigh nothing, alone or mixed


@dataclass(frozen=True)
class CellRoles:
    """What the numbers of one encoded modality are."""

    name: str
    is_table: bool
    feature_shape: tuple[int, ...]
    """Of a tensor with a number per feature that can be multiplied with a sample: an image's is [C, 1, 1]."""
    varies: tuple[bool, ...]
    """Per feature, whether it is a number that differs between training rows."""
    indicators: tuple[int, ...] = ()
    """Table: the numeric columns that have an indicator; these stand, in this order, behind the `num_numbers` ones."""
    num_numbers: int = 0
    """Table: its numeric columns, without indicators."""
    may_be_padded: bool = False
    """Whether samples are steps in time, of which those at the end may be padding."""
    can_hide: bool = False
    """Whether single features are hidden: those of tables and vectors. A pixel or a moment has neighbours that tell
    what it was, and a token stands in an order."""

    @property
    def owners(self) -> list[int]:
        """Table: for each column the one whose draw decides about it: an indicator goes with what it tells of."""
        owners = list(range(len(self.varies)))
        owners[self.num_numbers : self.num_numbers + len(self.indicators)] = self.indicators
        return owners

    @property
    def tellers(self) -> list[int]:
        """Table: for each column the one that says where it is missing; -1: none."""
        tellers = [-1] * len(self.varies)
        for number, column in enumerate(self.indicators):
            tellers[column] = self.num_numbers + number
        return tellers

    @property
    def is_indicator(self) -> list[bool]:
        """Table: for each column, whether it says where another is missing."""
        own = range(self.num_numbers, self.num_numbers + len(self.indicators))
        return [column in own for column in range(len(self.varies))]


def roles_of(preprocessor: Preprocessor) -> tuple[CellRoles, ...]:
    """What the numbers of each encoded modality are; text has none."""
    found = []
    for modality in preprocessor.spec.modalities:
        state = preprocessor.states[modality.name]
        varies = tuple(scale != 0 for scale in state.scale)
        if modality.kind == "tabular":
            of_all = varies + (False,) * (modality.num_features - len(varies))
            shape = (len(of_all),)
            found.append(CellRoles(modality.name, True, shape, of_all, state.indicators, len(varies), can_hide=True))
        elif modality.kind != "text":
            shape = {"image": (len(varies), 1, 1), "sequence": (1, len(varies))}.get(modality.kind, (len(varies),))
            found.append(
                CellRoles(
                    modality.name,
                    False,
                    shape,
                    varies,
                    may_be_padded=modality.kind == "sequence",
                    can_hide=modality.kind == "vector",
                )
            )
    return tuple(found)


class Drawn(NamedTuple):
    """What is drawn for an epoch of one learner, batch by batch; places without a row hold what changes nothing."""

    keys: Tensor
    """Of each row, int32 [batches, B]."""
    partner: Tensor
    """The place in the batch of the row it is mixed with, int64 [batches, B]; no batches where nothing is mixed."""
    share: Tensor
    """What of the mixed row is the row itself, float32, as many."""


@dataclass(frozen=True)
class Perturbation:
    """How rows are changed; in this order."""

    roles: tuple[CellRoles, ...]
    """Of the modalities that can be changed."""
    mixup: float = 0.0
    """Above 0: each row is mixed with another of its batch, by a share drawn from Beta(mixup, mixup).

    Source: Zhang et al. 2018, arXiv:1710.09412, with a share for each row. What one of the two does not have, the mixed
    row has not either: a modality, or a cell of a table. Where nothing would be left, a row stays what it is.
    """
    feature_dropout: float = 0.0
    """Probability that a feature of a row is hidden: a cell of a table is then missing the way absent ones are fed, and
    a number of a vector is its mean."""
    input_noise: float = 0.0
    """Standard deviation of what is added to numbers, which are standardised. What is missing, hidden, or constant in
    training stays as it is, and so do the steps at the end of a sequence from which on it does not change any more:
    by that a net tells padding from what counts."""
    num_classes: int | None = None
    """Classification: targets that are mixed are shares of so many classes, float [B, C], not codes."""
    mixes: bool = False
    """Whether targets have the form that mixed ones have: where `mixup` is above 0, here or elsewhere in a stack."""

    @classmethod
    def of(
        cls, preprocessor: Preprocessor, mixup: float = 0.0, feature_dropout: float = 0.0, input_noise: float = 0.0
    ) -> Self:
        """That of rows encoded by `preprocessor`."""
        task = preprocessor.spec.task
        num_classes = task.num_outputs if task.kind == "classification" else None
        return cls(roles_of(preprocessor), mixup, feature_dropout, input_noise, num_classes, mixup > 0)

    @property
    def changes(self) -> bool:
        """Whether it changes anything."""
        return bool(self.mixes or self.feature_dropout or self.input_noise)

    def drawn(self, seed: int, rank: int, epoch: int, num_rows: int, batch_size: int) -> Drawn:
        """What is drawn for the `num_rows` rows of an epoch.

        For all rows at once: per batch, a dozen tiny operations would cost more than the rest of the loading.
        """
        num_batches = -(-num_rows // batch_size)
        shape, empty = (num_batches, batch_size), num_batches * batch_size - num_rows
        root = np.uint64(derive_seed(seed, "perturbation", epoch, rank))
        numbers = np.arange(1, num_rows + 1, dtype=np.uint64)
        keys = functional.pad(as_keys(mixed(root + numbers * np.uint64(GOLDEN))), (0, empty)).view(shape)
        if not self.mixup:
            return Drawn(keys, torch.empty(0, batch_size, dtype=torch.int64), torch.empty(0, batch_size))
        own = torch.arange(batch_size).expand(shape)
        order = torch.rand(num_rows, generator=torch_generator(seed, "mixup", epoch, rank))
        order = functional.pad(order, (0, empty), value=2.0).view(shape)  # what only fills up comes last
        is_row = order < 2
        partner = torch.where(is_row, order.argsort(dim=1), own)
        share = generator(seed, "mixup share", epoch, rank).beta(self.mixup, self.mixup, num_rows)
        share = functional.pad(torch.from_numpy(share.astype(np.float32)), (0, empty), value=1.0).view(shape)
        return Drawn(keys, partner, share)


class _Stacked(NamedTuple):
    """The roles of a modality's cells for all learners of a stack, K of them."""

    name: str
    varies: Tensor
    """1 where noise is added, float32 [K, 1, ...], to be multiplied with samples."""
    hides: bool
    may_be_padded: bool
    owners: Tensor | None
    """int64 [K, 1, columns]; None for what is no table. The others likewise."""
    tellers: Tensor | None
    """Of columns without one, any."""
    is_told: Tensor | None
    """1 for columns that have a teller, float32."""
    is_indicator: Tensor | None

    def missing(self, values: Tensor) -> Tensor:
        """1 where a cell of a table [K, B, columns] is missing and an indicator says so."""
        assert self.tellers is not None and self.is_told is not None
        return values.gather(2, self.tellers.expand_as(values)) * self.is_told


class PerturbedEpoch:
    """Changes the batches of an epoch: those of one learner, [B, ...], or of a stack, [K, B, ...]."""

    def __init__(self, perturbations: Sequence[Perturbation], drawn: Sequence[Drawn], keeps_presence: bool) -> None:
        """Draw nothing more.

        Args:
            perturbations: of each learner.
            drawn: for each learner.
            keeps_presence: whether batches go on with their `present`.
        """
        self._perturbations = list(perturbations)
        self._keeps_presence = keeps_presence
        most = max(len(one.keys) for one in drawn), max(one.keys.shape[1] for one in drawn)
        self._keys = torch.stack([_padded(one.keys, most, torch.zeros(1)) for one in drawn], dim=1)
        self._mixes = any(one.mixes for one in perturbations)
        if self._mixes:
            own = torch.arange(most[1])
            self._partner = torch.stack([_padded(one.partner, most, own) for one in drawn], dim=1)
            self._share = torch.stack([_padded(one.share, most, torch.ones(1)) for one in drawn], dim=1)
        self._noise = torch.tensor([one.input_noise for one in perturbations], dtype=torch.float32)
        self._limit = limits(1 - torch.tensor([one.feature_dropout for one in perturbations], dtype=torch.float64))
        self._noises = any(one.input_noise for one in perturbations)
        self._hides = any(one.feature_dropout for one in perturbations)
        self._modalities = [_stacked([one.roles[i] for one in perturbations])
                            for i in range(len(perturbations[0].roles))]  # fmt: skip
        self._device = torch.device("cpu")

    def __call__(self, batch: AnyBatch, number: int) -> AnyBatch:
        """Batch `number` of the epoch, changed: its inputs in place, the rest anew."""
        if batch.available.device != self._device:
            self._move(batch.available.device)
        is_stack = batch.available.ndim == 3
        num_rows = batch.available.shape[-2]
        inputs = {name: values if is_stack else values.unsqueeze(0) for name, values in batch.inputs.items()}
        if self._mixes:
            batch = self._mix(batch, inputs, self._partner[number, :, :num_rows], self._share[number, :, :num_rows])
        keys = self._keys[number, :, :num_rows]
        for i, roles in enumerate(self._modalities):
            values = inputs[roles.name]
            hidden = self._hide(values, roles, hashed(keys + (2 * i + 1))) if self._hides and roles.hides else None
            if self._noises:
                self._add_noise(values, roles, hashed(keys + (2 * i + 2)), hidden)
        return batch

    def _hide(self, values: Tensor, roles: _Stacked, keys: Tensor) -> Tensor:
        """Hide features of `values` [K, B, features]; which, bool of that shape."""
        hidden = draws(keys, values.shape[2]) > self._limit.view(-1, 1, 1)
        if roles.owners is None or roles.is_indicator is None:
            values.masked_fill_(hidden, 0.0)
            return hidden
        hidden = hidden.gather(2, roles.owners.expand_as(hidden))
        values.copy_(torch.where(hidden, roles.is_indicator, values))
        return hidden

    def _add_noise(self, values: Tensor, roles: _Stacked, keys: Tensor, hidden: Tensor | None) -> None:
        """Add noise to what of `values` [K, B, ...] is there."""
        noise = normal_draws(keys, values.shape[2:].numel()).view(values.shape)
        noise = noise * (roles.varies * self._noise.view(-1, *[1] * (values.ndim - 1)))
        if roles.tellers is not None:
            noise.mul_(1 - roles.missing(values))
        if roles.may_be_padded:
            noise.masked_fill_(_unchanging_end(values).unsqueeze(-1), 0.0)
        if hidden is not None:
            noise.masked_fill_(hidden, 0.0)
        values.add_(noise)

    def _mix(self, batch: AnyBatch, inputs: Mapping[str, Tensor], partner: Tensor, share: Tensor) -> AnyBatch:
        """The batch with each row mixed with its partner; `inputs` [K, B, ...] in place."""
        num_learners, num_rows = partner.shape
        shape = (num_learners, num_rows)
        starts = torch.arange(num_learners, device=partner.device).unsqueeze(1) * num_rows

        def of(rows: Tensor, values: Tensor) -> Tensor:
            return values.reshape(-1, *values.shape[2:]).index_select(0, rows.view(-1)).view_as(values)

        def as_stack(values: Tensor) -> Tensor:
            return values.view(*shape, *values.shape[batch.available.ndim - 1 :])

        there = as_stack(batch.available if batch.present is None else batch.present)
        shown = as_stack(batch.available)
        others = starts + partner
        in_common = (shown & of(others, there)).any(dim=2)
        others = torch.where(in_common, others, starts + torch.arange(num_rows, device=partner.device))
        share = torch.where(in_common, share, torch.ones_like(share))
        other_there = of(others, there)
        for roles in self._modalities:
            values = inputs[roles.name]
            own = share.view(*shape, *[1] * (values.ndim - 2))
            other = of(others, values)
            missing = None if roles.tellers is None else torch.maximum(roles.missing(values), roles.missing(other))
            told = None if roles.is_indicator is None else torch.maximum(values, other)
            values.mul_(own).add_(other.mul_(1 - own))
            if missing is not None and told is not None:
                assert roles.is_indicator is not None
                values.mul_(1 - missing).copy_(torch.where(roles.is_indicator > 0, told, values))
        target, weight = self._mixed_answers(batch, as_stack, lambda values: of(others, values), share)
        is_stack = batch.available.ndim == 3

        def as_given(values: Tensor) -> Tensor:
            return values if is_stack else values.squeeze(0)

        return replace(
            batch,
            available=as_given(shown & other_there),
            target=None if target is None else as_given(target),
            weight=None if weight is None else as_given(weight),
            present=as_given(there & other_there) if self._keeps_presence else None,
        )

    def _mixed_answers(
        self, batch: Batch, as_stack: Change, of_other: Change, share: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        """Targets and weights of mixed rows: a mixed row costs what its parts cost, by their shares and weights."""
        if batch.target is None:
            return None, batch.weight
        target, num_classes = as_stack(batch.target), self._perturbations[0].num_classes
        if num_classes is not None:
            target = functional.one_hot(target, num_classes).to(share.dtype)
        own, other = share, 1 - share
        if batch.weight is not None:
            weight = as_stack(batch.weight)
            own, other = share * weight, (1 - share) * of_other(weight)
        whole = own + other
        parts = own.unsqueeze(-1) * target + other.unsqueeze(-1) * of_other(target)
        return parts / whole.clamp(min=_LEAST_WEIGHT).unsqueeze(-1), None if batch.weight is None else whole

    def _move(self, device: torch.device) -> None:
        """Put everything on `device`, once per epoch."""
        self._device = device
        self._keys, self._noise, self._limit = (t.to(device) for t in (self._keys, self._noise, self._limit))
        if self._mixes:
            self._partner, self._share = self._partner.to(device), self._share.to(device)
        self._modalities = [
            roles._replace(**{n: part.to(device) for n, part in roles._asdict().items() if isinstance(part, Tensor)})
            for roles in self._modalities
        ]


def _stacked(roles: Sequence[CellRoles]) -> _Stacked:
    """The roles of one modality of each learner, whose columns need not be told of by the same indicators."""
    first = roles[0]
    varies = torch.tensor([one.varies for one in roles], dtype=torch.float32).view(-1, 1, *first.feature_shape)
    if not first.is_table:
        return _Stacked(first.name, varies, first.can_hide, first.may_be_padded, None, None, None, None)
    tellers = torch.tensor([one.tellers for one in roles]).unsqueeze(1)
    return _Stacked(
        first.name,
        varies,
        first.can_hide,
        first.may_be_padded,
        owners=torch.tensor([one.owners for one in roles]).unsqueeze(1),
        tellers=tellers.clamp(min=0),
        is_told=(tellers >= 0).float(),
        is_indicator=torch.tensor([one.is_indicator for one in roles], dtype=torch.float32).unsqueeze(1),
    )


def _unchanging_end(values: Tensor) -> Tensor:
    """Which steps of sequences [..., T, F] are in a stretch of two or more alike that lasts to the end, bool [..., T].

    Its first step is one of them: with noise on that one alone the others would no longer be equal to it.
    """
    alike = (values[..., 1:, :] == values[..., :-1, :]).all(dim=-1)
    until_end = (~alike).flip(-1).to(torch.int64).cumsum(dim=-1).flip(-1) == 0
    return functional.pad(until_end, (0, 1)) | functional.pad(until_end, (1, 0))


def _padded(values: Tensor, shape: tuple[int, int], fill: Tensor) -> Tensor:
    """Values [batches, B] made as many as the longest learner has, by rows of `fill`, [B] or [1]."""
    padded = fill.to(values.dtype).expand(shape).clone()
    padded[: values.shape[0], : values.shape[1]] = values
    return padded
