"""What every learner's configuration offers: which data it takes, what it costs, and how it is built."""

from typing import TYPE_CHECKING, ClassVar, Literal

from training_core.config import Config
from training_core.errors import ConfigError
from training_core.schema import DataSpec, ModalityKind, ModalitySpec
from training_core.variants import kind_of

if TYPE_CHECKING:
    from torch import nn

    from training_core.learners.estimator import Estimator

TOKENS_PER_TEXT = 64
"""Words (or token ids that are not padding) taken for one text where its length is not known yet."""


class LearnerBase(Config):
    """One kind of learner. The configuration is the factory; the class variables are facts about the kind."""

    family: ClassVar[Literal["net", "estimator"]]
    """Whether it is trained by gradients in epochs (`net`) or fits in one step (`estimator`)."""
    modality_kinds: ClassVar[frozenset[ModalityKind]]
    """Kinds of modality it takes."""
    max_modalities: ClassVar[int | None] = None
    """How many modalities it takes at once; None for any number."""
    text_input: ClassVar[Literal["strings", "tokens"]] = "strings"
    """How text must be encoded for it."""
    meets_missing: ClassVar[bool] = False
    """Whether it is trained with modalities dropped at random, so that it may vote when some are absent."""
    own_in_stack: ClassVar[frozenset[str]] = frozenset({"dropout"})
    """Fields whose value each net of a stack may have its own of: rates of its `nn.Dropout`, which are no structure."""
    has_latents: ClassVar[bool] = False
    """Whether its net has a latent for each modality, which denoising works on."""
    same_rows_same_learner: ClassVar[bool] = False
    """Whether its seed hardly matters: trained twice on the same rows and columns it says twice the same."""
    method: ClassVar[str | None] = None
    """What it does, in the plural, where several kinds do the same and so make like mistakes; None: its own thing."""
    distribution: ClassVar[str | None] = None
    """The distribution that trains it, where that is none of those every learner needs: its version decides too."""
    quality_prior: ClassVar[float]
    """How accurate this kind tends to be, 0..1, before anything was measured on the data at hand."""

    def supports(self, spec: DataSpec) -> str | None:
        """None when it can learn `spec` (as given or encoded), else why it cannot, in plain words."""
        if not spec.modalities:
            return "there is no modality to learn from"
        for modality in spec.modalities:
            if modality.kind not in self.modality_kinds:
                takes = ", ".join(sorted(self.modality_kinds))
                return f"'{modality.name}' is of kind {modality.kind}; this learner takes {takes}"
        if self.max_modalities is not None and len(spec.modalities) > self.max_modalities:
            return f"it takes at most {self.max_modalities} modality, not {len(spec.modalities)}"
        return None

    def require(self, spec: DataSpec) -> None:
        """Check `supports`.

        Raises:
            ConfigError: the learner cannot learn `spec`; the message says why.
        """
        if reason := self.supports(spec):
            raise ConfigError(
                f"learner '{kind_of(type(self))}' cannot learn {', '.join(spec.names) or 'nothing'}: {reason}"
            )

    def build(self, spec: DataSpec, seed: int) -> "nn.Module | Estimator":
        """A fresh learner for the *encoded* `spec`; the same seed gives the same one.

        Raises:
            ConfigError: the learner cannot take this spec.
        """
        raise NotImplementedError

    def estimate_cost(self, spec: DataSpec, num_rows: int, epochs: int) -> tuple[float, float]:
        """(work in multiply-adds, peak memory in bytes) of training on `num_rows` rows of `spec`.

        A count to rank learners by, not a prediction: what a unit of work takes differs between kinds and is
        measured elsewhere. `spec` may be as given or encoded; estimators ignore `epochs`.
        """
        raise NotImplementedError


def input_width(modality: ModalitySpec) -> int:
    """Numbers a learner sees of one sample, categories one-hot; 0 for text, whose width is each learner's own.

    Works on a spec as given, where a category has a column each and one for unknown, and on an encoded one.
    """
    if modality.kind == "text":
        return 0
    if modality.kind == "tabular" and modality.cardinalities:
        return modality.num_numeric + sum(modality.cardinalities)
    known = [len(column.categories) for column in modality.columns if column.categories is not None]
    return modality.num_features + sum(known)


def spec_width(spec: DataSpec) -> int:
    """`input_width` summed over the modalities."""
    return sum(input_width(modality) for modality in spec.modalities)


def num_texts(spec: DataSpec) -> int:
    """How many modalities are text."""
    return sum(modality.kind == "text" for modality in spec.modalities)
