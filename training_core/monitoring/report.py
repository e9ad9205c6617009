"""What a comparison found: a verdict for each thing that was compared, and one for the window."""

from collections.abc import Iterable
from typing import Literal

from training_core.config import Config
from training_core.monitoring.config import DriftConfig, ReferenceKind
from training_core.quantities import NonNegativeFloat, NonNegativeInt

Verdict = Literal["ok", "warning", "drift", "insufficient_data"]
CheckKind = Literal["number", "category", "share", "array", "performance"]
SEVERITY: dict[Verdict, int] = {"insufficient_data": -1, "ok": 0, "warning": 1, "drift": 2}
"""Verdicts in order."""


class Check(Config):
    """One thing in the reference and in the window. Statistics that its kind does not have are None."""

    name: str
    """What it is about and of what: `input/facts.size`, `missing/photo`, `prediction/confidence`."""
    kind: CheckKind
    verdict: Verdict
    strength: NonNegativeFloat = 0.0
    """The largest effect over its threshold of warning: from 1 on it is large enough to warn of."""
    usual: NonNegativeFloat | None = None
    """The strength that windows of the reference show among themselves; only more than that is a warning."""
    p_value: float | None = None
    """How often chance alone makes a difference like this: G-test, Fisher's test, kernel test, Welch's test."""
    q_value: float | None = None
    """The p-value adjusted for the number of checks of the window."""
    reference_rows: NonNegativeInt
    window_rows: NonNegativeInt
    reference_value: float | None = None
    """Mean of a number, share of rows, or score."""
    window_value: float | None = None
    js_divergence: float | None = None
    """Jensen-Shannon divergence, base 2, corrected for its bias."""
    psi: float | None = None
    """Population stability index."""
    ks: float | None = None
    """Kolmogorov-Smirnov statistic."""
    ks_p_value: float | None = None
    wasserstein: float | None = None
    """Wasserstein distance in standard deviations of the reference; None for a reference that does not vary."""
    chi_squared_p_value: float | None = None
    shift: float | None = None
    """How far the kernel mean of an array moved, in standard deviations."""
    change: float | None = None
    """Of a share: by how much it rose. Of a performance: how much worse it is, as a share of the reference's."""
    labels: tuple[str, ...] = ()
    """Of a category: the most frequent ones on either side."""
    reference_shape: tuple[float, ...] = ()
    """To draw it: quantiles of a number at (i + ½) / 20, or shares of the labels."""
    window_shape: tuple[float, ...] = ()


class DriftReport(Config):
    """A window compared with a reference."""

    name: str
    """Of the profile."""
    window: str = ""
    """Of the window: a date, a file."""
    verdict: Verdict
    """The worst of the checks; "insufficient_data" when the window or the reference is too small to say anything."""
    reference: ReferenceKind
    reference_rows: NonNegativeInt
    window_rows: NonNegativeInt
    checks: tuple[Check, ...]
    """The most serious first."""
    num_tests: NonNegativeInt
    """p-values that were adjusted together."""
    expected_score: float | None = None
    """Classification: the accuracy that the confidence promises for the window, corrected by how far the promise was
    from the truth in the reference. Needs no labels, and does not see that the answers themselves changed."""
    config: DriftConfig

    def of(self, *verdicts: Verdict) -> tuple[Check, ...]:
        """Checks with one of `verdicts`, the most serious first."""
        return tuple(check for check in self.checks if check.verdict in verdicts)

    def check(self, name: str) -> Check:
        """The check called `name`.

        Raises:
            KeyError: there is none.
        """
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(f"no check '{name}' in this report")

    @property
    def drifted(self) -> tuple[str, ...]:
        """Names of what warns or drifted, the most serious first."""
        return tuple(check.name for check in self.of("drift", "warning"))

    @property
    def score(self) -> float:
        """The largest strength among what warns or drifted, 0 when nothing does: what an alarm says."""
        return max((check.strength for check in self.of("drift", "warning")), default=0.0)


def worst(verdicts: Iterable[Verdict], none: Verdict = "insufficient_data") -> Verdict:
    """The most serious of `verdicts`, `none` when there are none; too little data only when there is nothing else."""
    seen = list(verdicts)
    return max(seen, key=SEVERITY.__getitem__) if seen else none
