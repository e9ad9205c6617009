"""The bags of one run: of which modalities and rows of its data set, and what its plan has to know about them."""

import math
from collections.abc import Mapping, Sequence

from training_core.campaigns.run_config import RunConfig
from training_core.data.splitting.bags import Bag, make_bags, single_modality_bags
from training_core.data.splitting.row_draws import draw_rows
from training_core.data.storage.store import Dataset
from training_core.errors import ConfigError
from training_core.schema import DataSpec
from training_core.seeding import derive_seed
from training_core.selection.choice import Choice


def run_spec(run: RunConfig, dataset: Dataset) -> DataSpec:
    """What a run makes of a data set: the modalities it names, in the order of the data set; all when it names none.

    Raises:
        DataError: there is no such modality; the known ones are listed.
    """
    return dataset.spec.select(run.modalities) if run.modalities else dataset.spec


def cut_bags(run: RunConfig, dataset: Dataset, utilities: Mapping[str, float] | None = None) -> tuple[Bag, ...]:
    """The bags of a run; see `data.splitting.bags.make_bags`.

    Raises:
        ConfigError: the bags are adaptive and no `utilities` are given, or classes are to be balanced where there are
            none.
    """
    return make_bags(run.bags, run_spec(run, dataset), derive_seed(run.seed, "bags"), utilities)


def survey_bags(run: RunConfig, dataset: Dataset) -> tuple[Bag, ...]:
    """The bags of single modalities that a run has whatever the utilities are; see `single_modality_bags`."""
    without = run.model_copy(update={"bags": run.bags.model_copy(update={"strategy": "linear"})})
    return single_modality_bags(cut_bags(without, dataset))


def rows_in_bag(run: RunConfig, dataset: Dataset) -> int:
    """About how many rows a bag has, repeats counted."""
    return math.ceil(len(dataset.rows("train")) * run.bags.share_in_bag)


def require_rows(bags: Sequence[Bag], dataset: Dataset) -> None:
    """Find out here, not in the process of every learner, that no bag can have its rows.

    Raises:
        ConfigError: every draw of rows leaves nothing inside or nothing outside; says what to do.
    """
    rows = dataset.rows("train")
    known = (rows, dataset.target(rows), dataset.groups(rows), dataset.times(rows))
    errors: list[ConfigError] = []
    for bag in {bag.row_draw: bag for bag in reversed(bags)}.values():
        try:
            draw_rows(bag, *known)
            return
        except ConfigError as error:
            errors.append(error)
    if errors:
        raise errors[-1]


def for_every_fold(choices: Sequence[Choice], bags: Sequence[Bag]) -> list[Choice]:
    """Choices made for the first fold of each mask, and the same for its other folds, in the order of the bags."""
    mask_of = {bag.name: bag.seed for bag in bags}
    made: dict[int, list[Choice]] = {}
    for choice in choices:
        made.setdefault(mask_of[choice.bag], []).append(choice)
    return [choice.model_copy(update={"bag": bag.name}) for bag in bags for choice in made.get(bag.seed, ())]
