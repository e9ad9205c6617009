"""Run by MLflow where a logged ensemble is loaded: this script, not a pickle, is the model.

It is no module to import: running it hands MLflow the model.
"""

from pathlib import Path

from training_core.export.served_ensemble import ServedEnsemble
from training_core.selection.ensemble import Ensemble
from training_core.tracking.mlflow import serve


def load(folder: Path) -> ServedEnsemble:
    """The ensemble in `folder`, its learners already read: what is broken shows now and not at the first request."""
    ensemble = Ensemble.load(folder)
    for name in ensemble.kept:
        ensemble.learner(name)
    return ServedEnsemble(ensemble)


serve(load)
