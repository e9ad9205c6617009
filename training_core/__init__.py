"""Polychoir's library: multimodal ensembles, usable in a notebook without any orchestrator.

>>> import training_core as pc
>>> ensemble = pc.fit_ensemble({"photo": photos, "facts": table}, target=y, budget=60)
>>> ensemble.predict({"facts": table}).labels  # the photos are missing
>>> ensemble.leaderboard()
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training_core.campaigns.callbacks import Callback, PrintProgress
    from training_core.campaigns.estimator import PolychoirClassifier, PolychoirRegressor
    from training_core.campaigns.fitted import FittedEnsemble
    from training_core.campaigns.library import fit_ensemble, load_ensemble, open_dataset
    from training_core.campaigns.tuning.library import tune
    from training_core.data.ingestion.in_memory import create_dataset_from_arrays, create_dataset_from_huggingface
    from training_core.selection.ensemble import Ensemble

__all__ = [
    "Callback",
    "Ensemble",
    "FittedEnsemble",
    "PolychoirClassifier",
    "PolychoirRegressor",
    "PrintProgress",
    "create_dataset_from_arrays",
    "create_dataset_from_huggingface",
    "fit_ensemble",
    "load_ensemble",
    "open_dataset",
    "tune",
]

_PLACES = {
    "Callback": "training_core.campaigns.callbacks",
    "FittedEnsemble": "training_core.campaigns.fitted",
    "PolychoirClassifier": "training_core.campaigns.estimator",
    "PolychoirRegressor": "training_core.campaigns.estimator",
    "PrintProgress": "training_core.campaigns.callbacks",
    "load_ensemble": "training_core.campaigns.library",
    "Ensemble": "training_core.selection.ensemble",
    "create_dataset_from_arrays": "training_core.data.ingestion.in_memory",
    "create_dataset_from_huggingface": "training_core.data.ingestion.in_memory",
    "fit_ensemble": "training_core.campaigns.library",
    "open_dataset": "training_core.campaigns.library",
    "tune": "training_core.campaigns.tuning.library",
}


_LOADED: dict[str, tuple[float, float]] = {}
"""When the loading of a name last began and ended, in seconds since the epoch: a budget of time counts it."""


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: importing the package itself costs nothing."""
    if name not in _PLACES:
        raise AttributeError(f"module 'training_core' has no attribute {name!r}; it offers {', '.join(__all__)}")
    import time
    from importlib import import_module

    began = time.time()
    found = getattr(import_module(_PLACES[name]), name)
    _LOADED[name] = (began, time.time())
    return found
