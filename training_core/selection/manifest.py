"""What an ensemble is made of, as the value that is stored beside its learners in `ensemble.json`."""

from collections.abc import Iterable, Mapping, Sequence

from training_core.config import Config
from training_core.schema import DataSpec, Pattern, TaskSpec, pattern_key
from training_core.selection.combination import PatternWeights
from training_core.selection.conformal import ConformalRule

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
    temperatures: Mapping[str, float] = {}
    """What its answers are calibrated with before they are mixed, per set of modalities it is left with
    (`schema.pattern_key`); 1 where none is given."""

    def temperature(self, pattern: Pattern) -> float:
        """Its temperature when only the modalities in `pattern` are there."""
        return self.temperatures.get(pattern_key(pattern, self.modalities), 1.0)


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
    prior_conformal: ConformalRule | None = None
    """What `prior` promises as an answer."""
    worth: Mapping[str, float] = {}
    """Loss that each modality saves out of bag, in nats or shares of the target's variance; see
    `worth.modality_worth`."""
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
            taken = ("temperature", "temperature_slope", "explained", "error_std")
            calibration = {name: getattr(source, name) for name in taken}
            found = found.model_copy(update=calibration)
        result.append(found)
    return tuple(result)
