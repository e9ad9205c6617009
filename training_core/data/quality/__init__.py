"""How good the data are: a profile of one streaming pass, checks on it, and a report with advice."""

from training_core.data.quality.evidence import Known
from training_core.data.quality.page import to_markdown, write_html
from training_core.data.quality.problems import Finding, RowProblem
from training_core.data.quality.profile import Profile
from training_core.data.quality.report import QualityReport, check_quality
from training_core.data.quality.summary import ProfileSummary

__all__ = [
    "Finding",
    "Known",
    "Profile",
    "ProfileSummary",
    "QualityReport",
    "RowProblem",
    "check_quality",
    "to_markdown",
    "write_html",
]
