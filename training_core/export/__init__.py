"""Ensembles made ready for use elsewhere."""

from training_core.export.served_ensemble import (
    ServedEnsemble,
    package_ensemble,
    pinned_requirements,
    prediction_columns,
    predictions_frame,
)

__all__ = [
    "ServedEnsemble",
    "package_ensemble",
    "pinned_requirements",
    "prediction_columns",
    "predictions_frame",
]
