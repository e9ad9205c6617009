"""What an ensemble is made of, as the value that is stored beside its learners in `ensemble.json`."""

from collections.abc import Iterable, Sequence

from training_core.config import Config
from training_core.schema import DataSpec, Pattern, TaskSpec
from training_core.selection.combination import PatternWeights

MANIFEST = "ensemble.json"


class Member(Config):
    """One trained learner of an ensemble."""

    name: str
    folder: str
    """Its `TrainedLearner` folder, relative to the ensemble's."""
    kind: str
    """Kind of learner."""
    modalities: tuple[str, ...]
    score: float | None = None
    """The task's metric on rows outside its bag."""


class EnsembleManifest(Config):
    """Everything about an ensemble but the learners themselves."""

    name: str
    spec: DataSpec
    """What samples look like, and the task."""
    members: tuple[Member, ...]
    patterns: tuple[PatternWeights, ...]
    """One per listed pattern, the full set first. A pattern not listed borrows from those that are."""
    prior: tuple[float, ...]
    """What is known without any input: class or label frequencies, or target means, of the training rows."""
    prior_std: tuple[float, ...] | None = None
    """Regression: standard deviation of each target column over the training rows."""
    dataset: str = ""
    """`name@version` it was trained on."""
    dataset_fingerprint: str = ""
    seed: int = 0

    @property
    def task(self) -> TaskSpec:
        """What it predicts."""
        return self.spec.task


def nearest(pattern: Pattern, among: Iterable[PatternWeights]) -> PatternWeights | None:
    """That of `among` whose pattern differs from `pattern` in the fewest modalities; the first of equals."""
    return min(among, key=lambda found: len(pattern ^ found.pattern), default=None)


def with_inherited(patterns: Sequence[PatternWeights], min_rows: int) -> tuple[PatternWeights, ...]:
    """`patterns`, where those learned from fewer than `min_rows` rows take the calibration of the nearest richer one.

    With no richer one at hand a pattern keeps what it has.
    """
    rich = [found for found in patterns if found.num_rows >= min_rows]
    result = []
    for found in patterns:
        source = found if found in rich else nearest(found.pattern, rich)
        if source is not None and source is not found:
            calibration = {name: getattr(source, name) for name in ("temperature", "explained", "error_std")}
            found = found.model_copy(update=calibration)
        result.append(found)
    return tuple(result)
