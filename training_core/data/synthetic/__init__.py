"""Made-up data sets whose truth is known: what is told where, wrong, missing or drifting, and the best score."""

from training_core.data.synthetic.config import DriftConfig, SyntheticConfig, SyntheticModality
from training_core.data.synthetic.world import SyntheticWorld, make_synthetic

__all__ = ["DriftConfig", "SyntheticConfig", "SyntheticModality", "SyntheticWorld", "make_synthetic"]
