"""Polychoir's library: multimodal ensembles, usable in a notebook without any orchestrator.

>>> import training_core as pc
>>> ensemble = pc.fit_ensemble("shoes", store=".polychoir", preset="quick")
>>> ensemble.predict(pc.open_dataset("shoes").samples()).confidence
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training_core.campaigns.library import fit_ensemble, open_dataset
    from training_core.data.ingestion.in_memory import create_dataset_from_arrays, create_dataset_from_huggingface
    from training_core.selection.ensemble import Ensemble

__all__ = [
    "Ensemble",
    "create_dataset_from_arrays",
    "create_dataset_from_huggingface",
    "fit_ensemble",
    "open_dataset",
]

_PLACES = {
    "Ensemble": "training_core.selection.ensemble",
    "create_dataset_from_arrays": "training_core.data.ingestion.in_memory",
    "create_dataset_from_huggingface": "training_core.data.ingestion.in_memory",
    "fit_ensemble": "training_core.campaigns.library",
    "open_dataset": "training_core.campaigns.library",
}


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: importing the package itself costs nothing."""
    if name not in _PLACES:
        raise AttributeError(f"module 'training_core' has no attribute {name!r}; it offers {', '.join(__all__)}")
    from importlib import import_module

    return getattr(import_module(_PLACES[name]), name)
