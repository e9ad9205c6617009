"""What one would write to tune a net without Polychoir: Optuna's TPE and Hyperband around a plain torch loop.

The nets, their inputs, the rows and the space are those of a study of Polychoir's, so that what differs is the search
and the training around them. The loop is the usual one: AdamW, one process, one net at a time, clipped gradients, early
stopping on validation rows with the best weights kept, and the validation loss reported to the pruner every epoch.
"""

import copy
import time
import warnings
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import optuna
import torch
from torch import Tensor, nn
from torch.nn import functional

from training_core.campaigns.bagging import open_dataset
from training_core.campaigns.run_config import RunConfig
from training_core.campaigns.tuning.samplers import suggest
from training_core.campaigns.tuning.space import choose, params_of, space_of, with_params
from training_core.campaigns.tuning.trials import Bench
from training_core.data.preprocessing import Preprocessor
from training_core.data.splitting.row_draws import draw_rows
from training_core.data.views import RowSource
from training_core.engine.training import TrainingConfig
from training_core.evaluation.metrics import loss
from training_core.jobs import DatasetRef
from training_core.learners import LearnerBase
from training_core.recipes import member_request
from training_core.schema import TaskSpec

ENDLESS = 100_000
"""Trials of a study that only its seconds end."""


@dataclass(frozen=True)
class Part:
    """Encoded rows: inputs [N, …] by modality, what of them is there [N, M], and the target as a net learns it."""

    inputs: dict[str, Tensor]
    available: Tensor
    target: Tensor

    def take(self, rows: Tensor) -> "Part":
        """Some of its rows, int64 [n]."""
        return Part({k: v[rows] for k, v in self.inputs.items()}, self.available[rows], self.target[rows])


@dataclass(frozen=True)
class Rows:
    """The rows that a trial of Polychoir's is trained on, stopped by and judged on, encoded."""

    encoding: Preprocessor
    task: TaskSpec
    fit: Part
    stop: Part
    judged: Part
    truth: np.ndarray
    """Targets of the judged rows, as in `Samples`."""
    scale: np.ndarray
    """What a regression is judged in units of, [K]: the standard deviation of the training rows' target."""

    @classmethod
    def of(cls, run: RunConfig, ref: DatasetRef) -> "Rows":
        """Those of every trial of a study of `run`."""
        job = next(Bench(run, ref).rounds(0, {}, {}, lambda folds: False))[0]
        dataset, bag = open_dataset(ref), job.subset
        rows = dataset.rows("train")
        drawn = draw_rows(bag, rows, dataset.target(rows), dataset.groups(rows), dataset.times(rows))
        asked = member_request(
            job.recipe, dataset, bag.modalities, {}, drawn.inside, job.seed, lambda epoch, values: None, job.name
        )
        assert asked.validation is not None, "nets are stopped by rows of their own"
        encoding = Preprocessor.fit(asked.train, asked.spec, job.recipe.learner.text_input)

        def part(source: RowSource) -> Part:
            samples = source.samples()
            assert samples.target is not None
            encoded, target = encoding.encode(samples), torch.from_numpy(encoding.encode_target(samples.target))
            inputs = {name: torch.from_numpy(np.array(encoded.inputs[name])) for name in asked.spec.names}
            is_code = dataset.spec.task.kind == "classification"
            available = torch.from_numpy(encoded.availability(asked.spec.names))
            return Part(inputs, available, target.long() if is_code else target.float())

        return cls(
            encoding=encoding,
            task=dataset.spec.task,
            fit=part(asked.train),
            stop=part(asked.validation),
            judged=part(dataset.subset(drawn.outside, bag.modalities)),
            truth=dataset.target(drawn.outside),
            scale=np.maximum(dataset.target(rows).std(axis=0), 1e-12),
        )

    def judge(self, raw: Tensor) -> float:
        """Mean loss of a net's raw outputs for the judged rows, as a study of Polychoir's measures it."""
        if self.task.kind == "regression":
            values = self.encoding.decode_target(raw.double().numpy())
            return float(loss(self.task, self.truth / self.scale, values / self.scale).mean())
        probabilities = raw.softmax(1) if self.task.kind == "classification" else raw.sigmoid()
        return float(loss(self.task, self.truth, probabilities.double().numpy()).mean())


class Ended(NamedTuple):
    """A trial of a search that is over."""

    after: float
    """Seconds from the beginning of the search until it knew of it; perhaps more than it was given."""
    loss: float | None
    """On the judged rows; None when it was pruned."""
    epochs: int


def tune_bare(run: RunConfig, ref: DatasetRef, seconds: float) -> list[Ended]:
    """Search for `seconds`, beginning with the run's own settings; no trial is begun when they are over."""
    began = time.time()
    rows = Rows.of(run, ref)
    space = space_of(run, open_dataset(ref).spec)
    trained: dict[int, int] = {}

    def objective(trial: optuna.Trial) -> float:
        settings = with_params(run, choose(space, lambda dimension: suggest(trial, dimension)))
        learner: LearnerBase = getattr(settings, run.tuning.learner)
        net = learner.build(rows.encoding.spec, run.seed)
        assert isinstance(net, nn.Module)
        fit(net, rows, settings.training, trial, trained)
        with torch.no_grad():
            return rows.judge(net(rows.judged.inputs, rows.judged.available))

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of arguments that are experimental
        study = optuna.create_study(
            sampler=optuna.samplers.TPESampler(seed=run.seed),
            pruner=optuna.pruners.HyperbandPruner(run.tuning.min_epochs, run.training.epochs, 3),
        )
        study.enqueue_trial(params_of(run, space))
        left = max(seconds - (time.time() - began), 0.1)  # with nothing left there would be not even one trial
        study.optimize(objective, n_trials=ENDLESS, timeout=left)
    return [
        Ended(trial.datetime_complete.timestamp() - began, trial.value, trained.get(trial.number, 0))
        for trial in study.trials
        if trial.datetime_complete is not None
    ]


def fit(net: nn.Module, rows: Rows, training: TrainingConfig, trial: optuna.Trial, trained: dict[int, int]) -> None:
    """Train a net; it ends with its best weights.

    Raises:
        TrialPruned: the pruner gave it up.
    """
    torch.manual_seed(trial.number)
    optimizer = torch.optim.AdamW(net.parameters(), lr=training.lr, weight_decay=training.weight_decay)
    best, best_epoch, kept = float("inf"), 0, copy.deepcopy(net.state_dict())
    for epoch in range(1, training.epochs + 1):
        net.train()
        for batch in torch.randperm(len(rows.fit.target)).split(training.batch_size):
            part = rows.fit.take(batch)
            optimizer.zero_grad()
            step = distance(rows.task, net(part.inputs, part.available), part.target, training.label_smoothing)
            step.backward()
            if training.clip_norm:
                nn.utils.clip_grad_norm_(net.parameters(), training.clip_norm)
            optimizer.step()
        net.eval()
        with torch.no_grad():
            now = distance(rows.task, net(rows.stop.inputs, rows.stop.available), rows.stop.target, 0.0).item()
        trained[trial.number] = epoch
        if now < best:
            best, best_epoch, kept = now, epoch, copy.deepcopy(net.state_dict())
        elif epoch - best_epoch >= training.patience:
            break
        trial.report(now, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned
    net.load_state_dict(kept)


def distance(task: TaskSpec, raw: Tensor, target: Tensor, smoothing: float) -> Tensor:
    """The mean loss of raw outputs, to be descended."""
    if task.kind == "classification":
        return functional.cross_entropy(raw, target, label_smoothing=smoothing)
    if task.kind == "multilabel":
        return functional.binary_cross_entropy_with_logits(raw, target * (1 - smoothing) + smoothing / 2)
    return functional.mse_loss(raw, target)
