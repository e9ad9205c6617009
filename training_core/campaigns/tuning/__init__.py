"""Tuning: a study asks for trials, a trial is a run with some values changed, and its jobs are jobs like any other.

The names are imported when they are first asked for: the settings are part of every run, the studies are not.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training_core.campaigns.tuning.config import TuningConfig
    from training_core.campaigns.tuning.library import tune
    from training_core.campaigns.tuning.study import Study
    from training_core.campaigns.tuning.summary import StudySummary

__all__ = ["Study", "StudySummary", "TuningConfig", "tune"]

_PLACES = {"Study": "study", "StudySummary": "summary", "TuningConfig": "config", "tune": "library"}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module '{__name__}' has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
