"""Dropout in a stack: each learner at a rate of its own, by draws of its own, whoever trains beside it.

torch's generator draws for all learners of a stack at once, so what one is dealt depends on how many others there are.
Here a draw is a function of the learner's seed, how many steps it made, and the place in the net: others may be added,
end early or be taken out, and a stack can be gone on with from the numbers of its steps alone. It takes about half the
time of torch's draws on a CPU.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from training_core.data.streams.draws import GOLDEN, as_keys, hashed, limits, mixed, places


class OwnDropout(nn.Module):
    """Stands for an `nn.Dropout` in the template of a stack, where its buffers are one learner's.

    Values are dropped where a hash of their place and of `key` is above `limit`, and multiplied by `scale` elsewhere.
    """

    def __init__(self) -> None:
        super().__init__()
        self.key: Tensor
        self.limit: Tensor
        self.scale: Tensor
        for name in ("key", "limit", "scale"):
            self.register_buffer(name, torch.zeros(()), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """`values`, of any shape; as they are in evaluation."""
        if not self.training:
            return values
        number = values.numel()
        draws = hashed(places(-(-number // 2), values.device) + self.key)
        draws = draws.view(torch.int16)[:number].view(values.shape)  # two draws of 16 bits from each hash of 32
        scale = self.scale.to(values.dtype)
        return values * torch.where(draws <= self.limit, scale, torch.zeros_like(scale))


class DropoutDraws:
    """The dropout of all learners of a stack: what each place drops in the next step."""

    def __init__(self, models: Sequence[nn.Module], seeds: Sequence[int], dtype: torch.dtype) -> None:
        """Look for `nn.Dropout` in `models`, nets of one architecture, learner k to draw by `seeds[k]`."""
        rates = {
            path: [_rate(model.get_submodule(path)) for model in models]
            for path, module in models[0].named_modules(remove_duplicate=False)
            if type(module) is nn.Dropout
        }
        self._rates = {path: own for path, own in rates.items() if any(own)}
        self._dtype = dtype
        self.seeds = torch.tensor(list(seeds), dtype=torch.int64)
        """Of the learners that are left, int64 [K]."""

    def put_into(self, template: nn.Module, device: torch.device) -> dict[str, Tensor]:
        """Replace the dropout of `template` where any learner has some; the new buffers by name, [K] on `device`."""
        buffers: dict[str, Tensor] = {}
        for path, rates in self._rates.items():
            template.set_submodule(path, OwnDropout().train(template.training))
            kept = 1 - torch.tensor(rates, dtype=torch.float64)
            buffers[f"{path}.key"] = torch.zeros(len(rates), dtype=torch.int32, device=device)
            buffers[f"{path}.limit"] = limits(kept).to(device)
            buffers[f"{path}.scale"] = (1 / kept).to(device, self._dtype)
        return buffers

    def draw(self, buffers: Mapping[str, Tensor], num_updates: Sequence[int]) -> None:
        """Set what is dropped in the step after so many updates of each learner; in place, nothing is waited for."""
        if not self._rates:
            return
        streams = self.seeds.numpy().view(np.uint64) + np.array(num_updates, np.uint64) * np.uint64(GOLDEN)
        numbers = np.arange(1, len(self._rates) + 1, dtype=np.uint64)
        keys = mixed(mixed(streams) + numbers[:, None] * np.uint64(GOLDEN))  # [place, K]
        drawn = as_keys(keys).to(next(iter(buffers.values())).device, non_blocking=True)
        for path, own in zip(self._rates, drawn, strict=True):
            buffers[f"{path}.key"].copy_(own)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with the learners `rows` only."""
        self.seeds = self.seeds[list(rows)]


def _rate(module: nn.Module) -> float:
    assert isinstance(module, nn.Dropout), "nets of one architecture have their dropout in the same places"
    return module.p
