"""`EvaluationConfig`: which model is judged on which rows, and how thoroughly."""

from pathlib import Path
from typing import Literal

from training_core.config import Config
from training_core.evaluation.conflict import ConflictConfig
from training_core.evaluation.robustness import RATES
from training_core.quantities import OpenUnit, PositiveInt, Rate, Seed
from training_core.tracking import TrackerKind


class EvaluationConfig(Config):
    """One evaluation."""

    model: str
    """`models:/NAME/VERSION`, a registered name (its newest version) or an ensemble's folder."""
    dataset: str
    """`name@version`, `name` for its latest version, or the path of a SOURCE.yaml to prepare first."""
    against: tuple[str, ...] = ()
    """Other models to compare it with on the same rows, named like `model`."""
    rows: Literal["test", "unseen"] = "test"
    """Which rows judge: the test split, or every row the model was not trained on. Rows that it was trained on never
    do, whatever the split says."""
    rates: tuple[Rate, ...] = RATES
    """Missing rates of the robustness curves; 0 is always among them."""
    repeats: PositiveInt = 5
    """Draws of what is missing, per rate."""
    oracle: bool = False
    """Also retrain, for every pattern, an ensemble on just the modalities it leaves: as many runs as patterns."""
    conflict: ConflictConfig = ConflictConfig()
    """How much is spoilt in the test of contradicting modalities."""
    num_resamples: PositiveInt = 1000
    """Bootstrap draws behind each interval."""
    level: OpenUnit = 0.95
    """Of every interval."""
    seed: Seed = 0
    """Root of the draws."""
    trackers: tuple[TrackerKind, ...] = ("mlflow",)
    """Where the evaluation is recorded. Empty: nowhere."""

    @property
    def title(self) -> str:
        """What a person calls it."""
        return (
            f"{Path(self.model).name if '/' in self.model and ':' not in self.model else self.model} on {self.dataset}"
        )
