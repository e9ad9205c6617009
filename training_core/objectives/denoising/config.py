"""Settings of cross-modal denoising: which objectives, how strong, and when."""

from collections.abc import Iterable
from typing import Annotated, Literal, Self, get_args

from pydantic import model_validator

from training_core.config import Config
from training_core.quantities import (
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Rate,
    SearchChoices,
    SearchOn,
    SearchRange,
    SearchWhen,
)

ObjectiveKind = Literal["reconstruction", "alignment", "consistency", "information", "prediction"]
OBJECTIVES: tuple[ObjectiveKind, ...] = get_args(ObjectiveKind)
Strategy = Literal["fixed", "adaptive", "curriculum"]
ViewKind = Literal["shown", "rest", "full"]
VIEWS: tuple[ViewKind, ...] = get_args(ViewKind)
"""What a net sees of a sample: what modality dropout leaves of it, what that hides, all of it."""

_IF_ENABLED = SearchWhen("enabled", True)
_IF_ALIGNED = SearchWhen("objectives", "alignment")


class DenoisingStage(Config):
    """A stretch of training with objectives and a weight of its own."""

    epochs: PositiveInt
    """Epochs it lasts; after the last stage training goes on as in that stage."""
    objectives: tuple[ObjectiveKind, ...] = ()
    """The objectives that count in it, out of those of the run; empty: all of them."""
    weight: NonNegativeFloat | None = None
    """What each of them counts beside the target; by default as much as in the run."""


class DenoisingConfig(Config):
    """Nets learn their target from parts of a sample, and what its modalities tell of one another.

    It concerns nets that have a latent per modality, on two modalities or more; others train as if it were off.
    """

    enabled: Annotated[bool, SearchChoices(False, True), SearchOn(several_modalities=True)] = False
    """Whether any of this happens."""
    views: Annotated[
        tuple[ViewKind, ...], SearchChoices(("shown",), ("shown", "rest"), ("shown", "rest", "full")), _IF_ENABLED
    ] = ("shown", "rest", "full")
    """What the target is learned from in every step, each counting alike: shown, what is left of a sample after
    modalities were hidden; rest, those that were; full, all of them."""
    modality_dropout: Annotated[Rate, SearchRange(0.3, 0.9), _IF_ENABLED] = 0.9
    """The highest rate at which modalities are hidden, drawn for each sample and epoch, evenly from 0 up; it stands in
    for that of the training."""
    weight: Annotated[NonNegativeFloat, SearchRange(0.01, 1.0, log=True), _IF_ENABLED] = 0.1
    """What an objective counts beside the loss of the target, which counts 1; consistency, whose numbers are small,
    counts ten times that."""
    strategy: Annotated[Strategy, SearchChoices("fixed", "adaptive", "curriculum"), _IF_ENABLED] = "fixed"
    """fixed: always the weight. adaptive: after every epoch the objectives are weighed so that none outshouts the
    others. curriculum: as the stages say."""
    objectives: Annotated[
        tuple[ObjectiveKind, ...],
        SearchChoices(
            ("consistency",), ("prediction",), ("alignment",), ("reconstruction",), ("consistency", "prediction")
        ),
        _IF_ENABLED,
    ] = ("consistency",)
    """What is learned: reconstruction of a modality's values from the others, alignment of a sample's modalities in one
    space, consistency of answers with and without some modalities, information kept short and without repetition,
    prediction of a modality's latent from the others."""
    modalities: tuple[str, ...] = ()
    """The modalities it is about; empty: all."""
    temperature: Annotated[PositiveFloat, SearchRange(0.03, 0.5, log=True), _IF_ENABLED, _IF_ALIGNED] = 0.1
    """Alignment: how sharply a sample is told from others; lower is sharper."""
    learn_temperature: Annotated[bool, SearchChoices(False, True), _IF_ENABLED, _IF_ALIGNED] = False
    """Alignment: let training change the temperature."""
    hardness: Annotated[NonNegativeFloat, SearchRange(0.0, 1.0), _IF_ENABLED, _IF_ALIGNED] = 0.0
    """Alignment: how much more those other samples count that are hard to tell apart; 0: all count alike."""
    stages: tuple[DenoisingStage, ...] = ()
    """Curriculum: one stretch after the other. Empty: five epochs at a tenth of the weight, five at half of it, then
    all of it."""

    def on(self, modalities: Iterable[str]) -> "DenoisingConfig":
        """What holds for a learner on these modalities: this, or nothing where it is about fewer than two of them.

        So that whoever trains learners on one modality anew finds what was trained with other settings of denoising.
        """
        about = [name for name in modalities if not self.modalities or name in self.modalities]
        return self if self.enabled and len(about) > 1 else DenoisingConfig()

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.enabled and not self.objectives:
            raise ValueError(f"`objectives` is empty; name some of {', '.join(OBJECTIVES)}, or set `enabled` to false")
        if not self.views or len(set(self.views)) < len(self.views):
            raise ValueError(f"`views` are {list(self.views)}; name one or several of {', '.join(VIEWS)}, each once")
        if len(set(self.objectives)) < len(self.objectives):
            raise ValueError(f"`objectives` names one twice: {', '.join(self.objectives)}")
        if self.stages and self.strategy != "curriculum":
            raise ValueError(f"`stages` go with strategy curriculum; the strategy is {self.strategy}")
        for number, stage in enumerate(self.stages, start=1):
            if unknown := [name for name in stage.objectives if name not in self.objectives]:
                known = ", ".join(self.objectives)
                raise ValueError(f"stage {number} names '{unknown[0]}', which is not among `objectives` ({known})")
        return self
