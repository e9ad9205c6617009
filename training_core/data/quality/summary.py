"""What a profile remembers of the data: numbers small enough to keep with every version, and to compare versions by."""

from typing import Annotated, Literal

from pydantic import Field

from training_core.config import Config
from training_core.schema import ModalityKind

QUANTILES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
"""The quantiles that are kept of every numeric column."""


class Bins(Config):
    """Counts of a sample's values: per distinct value when there are few, else in bins of equal width."""

    values: tuple[float, ...] = ()
    """The distinct values, ascending; empty when there are too many."""
    edges: tuple[float, ...] = ()
    """Bin edges, ascending, one more than counts; what lies outside is counted in the first and last bin."""
    counts: tuple[int, ...] = ()


class NumericSummary(Config):
    """A column of numbers."""

    kind: Literal["numeric"] = "numeric"
    name: str
    dtype: str
    """As stored: int64 or another integer, double or bool."""
    missing: int
    count: int
    distinct: int
    """Different values, exact up to some thousands."""
    zeros: int
    min: float | None = None
    max: float | None = None
    mean: float | None = None
    std: float | None = None
    """Population standard deviation."""
    quantiles: tuple[float, ...] = ()
    """Of the sample, at `QUANTILES`; the first and last are the true extremes. Empty without a number."""
    bins: Bins = Bins()
    increasing: bool = False
    """Whether every value is greater than the one before it, in the order of the rows."""


class CategorySummary(Config):
    """A column of categories."""

    kind: Literal["category"] = "category"
    name: str
    dtype: str = "string"
    missing: int
    count: int
    distinct: int
    top: tuple[tuple[str, int], ...] = ()
    """The most frequent categories with their counts."""
    complete: bool = True
    """Whether `top` lists every category."""


class TextSummary(Config):
    """A column of texts; `languages` and `scripts` come from a sample of it."""

    kind: Literal["text"] = "text"
    name: str
    dtype: str = "string"
    missing: int
    count: int
    """Texts that are not missing, blank ones among them."""
    blank: int
    """Texts of white space alone."""
    distinct: int
    characters: tuple[float, ...] = ()
    """Length in characters at `QUANTILES`, of the sample but for the true extremes."""
    words: tuple[float, ...] = ()
    """Length in words at `QUANTILES`, likewise."""
    mean_words: float = 0.0
    bins: Bins = Bins()
    """Of the length in words."""
    languages: tuple[tuple[str, int], ...] = ()
    """Texts of the sample per language told by its script or its commonest words; "unclear" for the rest."""
    non_latin: float = 0.0
    """Share of letters of the sample that are not Latin."""


ColumnSummary = Annotated[NumericSummary | CategorySummary | TextSummary, Field(discriminator="kind")]


class ArraySummary(Config):
    """An image, vector or sequence modality; rows that are not available are left out."""

    dtype: str
    min: float | None = None
    max: float | None = None
    mean: float | None = None
    std: float | None = None
    non_finite: int = 0
    """Numbers that are NaN or infinite in rows that are available."""
    constant_rows: int = 0
    """Rows all of whose numbers are equal: blank images."""
    zero_rows: int = 0
    dead_features: int | None = None
    """Features with one value in all rows; None when there are too many features to tell."""
    row_means: Bins = Bins()
    """Of the sample's row means."""
    feature_mean: tuple[float, ...] = ()
    """Per feature, in row-major order; empty when there are many features."""
    feature_std: tuple[float, ...] = ()
    feature_min: tuple[float, ...] = ()
    feature_max: tuple[float, ...] = ()


class ModalitySummary(Config):
    """One modality."""

    name: str
    kind: ModalityKind
    shape: tuple[int, ...]
    available: int
    """Rows that have it."""
    repeated: int
    """Rows that have it with content that an earlier row has, too."""
    columns: tuple[ColumnSummary, ...] = ()
    array: ArraySummary | None = None


class ProfileSummary(Config):
    """Statistics of the rows of a data set, all splits and rows set aside together."""

    num_rows: int
    sampled_rows: int
    """Rows in the sample that quantiles, bins and the checks of single features rest on."""
    modalities: tuple[ModalitySummary, ...]
