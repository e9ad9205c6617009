"""A step's rows for every learner of a cohort at once: one axis more than `Batch`, and how many rows are real."""

from dataclasses import dataclass, field

from torch import Tensor

from training_core.schema import Batch


@dataclass(frozen=True)
class CohortBatch(Batch):
    """K learners' batches of B rows each, learner by learner.

    `inputs` [K, B, ...], `available` bool [K, B, M], `target` [K, B, ...], `weight` float32 [K, B], `present` bool
    [K, B, M] where it is asked for; `rows` is None. A learner with fewer than B rows left has its batch filled up with
    rows it has already, at weight 0: a mean that is weighted by `weight` is the one over its real rows.
    """

    counts: Tensor = field(kw_only=True)
    """Real rows of each learner, int64 [K], on the CPU whatever the device; 0: the learner sits this step out."""

    def __len__(self) -> int:
        """Rows per learner, B."""
        return self.available.shape[1]

    def clone(self) -> "CohortBatch":
        """The same batch in memory of its own."""
        copy = super().clone()
        return CohortBatch(
            copy.inputs, copy.available, copy.target, copy.weight, present=copy.present, counts=self.counts.clone()
        )
