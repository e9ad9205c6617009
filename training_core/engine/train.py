"""Training one learner on rows of data, from raw samples to something that answers: nets and estimators alike."""

from collections.abc import Callable, Mapping

import numpy as np
from torch import nn

from training_core.data.preprocessing import Preprocessor
from training_core.data.streams.batching import Batching
from training_core.data.streams.choice import open_stream
from training_core.data.streams.encoded import OneBatch
from training_core.data.views import RowSource
from training_core.engine.estimator_update import EstimatorUpdate
from training_core.engine.gradient import GradientUpdate
from training_core.engine.hooks import ProgressHook, Validation
from training_core.engine.loop import History, Hook, fit
from training_core.engine.trained import TrainedLearner
from training_core.engine.training import TrainingConfig
from training_core.errors import DataError
from training_core.learners import LearnerConfig
from training_core.objectives import Supervised
from training_core.schema import DataSpec
from training_core.seeding import torch_seeded

OnEpoch = Callable[[int, dict[str, float]], None]
"""Called after each epoch with its number, from 1, and its metrics."""

_MIN_ABSENT_ROWS = 10
_MIN_ABSENT_SHARE = 0.02
_VALIDATION_ROWS = 256  # rows per forward pass when no gradients are kept


def train_learner(
    config: LearnerConfig,
    train: RowSource,
    validation: RowSource | None,
    spec: DataSpec,
    features: Mapping[str, tuple[int, ...]],
    training: TrainingConfig,
    seed: int,
    on_epoch: OnEpoch | None = None,
    device: str = "cpu",
) -> tuple[TrainedLearner, History]:
    """Train a learner on some modalities of a data set; the same arguments give the same bits.

    The encoding is learned from the training rows alone. Rows that have none of the modalities are left out. A net's
    rows need not fit into memory; an estimator is given all of its own at once.

    Args:
        config: what to train.
        train: raw rows, repeats allowed; they may have more modalities than `spec`.
        validation: raw rows to stop a net by. None, or none that has a modality: it trains for all epochs. Estimators
            have no use for them: give them all rows to train on.
        spec: the raw modalities to learn from, with all their columns.
        features: for vectors and tables of which only some columns are used, those columns.
        training: settings of nets.
        seed: root of the initial weights, the order of rows and every dropout.
        on_epoch: told of every epoch; an estimator has one, without metrics.
        device: where to train a net.

    Returns:
        The learner, on `device`, and what its training did.

    Raises:
        DataError: no training row has any of the modalities.
        ConfigError: the learner does not take this kind of data.
        DivergenceError: a loss, a weight or a prediction stopped being finite.
    """
    features = {name: features[name] for name in spec.names if name in features}
    name = f"{config.kind} on {'+'.join(spec.names)}"
    rows = _rows_with_any(train, spec, features)
    if rows is None:
        raise DataError(f"{name}: none of its {len(train)} training rows has any of these modalities")
    preprocessor = Preprocessor.fit(rows, spec.select(spec.names, features), config.text_input)
    model = config.build(preprocessor.spec, seed)
    hooks: list[Hook] = [] if on_epoch is None else [ProgressHook(on_epoch)]
    modality_dropout = 0.0
    if isinstance(model, nn.Module):
        modality_dropout = training.modality_dropout if config.meets_missing and len(spec.modalities) > 1 else 0.0
        settings = training.model_copy(update={"modality_dropout": modality_dropout})
        judged = None if validation is None else _rows_with_any(validation, spec, features)
        history = _fit_net(model.to(device), rows, judged, preprocessor, settings, seed, hooks, name)
    else:
        everything = OneBatch(preprocessor.encode(rows.samples()))
        history = fit(model, everything, EstimatorUpdate(), hooks, epochs=1, name=name)
    tolerates = tolerated_modalities(rows, modality_dropout)
    return TrainedLearner(config, preprocessor, model, features, tolerates, device), history


def tolerated_modalities(rows: RowSource, modality_dropout: float) -> frozenset[str]:
    """Which modalities a learner can do without after it was trained on `rows`.

    All, when modalities were dropped at random in training. Else those whose absence it has met in earnest: in at
    least 10 of its rows and at least 2 % of them, repeats counted once. (Every learner can be told of an absence.)
    """
    available = rows.available()
    if modality_dropout > 0:
        return frozenset(available)
    _, distinct = np.unique(rows.ids().astype(str), return_index=True)
    enough = max(_MIN_ABSENT_ROWS, _MIN_ABSENT_SHARE * len(distinct))
    return frozenset(name for name, mask in available.items() if np.count_nonzero(~mask[distinct]) >= enough)


def _fit_net(
    net: nn.Module,
    train: RowSource,
    validation: RowSource | None,
    preprocessor: Preprocessor,
    training: TrainingConfig,
    seed: int,
    hooks: list[Hook],
    name: str,
) -> History:
    """Train `net`, which is on its device, on raw rows."""
    device, task = next(net.parameters()).device, preprocessor.spec.task
    batching = Batching(training.batch_size, seed, modality_dropout=training.modality_dropout)
    stream = open_stream(train, preprocessor, batching, device)
    update = GradientUpdate(
        Supervised(task, label_smoothing=training.label_smoothing),
        training.optimizer_config(),
        clip_norm=training.clip_norm,
    )
    if validation is not None:
        judged = open_stream(validation, preprocessor, Batching(_VALIDATION_ROWS, shuffle=False), device)
        hooks = [Validation(Supervised(task), judged, training.patience), *hooks]
    with torch_seeded(seed, "training"):  # dropout inside a net draws from torch's global generators
        return fit(net, stream, update, hooks, epochs=training.epochs, name=name)


def _rows_with_any(source: RowSource, spec: DataSpec, features: Mapping[str, tuple[int, ...]]) -> RowSource | None:
    """The modalities and columns of interest of those rows that have any of them; None when no row has."""
    available = source.available()
    rows = np.flatnonzero(np.logical_or.reduce([available[name] for name in spec.names]))
    if not len(rows):
        return None
    every = len(rows) == len(source)
    return source.subset(rows=None if every else rows, modalities=spec.names, features=features)
