"""What nets are trained towards: an objective takes a model and a batch and gives a loss with named terms."""

from training_core.objectives.losses import activate
from training_core.objectives.supervised import Loss, Objective, Supervised, WeightedSum

__all__ = ["Loss", "Objective", "Supervised", "WeightedSum", "activate"]
