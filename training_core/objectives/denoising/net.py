"""A net and what denoising adds to it while it trains. The net itself is unchanged and goes its way afterwards."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from training_core.objectives.denoising.alignment import Alignment
from training_core.objectives.denoising.config import DenoisingConfig, ObjectiveKind, ViewKind
from training_core.objectives.denoising.consistency import Consistency
from training_core.objectives.denoising.information import Information
from training_core.objectives.denoising.prediction import Prediction
from training_core.objectives.denoising.reconstruction import Reconstruction
from training_core.objectives.denoising.strategies import first_weights
from training_core.objectives.denoising.views import Judged, Views, hidden_part
from training_core.schema import DataSpec, ModalitySpec, TaskSpec


@runtime_checkable
class Denoisable(Protocol):
    """A net that can be asked for what it makes of each modality, and to answer from that."""

    def latents(self, inputs: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """Latents [B, M, W] of encoded inputs, each of its own modality only; anything finite where not `present`."""
        ...

    def answer(self, latents: Tensor, available: Tensor) -> Tensor:
        """Raw outputs [B, C]; latents of modalities that are not `available` (bool [B, M]) change nothing.

        `answer(latents(inputs, available), available)` is the net's own answer.
        """
        ...


@runtime_checkable
class Foretelling(Protocol):
    """A net that may foretell latents from one another, to fill in what is missing."""

    foretelling: nn.Module | None
    """Latents [B, M, W] to what they foretell, [B, source, target, W]; None where it does not."""


@dataclass(frozen=True)
class Denoised:
    """What a net and its objectives say of a batch."""

    raw: Tensor
    """The net's raw outputs for what it was shown, [B, C]."""
    views: dict[ViewKind, Tensor]
    """Those for every view that the target is learned from, `raw` among them where it is one."""
    judged: dict[ObjectiveKind, Judged]
    """What each objective found."""
    weights: Tensor
    """What each of them counts, [objectives]."""


class DenoisedNet(nn.Module):
    """A net that trains together with the parts that denoising needs.

    Each modality is encoded once; what is fused is every view of the sample, one behind the other in a single pass.

    It trains as one: alone or in a stack, its parts' parameters are parameters like any other. `net` is the net that
    was given, not a copy: training this trains that, and the rest is dropped by being left behind.
    """

    def __init__(self, net: nn.Module, spec: DataSpec, config: DenoisingConfig) -> None:
        """Build the parts; torch's global generator decides their first weights.

        Args:
            net: what is to be trained; a `Denoisable` for which `why_not_denoised` has nothing to say.
            spec: encoded.
            config: what is learned beside the target.
        """
        super().__init__()
        self.net = net
        self._config = config  # private: nets whose plain settings differ are no stack, and weights may differ in one
        self.kinds = config.objectives
        self.views = config.views
        self.names = chosen_modalities(spec, config)
        chosen = [spec.names.index(name) for name in self.names]
        self.chosen = None if len(chosen) == len(spec.names) else tuple(chosen)
        modalities = [spec[name] for name in self.names]
        width = _latent_width(net, spec)
        self.foretells = isinstance(net, Foretelling) and net.foretelling is not None
        self.parts = nn.ModuleDict({kind: self._part(kind, modalities, width, spec.task) for kind in config.objectives})
        weights = torch.tensor(first_weights(config))
        self.register_buffer("weights", weights)
        self.register_buffer("magnitudes", torch.zeros_like(weights))  # of the objectives, as the strategy keeps them

    def forward(
        self, inputs: Mapping[str, Tensor], available: Tensor, present: Tensor, counted: Tensor | None = None
    ) -> Denoised:
        """Ask the net once for the latents of all that is there, for its answers to the views, and judge both.

        Args:
            inputs: encoded values by modality.
            available: what the net is shown, bool [B, M].
            present: what is there, bool [B, M].
            counted: rows that are no mere filling, bool [B]; None: all.
        """
        net = self.net
        assert isinstance(net, Denoisable), "whoever wraps a net has asked `why_not_denoised`"
        latents = net.latents(inputs, present)
        carried = latents
        if "information" in self.parts:
            information = self.parts["information"]
            assert isinstance(information, Information)
            drawn = information.draw(self._of_chosen(latents))
            carried = drawn if self.chosen is None else latents.index_copy(1, self._index(latents), drawn)
        seen: dict[ViewKind, Tensor] = {"shown": available, "rest": hidden_part(available, present), "full": present}
        asked: tuple[ViewKind, ...] = tuple(dict.fromkeys(("shown", *self.views)))
        stacked = carried.repeat(len(asked), 1, 1)
        answers = net.answer(stacked, torch.cat([seen[view] for view in asked])).chunk(len(asked))
        found: dict[ViewKind, Tensor] = dict(zip(asked, answers, strict=True))
        raw = full = found["shown"]
        if "consistency" in self.parts:
            full = found.get("full")
            if full is None or carried is not latents:  # a teacher without the noise of a bottleneck
                with torch.no_grad():
                    full = net.answer(latents, present)
        foretold = None
        if "prediction" in self.parts and self.foretells:
            assert isinstance(net, Foretelling) and net.foretelling is not None
            foretold = self._of_chosen(self._of_chosen(net.foretelling(latents)), dim=2)
        if counted is None:
            counted = torch.ones_like(present[:, 0])
        there = self._of_chosen(present) & counted.unsqueeze(1)
        views = Views(
            inputs=inputs,
            latents=_in_full(self._of_chosen(latents)),
            present=there,
            shown=self._of_chosen(available) & there,
            counted=counted,
            raw=_in_full(raw),
            full=_in_full(full.detach()),
            rest=_in_full(found["rest"]) if "rest" in found else None,
            in_rest=self._of_chosen(seen["rest"]) & there,
            foretold=None if foretold is None else _in_full(foretold),
        )
        device = latents.device.type
        with torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext():
            judged: dict[ObjectiveKind, Judged] = {kind: self.parts[kind](views) for kind in self.kinds}
        learned: dict[ViewKind, Tensor] = {view: found[view] for view in self.views}
        return Denoised(raw, learned, judged, self.get_buffer("weights"))

    def _part(self, kind: ObjectiveKind, modalities: Sequence[ModalitySpec], width: int, task: TaskSpec) -> nn.Module:
        config = self._config
        if kind == "reconstruction":
            return Reconstruction(modalities, width)
        if kind == "alignment":
            return Alignment(modalities, width, config.temperature, config.learn_temperature, config.hardness)
        if kind == "prediction":
            return Prediction(modalities, width, self.foretells)
        return Consistency(task) if kind == "consistency" else Information(modalities, width)

    def _of_chosen(self, values: Tensor, dim: int = 1) -> Tensor:
        """Columns [B, M, …] of the modalities that denoising is about."""
        return values if self.chosen is None else values.index_select(dim, self._index(values))

    def _index(self, like: Tensor) -> Tensor:
        return torch.tensor(self.chosen, device=like.device)


def why_not_denoised(net: object, spec: DataSpec, config: DenoisingConfig) -> str | None:
    """Why denoising would not change how `net` trains, in words; None when it would.

    Args:
        net: a net, or an estimator.
        spec: encoded.
        config: what is asked for.
    """
    if not config.enabled:
        return "it is switched off"
    if not isinstance(net, nn.Module):
        return "an estimator fits in one step"
    if not isinstance(net, Denoisable):
        return f"{type(net).__name__} has no latents of single modalities"
    names = chosen_modalities(spec, config)
    if len(names) < 2:
        return f"of the modalities it is about there is {names[0] if names else 'none'} only, and it takes two"
    return None


def chosen_modalities(spec: DataSpec, config: DenoisingConfig) -> tuple[str, ...]:
    """The modalities of `spec` that denoising is about."""
    return tuple(name for name in spec.names if not config.modalities or name in config.modalities)


def _in_full(values: Tensor) -> Tensor:
    """Mixed precision: sums of what was computed in few bits are not made in few bits."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def _latent_width(net: nn.Module, spec: DataSpec) -> int:
    """W, by asking for the latents of one row of nothing."""
    assert isinstance(net, Denoisable), "whoever wraps a net has asked `why_not_denoised`"
    here = next(net.parameters())
    inputs = {
        m.name: torch.zeros((1, *m.shape), dtype=torch.int64 if m.kind == "text" else here.dtype, device=here.device)
        for m in spec.modalities
    }
    was_training = net.training
    net.eval()  # draws nothing
    with torch.no_grad():
        width = net.latents(inputs, torch.zeros(1, len(spec.names), dtype=torch.bool, device=here.device)).shape[-1]
    net.train(was_training)
    return width
