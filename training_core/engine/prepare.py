"""What has to be there before a learner can train: its rows, its encoding, and the learner itself, not yet trained."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import nn

from training_core.config import canonical_json
from training_core.data.preprocessing import Preprocessor
from training_core.data.streams.batching import Batching
from training_core.data.streams.perturbation import Perturbation
from training_core.data.views import RowSource
from training_core.engine.hooks import OnEpoch
from training_core.engine.soft_targets import require_mixable
from training_core.engine.trained import TrainedLearner
from training_core.engine.training import TrainingConfig
from training_core.errors import DataError
from training_core.learners import Estimator, LearnerConfig
from training_core.objectives.denoising import DenoisedNet, DenoisingConfig, why_not_denoised
from training_core.schema import DataSpec
from training_core.seeding import torch_seeded

VALIDATION_ROWS = 256  # rows per forward pass when no gradients are kept
_MIN_ABSENT_ROWS = 10
_MIN_ABSENT_SHARE = 0.02

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LearnerRequest:
    """A learner to be trained on some modalities of a data set."""

    config: LearnerConfig
    """What to train."""
    train: RowSource
    """Raw rows, repeats allowed; they may have more modalities than `spec`."""
    validation: RowSource | None
    """Raw rows to stop a net by. None, or none that has a modality: it trains for all epochs. Estimators have no use
    for them: give them all rows to train on."""
    spec: DataSpec
    """The raw modalities to learn from, with all their columns."""
    features: Mapping[str, tuple[int, ...]]
    """For vectors and tables of which only some columns are used, those columns."""
    training: TrainingConfig
    """Settings of nets."""
    seed: int
    """Root of the initial weights, the order of rows and every dropout."""
    on_epoch: OnEpoch | None = field(default=None, compare=False)
    """Told of every epoch, and may stop the learner; an estimator has one epoch, without metrics."""
    label: str = ""
    """Whose request this is, where several are alike."""
    denoising: DenoisingConfig = field(default_factory=DenoisingConfig)
    """What a net learns of its modalities beside the target; others do not read it."""

    @property
    def name(self) -> str:
        """Who this is, for messages."""
        return f"{self.config.kind} on {'+'.join(self.spec.names)}"

    @property
    def likely_architecture(self) -> str:
        """Two nets can only train together when this is the same; known before anything is read."""
        return _architecture(self.config, self.spec.select(self.spec.names, self.used_features))

    @property
    def used_features(self) -> dict[str, tuple[int, ...]]:
        """`features` of its own modalities."""
        return {name: tuple(self.features[name]) for name in self.spec.names if name in self.features}


@dataclass(frozen=True)
class PreparedLearner:
    """A learner that can start to train."""

    request: LearnerRequest
    preprocessor: Preprocessor
    """Fitted on the training rows."""
    model: "nn.Module | Estimator"
    rows: RowSource
    """The training rows that have any of its modalities, cut down to its columns."""
    judged: RowSource | None
    """The validation rows likewise; None when there are none, and for an estimator."""
    training: TrainingConfig
    """The settings that hold for it: without modality dropout where there is nothing to drop, with that of denoising
    where it is denoised."""
    denoising: DenoisingConfig | None = None
    """The denoising that holds for it; None where there is none."""

    @property
    def architecture(self) -> str:
        """Equal for nets of equal structure."""
        return _architecture(self.request.config, self.preprocessor.spec)

    @property
    def batching(self) -> Batching:
        """How its rows are cut into batches."""
        return Batching(
            self.training.batch_size,
            self.request.seed,
            modality_dropout=self.training.modality_dropout,
            dropout_schedule=self.training.modality_dropout_schedule,
            notes_presence=self.denoising is not None,
            perturbation=self.perturbation if self.perturbation.changes else None,
        )

    @property
    def perturbation(self) -> Perturbation:
        """How its rows are changed in training."""
        training = self.training
        return Perturbation.of(self.preprocessor, training.mixup, training.feature_dropout, training.input_noise)

    @property
    def num_batches(self) -> int:
        """Of an epoch."""
        return self.batching.num_batches(len(self.rows))

    def trained_net(self, device: str) -> nn.Module:
        """The net as it trains, on `device`: with the parts denoising needs around `model` itself, where it holds.

        Raises:
            TypeError: it is an estimator.
        """
        if not isinstance(self.model, nn.Module):
            raise TypeError(f"{self.request.name} is no net")
        net = self.model.to(device)
        if self.denoising is None:
            return net
        with torch_seeded(self.request.seed, "denoising"):
            return DenoisedNet(net, self.preprocessor.spec, self.denoising).to(device)

    def finish(self, device: str) -> TrainedLearner:
        """What it is after training."""
        return TrainedLearner(
            self.request.config,
            self.preprocessor,
            self.model,
            self.request.used_features,
            tolerated_modalities(self.rows, self.training.modality_dropout),
            device,
        )


def prepare(request: LearnerRequest) -> PreparedLearner:
    """Look at the rows of a learner, fit its encoding on the training rows, and build it.

    Raises:
        DataError: no training row has any of the modalities.
        ConfigError: the learner does not take this kind of data, or its rows cannot be mixed as the settings ask.
    """
    spec, features, config = request.spec, request.used_features, request.config
    rows = _rows_with_any(request.train, spec, features)
    if rows is None:
        raise DataError(f"{request.name}: none of its {len(request.train)} training rows has any of these modalities")
    preprocessor = Preprocessor.fit(rows, spec.select(spec.names, features), config.text_input)
    model = config.build(preprocessor.spec, request.seed)
    is_net = isinstance(model, nn.Module)
    if is_net:
        require_mixable(preprocessor.spec, request.training)
    drops = is_net and config.meets_missing and len(spec.modalities) > 1
    judged = request.validation if is_net else None
    why_not = why_not_denoised(model, preprocessor.spec, request.denoising)
    if why_not is not None and request.denoising.enabled:
        _log.info("%s trains without denoising: %s", request.name, why_not)
    denoising = None if why_not is not None else request.denoising
    hiding = {} if drops else {"modality_dropout": 0.0}
    if denoising is not None:
        hiding = {"modality_dropout": denoising.modality_dropout, "modality_dropout_schedule": "uniform"}
    return PreparedLearner(
        request=request,
        preprocessor=preprocessor,
        model=model,
        rows=rows,
        judged=None if judged is None else _rows_with_any(judged, spec, features),
        training=request.training.model_copy(update=hiding),
        denoising=denoising,
    )


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


def _architecture(config: LearnerConfig, spec: DataSpec) -> str:
    """What a net is built from, without the names of columns and what each net of a stack may have its own of."""
    structure = config.model_dump(mode="json", exclude=set(config.own_in_stack))
    return canonical_json([structure, spec.model_dump(mode="json", exclude={"modalities": {"__all__": {"columns"}}})])


def _rows_with_any(source: RowSource, spec: DataSpec, features: Mapping[str, tuple[int, ...]]) -> RowSource | None:
    """The modalities and columns of interest of those rows that have any of them; None when no row has."""
    available = source.available()
    rows = np.flatnonzero(np.logical_or.reduce([available[name] for name in spec.names]))
    if not len(rows):
        return None
    every = len(rows) == len(source)
    return source.subset(rows=None if every else rows, modalities=spec.names, features=features)
