"""How the ranks share the work on one model."""

from typing import Literal, Self

from pydantic import model_validator

from training_core.config import Config

Strategy = Literal["ddp", "zero1", "zero2", "zero3"]
Compression = Literal["none", "bf16", "fp16", "powersgd"]


class DistributedConfig(Config):
    """What every rank holds, and how gradients travel."""

    strategy: Strategy = "ddp"
    """ddp: every rank holds everything, gradients are averaged while they are computed (Li et al. 2020,
    arXiv:2006.15704). zero1: the optimiser's state is shared out besides; zero2: gradients and weights too, weights
    being gathered once per step; zero3: weights are gathered block by block, and again in the backward pass
    (Rajbhandari et al. 2020, arXiv:1910.02054; the last two are torch's `fully_shard`, FSDP2)."""
    compression: Compression = "none"
    """Of the gradients on their way, ddp and zero1 only: as bf16 or fp16, half the size; powersgd: as matrices of
    rank 1 with error feedback, from the 10th step on (Vogels et al. 2019, arXiv:1905.13727)."""

    @property
    def shards_weights(self) -> bool:
        """Whether no rank holds all weights between two steps."""
        return self.strategy in ("zero2", "zero3")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.shards_weights and self.compression != "none":
            raise ValueError(f"`compression` is for ddp and zero1; got {self.compression} with {self.strategy}")
        return self
