"""Watching a model's world: a profile of its reference, windows compared with it, and what is made of the findings."""

from training_core.monitoring.compare import compare
from training_core.monitoring.config import DriftConfig, ProfileConfig
from training_core.monitoring.page import write_html
from training_core.monitoring.profile import ReferenceProfile, make_profile
from training_core.monitoring.references import Window, calibrate, reference_for
from training_core.monitoring.report import Check, DriftReport, Verdict
from training_core.monitoring.tally import Tally, pool
from training_core.monitoring.watch import DriftWatch

__all__ = [
    "Check",
    "DriftConfig",
    "DriftReport",
    "DriftWatch",
    "ProfileConfig",
    "ReferenceProfile",
    "Tally",
    "Verdict",
    "Window",
    "calibrate",
    "compare",
    "make_profile",
    "pool",
    "reference_for",
    "write_html",
]
