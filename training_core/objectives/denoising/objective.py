"""What a denoised net is trained towards: its target, and what its modalities tell of one another."""

import torch
from torch import Tensor, nn

from training_core.objectives.denoising.net import Denoised, DenoisedNet
from training_core.objectives.supervised import Loss, Supervised
from training_core.schema import Batch


class SupervisedAndDenoising:
    """The loss of the target, the mean over the views of a sample, plus each objective of denoising by its weight.

    To be called with a `DenoisedNet`. Terms: `supervised/<loss>`; `view/<view>`, what it is the mean of;
    `denoising/<objective>` and `denoising/<objective>/<modality>`, before they are weighted; `denoising/total`, what
    they add to the loss.

    The objectives of denoising count every row alike, but for rows of weight 0, which only fill a batch up: the weights
    of classes say what answers count, not what modalities tell of one another.
    """

    def __init__(self, supervised: Supervised) -> None:
        self.supervised = supervised

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """One pass of the net; see the class."""
        present = batch.available if batch.present is None else batch.present
        counted = None if batch.weight is None else batch.weight > 0
        found: Denoised = model(batch.inputs, batch.available, present, counted)
        judged_views = {view: self.supervised.judge(raw, batch) for view, raw in found.views.items()}
        supervised = next(iter(judged_views.values()))
        total = torch.stack([loss.total for loss in judged_views.values()]).mean()
        names = _names(model)
        terms = {
            f"supervised/{name}": torch.stack([loss.terms[name] for loss in judged_views.values()]).mean()
            for name in supervised.terms
        }
        terms |= {f"view/{view}": loss.total for view, loss in judged_views.items()}
        for kind, judged in found.judged.items():
            terms[f"denoising/{kind}"] = judged.total
            shares = judged.per_modality.unbind()
            terms |= {f"denoising/{kind}/{name}": share for name, share in zip(names, shares, strict=True)}
        totals = torch.stack([judged.total for judged in found.judged.values()])
        added = (found.weights.to(totals.dtype) * totals).sum()
        terms["denoising/total"] = added
        return Loss(total + added, terms, supervised.weight)


def ask_inner_net(model: nn.Module, batch: Batch) -> Tensor:
    """The answer of the net inside a denoised one: what it is judged by, as it will answer afterwards."""
    return _inner(model)(batch.inputs, batch.available)


def _inner(model: nn.Module) -> nn.Module:
    assert isinstance(model, DenoisedNet), "only a denoised net has another inside"
    return model.net


def _names(model: nn.Module) -> tuple[str, ...]:
    """The modalities denoising is about; a wrapper for several devices passes it on as `module`."""
    inner = getattr(model, "module", model)
    assert isinstance(inner, DenoisedNet), "this objective is for denoised nets"
    return inner.names
