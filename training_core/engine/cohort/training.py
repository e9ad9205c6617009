"""Training a stack: many nets of one architecture as one model, each as if it were alone."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from training_core.data.streams.batching import Batching
from training_core.engine.alone import Trained, build_objectives, going_on, row_weights
from training_core.engine.cohort.choice import FormChoice, choose_form
from training_core.engine.cohort.forms import Form
from training_core.engine.cohort.row_optimizers import why_no_row_optimizer
from training_core.engine.cohort.smoothing import SMOOTHING, OwnSmoothing
from training_core.engine.cohort.stacked import StackedModel, why_not_stackable
from training_core.engine.cohort.stream import CohortStream, open_cohort_stream
from training_core.engine.cohort.update import CohortUpdate
from training_core.engine.cohort.validation import CohortValidation
from training_core.engine.denoising import DenoisingWeights
from training_core.engine.loop import Hook, fit
from training_core.engine.prepare import VALIDATION_ROWS, PreparedLearner
from training_core.engine.soft_targets import loss_of_mixed, loss_of_shares
from training_core.engine.updates.schedules import training_schedule
from training_core.engine.watching.profiling import Watch
from training_core.objectives import Objective
from training_core.seeding import derive_seed, torch_seeded

_log = logging.getLogger(__name__)

_EXPECTED_SHARE = 1 / 3
"""Of all the steps there could be, how many there are before early stopping."""


class Stack:
    """Learners that are about to train together: their rows lie in memory, and it is known how a step will run."""

    def __init__(
        self,
        members: Sequence[PreparedLearner],
        nets: Sequence[nn.Module],
        stream: CohortStream,
        judged: CohortStream | None,
        form: Form,
        reason: str,
    ) -> None:
        """Take what `open_stack` found."""
        self._members = members
        self._nets = nets
        self._stream = stream
        self._judged = judged
        self._form: Form = form
        self._reason = reason

    def train(
        self, device: str = "cpu", checkpoints: Path | None = None, watch: Watch | None = None
    ) -> list[Trained | Exception]:
        """Train them; what came of each, in order. To be called once.

        Args:
            device: where they are.
            checkpoints: where to keep, and find, what an interrupted training goes on from.
            watch: measures the training.
        """
        members, training = self._members, self._members[0].training
        objective, judge, own = _objectives(members)
        schedules = [training_schedule(member.training, member.num_batches) for member in members]
        stacked = StackedModel(self._nets, [derive_seed(member.request.seed, "dropout") for member in members], own)
        update = CohortUpdate(
            objective,
            [member.training.optimizer_config() for member in members],
            clip_norm=[member.training.clip_norm for member in members],
            clip_value=training.clip_value,
            schedules=schedules,
            average_decays=[member.training.ema_decay for member in members],
            form=self._form,
            precision=training.precision,
        )
        validation = CohortValidation(
            judge,
            self._judged,
            self._stream,
            update,
            [member.request.name for member in members],
            [
                member.training.patience_epochs(num_batches)
                for member, num_batches in zip(members, self._stream.batches_per_epoch, strict=True)
            ],
            schedules=schedules,
            on_epoch=self._tell,
        )
        name = f"a stack of {len(members)} ({members[0].request.name})"
        seeds = [member.request.seed for member in members]
        stream = self._stream
        denoising = members[0].denoising
        hooks: list[Hook] = [validation] if denoising is None else [DenoisingWeights(denoising), validation]
        if watch is not None:
            stream, watching = watch.over(stream, update, *(member.request.label for member in members))
            hooks.append(watching)
        resume, keeping = going_on(checkpoints, training, device)
        with torch_seeded(seeds[0], "training", *seeds[1:]):
            fit(stacked, stream, update, [*hooks, *keeping], epochs=training.epochs, name=name, resume=resume)
        _log.info("%s trained together: %s", name, self._reason)
        trained_as = f"stacked with {len(members) - 1} others ({self._reason})"
        outcomes: list[Trained | Exception] = []
        for number, (member, net) in enumerate(zip(members, self._nets, strict=True)):
            history = validation.outcome(number, training.epochs)
            if isinstance(history, Exception):
                outcomes.append(history)
                continue
            validation.write_to(number, stacked, net)
            outcomes.append(Trained(member.finish(device), history, trained_as))
        return outcomes

    def _tell(self, learner: int, epoch: int, metrics: dict[str, float]) -> str | None:
        listener = self._members[learner].request.on_epoch
        return None if listener is None else listener(epoch, metrics)


def open_stack(members: Sequence[PreparedLearner], device: str = "cpu") -> Stack | str:
    """Make learners of one architecture and one way of training ready to train as a stack.

    The same members give the same bits. Each learns what it would learn alone, up to rounding and to the draws of
    dropout inside the net, which the stack makes for all of its members.

    Args:
        members: as `grouping.share_out` puts them together.
        device: where to train.

    Returns:
        The stack; or, in words, why they had better train alone.
    """
    nets = [member.trained_net(device) for member in members]
    task, training = members[0].preprocessor.spec.task, members[0].training
    if reason := why_not_stackable(nets):
        return reason
    if reason := why_no_row_optimizer([member.training.optimizer_config() for member in members]):
        return reason
    if task.kind == "multilabel" and training.class_weights != "none":
        return "what a positive of each label counts is each learner's own"
    streams = _open_streams(members, device)
    if isinstance(streams, str):
        return streams
    stream, judged = streams
    choice = _choose(members, nets, stream)
    if choice.form == "sequential":
        return choice.reason
    return Stack(members, nets, stream, judged, choice.form, choice.reason)


def _objectives(members: Sequence[PreparedLearner]) -> tuple[Objective, Objective, dict[str, list[float]]]:
    """What all are trained towards and judged by, and the settings of each learner that the first of them reads.

    What classes count is each learner's own, too, and weighs its rows.
    """
    first, task = members[0], members[0].preprocessor.spec.task
    smoothing = [member.training.label_smoothing for member in members]
    if len(set(smoothing)) == 1:
        mixed = loss_of_mixed(task, first.training) if _mixes(members) else None
        return *build_objectives(task, first.training, None, first.denoising is not None, mixed), {}
    loss = loss_of_shares(task, first.training.loss)
    objective, judge = build_objectives(task, first.training, None, first.denoising is not None, loss)
    return OwnSmoothing(objective, task), judge, {SMOOTHING: smoothing}


def _open_streams(members: Sequence[PreparedLearner], device: str) -> tuple[CohortStream, CohortStream | None] | str:
    """Training and validation rows of all members; the reason when they do not fit into memory."""
    encodings = [member.preprocessor for member in members]
    batchings = [member.batching for member in members]
    if any(batching.perturbation is not None for batching in batchings):
        changes = [replace(member.perturbation, mixes=_mixes(members)) for member in members]
        batchings = [replace(batching, perturbation=own) for batching, own in zip(batchings, changes, strict=True)]
    stream = open_cohort_stream(
        [member.rows for member in members],
        encodings,
        batchings,
        device,
        [row_weights(member, member.rows.target()) for member in members],
    )
    judged_rows = [member.judged for member in members if member.judged is not None]
    if isinstance(stream, str) or not judged_rows:
        return stream if isinstance(stream, str) else (stream, None)
    judged = open_cohort_stream(
        judged_rows,
        encodings,
        [Batching(VALIDATION_ROWS, shuffle=False)] * len(members),
        device,
        [row_weights(member, rows.target()) for member, rows in zip(members, judged_rows, strict=True)],
    )
    return judged if isinstance(judged, str) else (stream, judged)


def _mixes(members: Sequence[PreparedLearner]) -> bool:
    """Whether any of them mixes rows: then the targets of all are of the form that mixed ones have."""
    return any(member.training.mixup > 0 for member in members)


def _choose(members: Sequence[PreparedLearner], nets: Sequence[nn.Module], stream: CohortStream) -> FormChoice:
    """How the settings, or a measurement on the first batch, say that the members train."""
    training = members[0].training
    task = members[0].preprocessor.spec.task
    mixed = loss_of_mixed(task, training) if _mixes(members) else None
    first = build_objectives(task, training, None, members[0].denoising is not None, mixed)
    if any(member.training.stacking == "always" for member in members):
        return FormChoice("stacked", {}, "as `training.stacking` says")
    start = stream.state_dict()
    batch = next(iter(stream)).clone()
    stream.load_state_dict(start)
    return choose_form(
        nets,
        batch,
        first[0],  # one that reads the settings of a stack takes as long
        [member.training.optimizer_config() for member in members],
        clip_norm=training.clip_norm,
        clip_value=training.clip_value,
        precision=training.precision,
        total_steps=int(training.epochs * len(stream) * _EXPECTED_SHARE),
    )
