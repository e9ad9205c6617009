"""Keeps a store from growing without end: removes what is old and what nothing refers to any more."""

from training_core.campaigns.maintenance.retention import RetentionConfig, Tidied, TidyReport
from training_core.campaigns.maintenance.tidying import tidy

__all__ = ["RetentionConfig", "Tidied", "TidyReport", "tidy"]
