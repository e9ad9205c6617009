"""Bags: the part of the training data (rows, modalities, feature columns) that one member of an ensemble sees.

A bag is a small value. Its rows (`splitting.row_draws`) and columns are drawn again from its seeds wherever they are
needed, so they never have to be stored or sent.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import numpy as np
from annotated_types import Gt, Le
from pydantic import model_validator

from training_core.config import Config
from training_core.data.splitting.modality_masks import DropoutStrategy, modality_masks
from training_core.errors import ConfigError
from training_core.quantities import (
    NonNegativeInt,
    PositiveInt,
    SearchChoices,
    SearchOn,
    SearchRange,
    SearchWhen,
    Seed,
    UnitInterval,
)
from training_core.schema import DataSpec
from training_core.seeding import derive_seed, generator

Fraction = Annotated[float, Gt(0.0), Le(1.0)]
Sampling = Literal["bootstrap", "subsample", "folds"]

_SEVERAL = SearchOn(several_modalities=True)
_IF_LEFT_OUT = SearchWhen("modality_bags", True)
_FOLD = "-fold-"
_USUAL_FOLDS = 5  # a fifth of the rows is enough to judge a learner on, and four fifths train it nearly as well as all


class BagsConfig(Config):
    """How many bags there are and what each of them leaves out."""

    num_bags: Annotated[PositiveInt, SearchRange(4, 24)] = 12
    """Bags in all, those of every fold counted; never fewer than one full set and every single modality take, whatever
    is asked for."""
    modality_bags: Annotated[bool, SearchChoices(False, True), _SEVERAL] = True
    """Whether bags leave modalities out. Without it every bag has all of them, and nothing else changes."""
    strategy: Annotated[
        DropoutStrategy, SearchChoices("random", "linear", "exponential", "adaptive"), _SEVERAL, _IF_LEFT_OUT
    ] = "random"
    """How modalities are dropped from the bags that are drawn, after the subsets that are listed: at random rates, at
    rates growing linearly or exponentially over the bags, or linearly and more often those that tell most by themselves
    (adaptive: a first round of cheap learners measures that)."""
    max_dropout: Annotated[UnitInterval, SearchRange(0.1, 0.9), _SEVERAL, _IF_LEFT_OUT] = 0.5
    """The highest rate at which a drawn bag drops each modality."""
    sampling: Annotated[Sampling, SearchChoices("bootstrap", "subsample", "folds")] = "subsample"
    """Rows drawn with replacement (bootstrap), without (subsample), or all but one fold in turn (folds): every mask is
    then trained once per fold, and every training row is outside exactly one of its bags."""
    row_fraction: Annotated[Fraction, SearchRange(0.5, 0.95), SearchWhen("sampling", "bootstrap", "subsample")] = 0.8
    """Rows drawn, as a fraction of the training rows; folds do not look at it."""
    num_row_draws: Annotated[PositiveInt, SearchRange(2, 6)] = 2
    """How many different draws of rows the bags share. Learners of one draw leave out the same rows and are compared
    row by row there; more draws use more of the data, fewer compare more learners. From `num_bags` on: each its own.
    Of folds it is their number, 2 or more, and 5 unless it is set."""
    class_balanced: Annotated[
        bool, SearchChoices(False, True), SearchWhen("sampling", "bootstrap"), SearchOn(tasks=("classification",))
    ] = False
    """Bootstrap of a classification: as many draws of every class. Learners then find rare classes more often, and
    think them likelier than they are."""
    feature_fraction: Annotated[Fraction, SearchRange(0.5, 1.0), SearchOn(modality_kinds=("vector", "tabular"))] = 1.0
    """Columns of vectors and tables a bag keeps, as a fraction of theirs."""

    @model_validator(mode="before")
    @classmethod
    def _usual_number_of_folds(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("sampling") == "folds" and "num_row_draws" not in data:
            return {**data, "num_row_draws": _USUAL_FOLDS}
        return data

    @model_validator(mode="after")
    def _can_be_drawn(self) -> Self:
        if self.sampling == "subsample" and self.row_fraction == 1.0:
            raise ValueError(
                "a subsample with row_fraction 1 leaves no rows to judge learners on; lower it to 0.9 or less"
            )
        if self.sampling == "folds" and self.num_row_draws < 2:
            raise ValueError(f"one fold leaves no rows to train on; set num_row_draws to 2 or more ({_USUAL_FOLDS})")
        if self.class_balanced and self.sampling != "bootstrap":
            raise ValueError(
                f"class_balanced draws rows with replacement, and sampling is {self.sampling}; set it to bootstrap"
            )
        return self

    @property
    def share_in_bag(self) -> float:
        """Rows in a bag, repeats counted, as a fraction of the training rows."""
        return 1 - 1 / self.num_row_draws if self.sampling == "folds" else self.row_fraction


class Bag(Config):
    """One bag: which modalities it has, and the seeds and fractions its rows and columns are drawn by."""

    name: str
    modalities: tuple[str, ...]
    sampling: Sampling
    row_fraction: Fraction
    feature_fraction: Fraction
    seed: Seed
    """Of the columns. The bags of one mask in several folds share it, and nobody else."""
    row_seed: Seed
    """Bags with the same one (and the same fold) draw the same rows."""
    class_balanced: bool = False
    fold: NonNegativeInt = 0
    """Folds: the one that is left out."""
    num_folds: NonNegativeInt = 0
    """Folds there are; 0 when rows are not drawn by folds."""

    @model_validator(mode="after")
    def _has_its_fold(self) -> Self:
        if (self.sampling == "folds") != (self.num_folds >= 2) or self.fold >= max(self.num_folds, 1):
            raise ValueError(
                f"fold {self.fold} of {self.num_folds} does not go with sampling {self.sampling}; "
                "folds count from 0, and there are 2 or more"
            )
        return self

    @property
    def row_draw(self) -> tuple[int, int]:
        """What decides its rows within one ensemble: bags with the same one leave out the same rows."""
        return self.row_seed, self.fold

    def with_rows_of(self, row_draw: tuple[int, int], seed: int) -> "Bag":
        """The same mask with the rows of another bag's `row_draw`, and columns drawn by `seed`."""
        return self.model_copy(update={"row_seed": row_draw[0], "fold": row_draw[1], "seed": seed})


def make_bags(
    config: BagsConfig, spec: DataSpec, seed: int, utilities: Mapping[str, float] | None = None
) -> tuple[Bag, ...]:
    """The bags of an ensemble: the masks of `modality_masks`, each with its draw of rows.

    Bootstrap and subsample: the full set comes once per draw of rows. Bag i has draw i modulo `num_row_draws`, or the
    next one after it that bags of the same mask have had less often. Folds: there are `num_bags` // folds masks (or as
    many as are needed at least), and each has a bag for every fold, one after another; all masks share the folds.

    Args:
        config: how many, and what they leave out.
        spec: of the data set, only of modalities that may be used.
        seed: of every draw.
        utilities: adaptive: what each modality tells by itself; see `modality_masks`. Others pay no attention to it.

    Raises:
        ConfigError: `adaptive` lacks utilities, or `class_balanced` is asked of a task without classes.
    """
    if config.class_balanced and (spec.task.kind != "classification" or spec.task.unit != "sample"):
        raise ConfigError(
            f"bags.class_balanced needs one class per row, and this task is {spec.task.kind} per {spec.task.unit}; "
            "leave it out"
        )
    folds = range(config.num_row_draws if config.sampling == "folds" else 1)
    num_masks = max(1, config.num_bags // len(folds))
    if config.modality_bags:
        num_full = 1 if config.sampling == "folds" else config.num_row_draws
        masks = modality_masks(
            spec.names, num_masks, num_full, config.strategy, config.max_dropout, seed, utilities
        )  # fmt: skip
    else:
        masks = [spec.names] * num_masks
    draws = [0] * len(masks) if len(folds) > 1 else _share_out_draws(masks, config.num_row_draws)
    width = max(2, len(str(len(masks) - 1)))
    return tuple(
        Bag(
            name=f"bag-{index:0{width}d}" + (f"{_FOLD}{fold}" if len(folds) > 1 else ""),
            modalities=mask,
            sampling=config.sampling,
            row_fraction=config.row_fraction,
            feature_fraction=config.feature_fraction,
            seed=derive_seed(seed, "bag", index),
            row_seed=derive_seed(seed, "rows", draws[index]),
            class_balanced=config.class_balanced,
            fold=fold,
            num_folds=len(folds) if len(folds) > 1 else 0,
        )
        for index, mask in enumerate(masks)
        for fold in folds
    )


def _share_out_draws(masks: Sequence[tuple[str, ...]], num_draws: int) -> list[int]:
    """The draw of rows of every mask: in turns, so that masks that come again are given other rows."""
    had: Counter[tuple[tuple[str, ...], int]] = Counter()
    draws: list[int] = []
    for index, mask in enumerate(masks):
        in_turn = [(index + step) % num_draws for step in range(num_draws)]
        draws.append(min(in_turn, key=lambda draw, mask=mask: had[mask, draw]))
        had[mask, draws[-1]] += 1
    return draws


def single_modality_bags(bags: Sequence[Bag]) -> tuple[Bag, ...]:
    """Of `bags` the first ones of each single modality, in all folds: they are there whatever else is drawn.

    Their names, rows and columns do not depend on utilities, so they can be trained to measure those.
    """
    first: dict[tuple[str, ...], int] = {}
    for bag in bags:
        if len(bag.modalities) == 1:
            first.setdefault(bag.modalities, bag.seed)
    return tuple(bag for bag in bags if first.get(bag.modalities) == bag.seed)


def without_fold(name: str) -> str:
    """The name of a bag, or of a learner on it, without the fold: equal for those of one mask in all folds.

    `bag-03-fold-1/linear#2` -> `bag-03/linear#2`; a name that has no fold stays what it is.
    """
    bag, slash, learner = name.partition("/")
    return bag.partition(_FOLD)[0] + slash + learner


def bag_features(bag: Bag, spec: DataSpec) -> dict[str, tuple[int, ...]]:
    """The columns a bag keeps of each of its vector and tabular modalities; empty when it keeps all.

    Positions are in the dataset's spec, sorted; each modality keeps round(`feature_fraction` · columns), at least 1.
    """
    if bag.feature_fraction == 1.0:
        return {}
    kept: dict[str, tuple[int, ...]] = {}
    for name in bag.modalities:
        modality = spec[name]
        if modality.kind not in {"vector", "tabular"}:
            continue
        num_columns = modality.num_features
        num_kept = max(1, round(bag.feature_fraction * num_columns))
        chosen = generator(bag.seed, "features", name).choice(num_columns, num_kept, replace=False)
        kept[name] = tuple(int(i) for i in np.sort(chosen))
    return kept
