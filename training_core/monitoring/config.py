"""Settings of monitoring: what counts as drift, and how much of the reference is looked at."""

from typing import Literal, Self

from pydantic import model_validator

from training_core.config import Config
from training_core.quantities import NonNegativeFloat, OpenUnit, PositiveInt, Seed, UnitInterval

ReferenceKind = Literal["training", "rolling", "seasonal"]


class ProfileConfig(Config):
    """How a reference profile is made. What is in it decides how every later window is measured."""

    max_rows: PositiveInt = 20_000
    """Rows of the reference that are looked at, drawn without replacement: which knows a share to within .4 %."""
    num_bins: PositiveInt = 10
    """Bins of a numeric feature, of equally many reference rows each; values that many rows share have their own."""
    max_vector_features: PositiveInt = 64
    """Vectors of at most so many features are watched feature by feature as well, wider ones only as a whole."""
    num_projections: PositiveInt = 32
    """Numbers to which an array or a text is projected before its distribution is compared as a whole."""
    num_frequencies: PositiveInt = 256
    """Random Fourier frequencies of that comparison."""
    seed: Seed = 0
    """Root of what is drawn: rows, frequencies, and which element goes to which projection."""


class DriftConfig(Config):
    """From where on a difference is drift. It must be large *and* more than chance would make."""

    warning: UnitInterval = 0.1
    """Jensen-Shannon divergence (base 2, corrected for its bias) of a feature that is a warning."""
    drift: UnitInterval = 0.2
    """Jensen-Shannon divergence that is drift; a shift of a Gaussian by 1.1 standard deviations."""
    shift_warning: NonNegativeFloat = 0.3
    """Wasserstein distance of a numeric feature, in standard deviations of the reference, that is a warning."""
    shift_drift: NonNegativeFloat = 0.6
    """Wasserstein distance that is drift."""
    array_warning: NonNegativeFloat = 0.15
    """How far the kernel mean of an array moved, in standard deviations (`arrays.kernel_shift`), that is a warning."""
    array_drift: NonNegativeFloat = 0.3
    """How far it moved that is drift."""
    share_warning: UnitInterval = 0.05
    """Change of a share of rows (cells that are missing, rows that lack a modality) that is a warning."""
    share_drift: UnitInterval = 0.15
    """Change of a share that is drift."""
    degradation_warning: UnitInterval = 0.05
    """Loss of headline score, as a share of the reference's, that is a warning; for regression, gain of the error."""
    degradation_drift: UnitInterval = 0.1
    """Loss of headline score that is drift."""
    significance: OpenUnit = 0.01
    """Share of the alarms raised over all features of a window that may be false (Benjamini and Hochberg)."""
    min_rows: PositiveInt = 50
    """Fewer rows than these, on either side, give no verdict."""
    min_consecutive: PositiveInt = 2
    """Successive windows that must show it before a warning or drift is confirmed."""
    reference: ReferenceKind = "training"
    """What a window is compared with: the profile itself, the windows before it, or earlier ones of its season."""
    num_windows: PositiveInt = 8
    """Windows of a rolling reference, the latest; of a seasonal one, the latest of the season."""
    ignore: tuple[str, ...] = ()
    """Checks by name (`input/facts.date`) that are measured and shown but raise nothing."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        for name in ("warning", "shift_warning", "array_warning", "share_warning", "degradation_warning"):
            drift = name.replace("warning", "drift")
            low, high = getattr(self, name), getattr(self, drift)
            if not 0 < low <= high:
                raise ValueError(f"{name} is {low:g} and {drift} is {high:g}; they must lie above 0, in this order")
        return self
