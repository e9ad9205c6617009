"""One model, trained with everything the engine has, out of one configuration: composition, and nothing else.

trainer = Trainer(model, TrainingConfigBuilder.baseline().build(), TaskSpec.classification(10))
results = trainer.train((images, labels))
results["best_val_loss"], trainer.predict(new_images)
"""

import logging
import time
from collections.abc import Sequence, Sized
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from training_core.data.preprocessing import Preprocessor
from training_core.data.streams.batching import Batching
from training_core.data.streams.resident import DeviceStream
from training_core.engine.checkpoints.hook import CheckpointHook
from training_core.engine.checkpoints.manager import CheckpointManager
from training_core.engine.device import use_one_thread
from training_core.engine.hooks import Validation, mean_losses
from training_core.engine.loop import History, Hook, TrainingState, fit
from training_core.engine.trainer.config import TrainerConfig
from training_core.engine.trainer.data import RawRows, TrainerData, as_data
from training_core.engine.trainer.parts import (
    checkpoints_of,
    perturbation_of,
    schedule_of,
    started_ranks,
    tracking_of,
    update_of,
)
from training_core.engine.trainer.results import EpochResults, TrainingResults
from training_core.engine.trainer.streams import Collate, ItemStream
from training_core.engine.training import TrainingConfig
from training_core.engine.updates.averaging import KeepAverage, WeightAverage
from training_core.engine.updates.schedules import ScheduleHook
from training_core.engine.updates.stages import StagesHook
from training_core.engine.watching.training_hooks import TrainingHooks, as_hook
from training_core.errors import ConfigError, DataError
from training_core.learners import LearnerConfig
from training_core.objectives import (
    LOSSES,
    PEFTAwareLoss,
    PerSampleLoss,
    Supervised,
    activate,
    ask_net,
    balanced_class_weights,
    forward_of,
    resolve_loss,
)
from training_core.schema import TaskSpec
from training_core.seeding import torch_seeded

if TYPE_CHECKING:
    from training_core.engine.distributed.ranks import Ranks

_log = logging.getLogger(__name__)

_JUDGED_ROWS = 256  # rows per forward pass when no gradients are kept


class Trainer:
    """Trains a model, and asks it afterwards.

    Attributes:
        model: the model; after training with its best weights.
        config: everything it was told.
        task: what is predicted.
    """

    model: nn.Module

    def __init__(
        self,
        model: nn.Module | LearnerConfig | None,
        config: TrainerConfig | TrainingConfig,
        task_spec: TaskSpec,
        hooks: Hook | TrainingHooks | Sequence[Hook | TrainingHooks] | None = None,
        device: str | None = None,
        collate: Collate | None = None,
    ) -> None:
        """Train nothing yet.

        Args:
            model: a net of any kind (see `forward_of` for how it is asked), which is changed in place; or the
                configuration of one that is built from the data; None: `config.model` is.
            config: how to train.
            task_spec: what is predicted.
            hooks: who listens besides, hooks of the loop or of the plain form; they come after validation, before what
                is kept and recorded.
            device: where to train, in place of `config.hardware.device`.
            collate: makes a batch of a list of items, for data sets whose items it cannot guess.

        Raises:
            ConfigError: there is neither a model nor `config.model`.
        """
        self.config = TrainerConfig(training=config) if isinstance(config, TrainingConfig) else config
        self.task = task_spec
        self.device = device or self.config.hardware.chosen_device()
        given = hooks if isinstance(hooks, Sequence) else [] if hooks is None else [hooks]
        self._hooks = [hook if isinstance(hook, Hook) else as_hook(hook) for hook in given]
        self._collate = collate
        self._preprocessor: Preprocessor | None = None
        self._class_weights: torch.Tensor | None = None
        self._to_build = self.config.model if model is None else None
        if isinstance(model, nn.Module):
            self.model = model
        elif model is not None:
            self._to_build = model
        elif self._to_build is None:
            raise ConfigError(
                "there is nothing to train: give the trainer a model, or set `model` in its configuration"
            )

    def train(self, train_data: Any, val_data: Any = None) -> TrainingResults:
        """Train until the epochs are done or early stopping ends it; what was interrupted goes on where it was.

        Args:
            train_data: an encoded `Batch`; (inputs, target) or (inputs, target, weight) as tensors or arrays, the
                inputs an array or arrays by name; raw rows (`RowSource`); a torch `Dataset`, a list of items, a
                `DataLoader`; or any stream of batches. Where several processes train together, each is given all
                rows and takes its share; a loader or a stream has to give each its own.
            val_data: what to stop by, in any of these forms. None: a share `training.validation_fraction` of the
                training rows, where they can be told apart.

        Raises:
            ConfigError: settings do not fit the task, the data, the model or the number of processes.
            DataError: the data is of no known form, or does not fit the task.
            DivergenceError: a loss or a weight stopped being finite.
        """
        started = time.perf_counter()
        if self.config.deterministic:
            use_one_thread()
        with started_ranks(self.config.hardware.devices, self.device) as ranks:
            if ranks is not None:
                self.device = ranks.device
            data, judged = self._data(train_data, val_data)
            results = EpochResults()
            history = self._fit(data, judged, results, ranks)
        self.model.eval()
        return TrainingResults.of(history, results.epochs, time.perf_counter() - started)

    def evaluate(self, data: Any) -> dict[str, float]:
        """The loss on `data`, of any form that `train` takes: `loss` and, where it has several, its terms.

        Raises:
            ConfigError: there is no model yet, since none was given and none was built by training.
        """
        model, given = self._built(), as_data(data, self.task, self._collate, self._preprocessor)
        judge = Supervised(self.task, loss=self._loss(0.0, self._class_weights), forward=forward_of(model))
        return mean_losses(model, judge, given.stream(Batching(_JUDGED_ROWS, shuffle=False), self.device))

    def predict(self, data: Any) -> np.ndarray:
        """Predictions for `data`, of any form that `train` takes; targets are not needed.

        Returns:
            float64 [N, …], in the order of the rows: probabilities, or values, of raw rows in the target's own units.

        Raises:
            ConfigError: there is no model yet, since none was given and none was built by training.
            DataError: the answers of different batches have different shapes (sequences of different lengths).
        """
        model, given = self._built(), as_data(data, self.task, self._collate, self._preprocessor)
        forward, loss = forward_of(model), self._loss()
        answer = loss.predict if isinstance(loss, PerSampleLoss) else lambda raw: activate(self.task, raw)
        was_training = model.training
        model.eval()
        with torch.inference_mode():
            answers = [
                answer(forward(model, batch).float()).double().cpu().numpy()
                for batch in given.stream(Batching(_JUDGED_ROWS, shuffle=False), self.device)
            ]
        model.train(was_training)
        shapes = sorted({part.shape[1:] for part in answers})
        if len(shapes) > 1:
            raise DataError(
                f"answers have the shapes {shapes} per row in different batches; ask for rows of one length"
            )
        whole = np.concatenate(answers)
        return whole if self._preprocessor is None else self._preprocessor.decode_target(whole)

    def _built(self) -> nn.Module:
        """The model, where it is asked."""
        if not hasattr(self, "model"):
            raise ConfigError("there is no model yet: it is built from the data when it is trained, so train first")
        return self.model.to(self.device)

    def _data(self, train_data: Any, val_data: Any) -> tuple[TrainerData, TrainerData | None]:
        """Training and validation data; a model that was only described is built from it."""
        data = as_data(train_data, self.task, self._collate)
        fraction = self.config.training.validation_fraction
        parts = data.split(fraction, self.config.seed) if val_data is None and fraction > 0 else None
        data, judged = (data, None) if parts is None else parts
        if judged is None and val_data is None and fraction > 0:
            _log.warning(
                "no rows are held back for validation: they cannot be told apart in what was given, are too few, "
                "or come in groups of more than twice `training.validation_fraction`; "
                "give `val_data` to stop early and to keep the best weights"
            )
        if isinstance(data, RawRows):
            text = "tokens" if self._to_build is None else self._to_build.text_input
            data.preprocessor = self._preprocessor = Preprocessor.fit(data.source, data.source.spec, text)
        if self._to_build is not None:
            if self._preprocessor is None:
                raise ConfigError(
                    f"a {self._to_build.kind} is built from raw rows, which say what their modalities are; "
                    "give the trainer an nn.Module for data of another form"
                )
            built = self._to_build.build(self._preprocessor.spec, self.config.seed)
            if not isinstance(built, nn.Module):
                raise ConfigError(f"a {self._to_build.kind} is fitted in one step and is no net; choose a net")
            self.model = built
        if val_data is not None:
            judged = as_data(val_data, self.task, self._collate, self._preprocessor)
        elif isinstance(judged, RawRows):
            judged.preprocessor = self._preprocessor
        return data, judged

    def _fit(
        self, data: TrainerData, judged: TrainerData | None, results: EpochResults, ranks: "Ranks | None"
    ) -> History:
        """Put the parts together and run the loop."""
        config, training, model = self.config, self.config.training, self.model.to(self.device)
        objective, judge = self._objectives(data)
        dropout = training.modality_dropout if forward_of(model) is ask_net else 0.0
        perturbation = perturbation_of(training, data.preprocessor if isinstance(data, RawRows) else None)
        batching = Batching(training.batch_size, config.seed, modality_dropout=dropout, perturbation=perturbation)
        stream = data.stream(batching if ranks is None else ranks.batching(batching), self.device)
        average = WeightAverage(training.ema_decay) if training.ema_decay > 0 else None
        schedule = schedule_of(training, stream)
        update = update_of(training, objective, schedule, average, config, ranks)

        hooks: list[Hook] = [StagesHook(training.stages, update)] if training.stages else []
        if judged is not None:
            judged_stream = judged.stream(Batching(_JUDGED_ROWS, shuffle=False), self.device)
            patience = training.patience_epochs(len(stream)) if isinstance(stream, Sized) else training.patience
            hooks.append(Validation(judge, judged_stream, patience, average))
        elif average is not None:
            hooks.append(KeepAverage(average))
        if schedule is not None:
            hooks.append(ScheduleHook(schedule))
        hooks += [*self._hooks, results]
        tracking = tracking_of(config)
        manager = checkpoints_of(config, self.task, model, self.device, 1 if ranks is None else ranks.world_size)
        try:
            if ranks is None:
                hooks += tracking
                if manager is not None:
                    interval = config.checkpoints.save_interval_epochs
                    hooks.append(CheckpointHook(manager, training.checkpoint_seconds, every_epochs=interval))
                with torch_seeded(config.seed, "training"):
                    return fit(
                        model,
                        stream,
                        update,
                        hooks,
                        epochs=training.epochs,
                        name=config.logging.run_name,
                        resume=None if manager is None else manager.latest(),
                    )
            return _fit_across(ranks, model, stream, update, hooks, tracking, config, manager)
        except BaseException:
            for hook in tracking:
                hook.close("FAILED")
            raise

    def _loss(self, label_smoothing: float = 0.0, class_weights: Any = None) -> Any:
        """The loss that is meant. A model of the user's own may have as many outputs as the loss wants."""
        name = self.config.training.loss
        named = name if name == "default" or self._to_build is not None else LOSSES.get(name)
        return resolve_loss(self.task, named, label_smoothing, class_weights)

    def _objectives(self, data: TrainerData) -> tuple[Supervised, Supervised]:
        """What the model is trained towards on `data`, and what it is judged by: the same without smoothing."""
        training, weights = self.config.training, None
        if training.class_weights == "balanced":
            target = data.target()
            if target is None:
                raise ConfigError(
                    "`training.class_weights` is 'balanced', which needs targets that can be counted before training: "
                    "give arrays, an encoded Batch or raw rows"
                )
            weights = torch.tensor(balanced_class_weights(self.task, target), device=self.device)
        self._class_weights = weights
        forward, loss = forward_of(self.model), self._loss(training.label_smoothing, weights)
        if isinstance(loss, PEFTAwareLoss):
            loss = loss.bound_to(self.model)
        judge = Supervised(self.task, loss=self._loss(0.0, weights), forward=forward)
        return Supervised(self.task, loss=loss, forward=forward), judge


def _fit_across(
    ranks: "Ranks",
    model: nn.Module,
    stream: Any,
    update: Any,
    hooks: Sequence[Hook],
    tracking: Sequence[Hook],
    config: TrainerConfig,
    manager: CheckpointManager | None,
) -> History:
    """The loop on several ranks; rank 0 records and keeps checkpoints."""
    from training_core.engine.distributed.fit import Unrepeated, fit_across_ranks

    if isinstance(stream, DeviceStream | ItemStream):
        stream = Unrepeated(stream)

    def save(snapshot: dict[str, Any], state: TrainingState) -> None:
        assert manager is not None
        metrics = {} if state.in_epoch else state.metrics  # within an epoch those are of the one before
        manager.save_checkpoint(snapshot, state.epoch, metrics, step=state.step)

    with ranks.seeded(config.seed, "training"):
        return fit_across_ranks(
            model,
            stream,
            update,
            hooks,
            tracking,
            epochs=config.training.epochs,
            name=config.logging.run_name,
            resume=None if manager is None else manager.latest(),
            save=None if manager is None else save,
            save_seconds=config.training.checkpoint_seconds,
            save_epochs=config.checkpoints.save_interval_epochs,
        )
