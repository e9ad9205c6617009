"""Ask for one member: split validation rows off its bag, and say to the engine what is to be trained on what."""

from collections.abc import Mapping

import numpy as np

from training_core.data.splitting.bags import Bag
from training_core.data.splitting.row_draws import in_bag_rows
from training_core.data.storage.store import Dataset
from training_core.engine.hooks import OnEpoch
from training_core.engine.prepare import LearnerRequest
from training_core.recipes.multimodal.config import MultimodalConfig
from training_core.seeding import derive_seed


def member_request(
    config: MultimodalConfig,
    dataset: Dataset,
    modalities: tuple[str, ...],
    features: Mapping[str, tuple[int, ...]],
    rows: np.ndarray,
    seed: int,
    on_epoch: OnEpoch,
    label: str,
) -> LearnerRequest:
    """The learner of `config` on dataset positions `rows` (with repeats), some modalities and columns of them.

    `label` says whose it is. Nets stop early on validation rows: the dataset's own when it has some, else rows split
    off the bag, never rows outside it, which are kept to judge the learner.
    """
    fit_rows, validation_rows = rows, dataset.rows("validation")
    if config.learner.family == "estimator":
        validation_rows = validation_rows[:0]
    elif not len(validation_rows) and config.training.validation_fraction > 0:
        fit_rows, validation_rows = _split_off(rows, dataset, config.training.validation_fraction, seed)
    return LearnerRequest(
        config.learner,
        train=dataset.subset(fit_rows, modalities),
        validation=dataset.subset(validation_rows, modalities) if len(validation_rows) else None,
        spec=dataset.spec.select(modalities),
        features=features,
        training=config.training,
        seed=seed,
        on_epoch=on_epoch,
        label=label,
        denoising=config.denoising,
    )


def _split_off(rows: np.ndarray, dataset: Dataset, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to fit (with their repeats) and distinct validation rows; no row, and no group, is in both.

    Where blocks of time are so few or uneven that more than twice `fraction` would be held back, or nothing, rows are
    drawn as if they had no times.
    """
    distinct = np.unique(rows)
    kept = Bag(
        name="validation split",
        modalities=dataset.spec.names,
        sampling="subsample",
        row_fraction=1 - fraction,
        feature_fraction=1.0,
        seed=derive_seed(seed, "validation"),
        row_seed=derive_seed(seed, "validation"),
    )
    target, groups, times = dataset.target(distinct), dataset.groups(distinct), dataset.times(distinct)
    fit = in_bag_rows(kept, distinct, target, groups, times)
    if times is not None and groups is None and not 0 < len(distinct) - len(fit) <= 2 * fraction * len(distinct):
        fit = in_bag_rows(kept, distinct, target, None, None)
    inside = np.isin(rows, fit)
    return rows[inside], np.setdiff1d(distinct, fit)
