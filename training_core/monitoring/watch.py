"""From windows to alarms: a drift is believed once it has shown in several successive windows."""

from collections.abc import Mapping

from training_core.config import Config
from training_core.monitoring.report import SEVERITY, DriftReport, Verdict, worst
from training_core.quantities import NonNegativeInt, PositiveInt


class DriftWatch(Config):
    """How often in a row each check has warned; kept as JSON between windows (`to_json`, `model_validate_json`)."""

    streaks: Mapping[str, tuple[NonNegativeInt, NonNegativeInt]] = {}
    """By check: successive windows with at least a warning, and with drift; checks without are left out."""
    min_consecutive: PositiveInt = 2
    """Windows it takes; that of the last report's settings."""
    last: str = ""
    """Label of the last window that counted."""
    num_windows: NonNegativeInt = 0
    """Windows that counted."""

    def seen(self, report: DriftReport) -> "DriftWatch":
        """The watch after a window.

        A check that could not be judged neither counts nor ends a streak, so a window with too few rows changes
        nothing. A window that was seen last (by its label) does not count again: monitoring may be retried.
        """
        if report.verdict == "insufficient_data" or (report.window and report.window == self.last):
            return self
        streaks = dict(self.streaks)
        for check in report.checks:
            if check.verdict == "insufficient_data":
                continue
            warned, drifted = streaks.pop(check.name, (0, 0))
            if check.verdict != "ok":
                streaks[check.name] = warned + 1, drifted + 1 if check.verdict == "drift" else 0
        return DriftWatch(
            streaks=streaks,
            min_consecutive=report.config.min_consecutive,
            last=report.window,
            num_windows=self.num_windows + 1,
        )

    @property
    def confirmed(self) -> dict[str, Verdict]:
        """Checks whose streak is long enough, drift before warnings, the longest first."""
        found: dict[str, Verdict] = {}
        for name, (warned, drifted) in self.streaks.items():
            if warned >= self.min_consecutive:
                found[name] = "drift" if drifted >= self.min_consecutive else "warning"
        return dict(sorted(found.items(), key=lambda item: (-SEVERITY[item[1]], -self.streaks[item[0]][0], item[0])))

    @property
    def verdict(self) -> Verdict:
        """The worst that is confirmed; "insufficient_data" before any window counted."""
        if not self.num_windows:
            return "insufficient_data"
        return worst(self.confirmed.values(), none="ok")
