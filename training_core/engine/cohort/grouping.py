"""Which nets may train together: those of one architecture and one way of training, with about as many batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from training_core.config import canonical_json
from training_core.engine.cohort.stream import memory_budget, memory_needed
from training_core.engine.prepare import LearnerRequest, PreparedLearner
from training_core.engine.soft_targets import loss_of_shares
from training_core.engine.training import TrainingConfig
from training_core.learners import LearnerConfig
from training_core.objectives.denoising import DenoisingConfig

_FEWEST_BATCHES = 0.75
"""Of those of the longest learner of a stack: sitting out the rest of an epoch costs as much as training."""
_OWN_SETTINGS = {
    "lr", "weight_decay", "clip_norm", "schedule", "warmup_epochs", "patience", "patience_steps", "validation_fraction",
    "modality_dropout", "modality_dropout_schedule", "label_smoothing", "class_weights", "ema_decay", "stacking",
    "checkpoint_seconds", "input_noise", "feature_dropout", "mixup",
}  # fmt: skip
"""Settings of training that each learner of a stack may have its own of: of these the weights of classes where they
weigh rows, and smoothing where the loss has a form for smoothed targets."""
_OWN_OF_DENOISING = {"weight", "temperature", "modality_dropout"}
"""Settings of denoising likewise, where the weights of its objectives do not change."""


@dataclass(frozen=True)
class Unit:
    """Learners that begin to train at the same time: a stack, or one alone."""

    members: tuple[int, ...]
    why_alone: str = ""
    """Why it has one member."""


def why_it_trains_alone(request: LearnerRequest) -> str | None:
    """Why a learner cannot be part of a stack whatever the others are; None when it can."""
    if request.config.family == "estimator":
        return "it fits in one step"
    return _why_settings_forbid(request.training)


def shared_in_stack(config: LearnerConfig, training: TrainingConfig, denoising: DenoisingConfig | None) -> str:
    """Equal, as text, for learners that differ in nothing but what each learner of a stack may have its own of."""
    own = _OWN_OF_DENOISING if denoising is not None and denoising.strategy == "fixed" else set[str]()
    return canonical_json(
        [
            config.model_dump(mode="json", exclude=set(config.own_in_stack)),
            training.model_dump(mode="json", exclude=_OWN_SETTINGS),
            None if denoising is None or not denoising.enabled else denoising.model_dump(mode="json", exclude=own),
        ]
    )


def share_out(prepared: Mapping[int, PreparedLearner], device: str) -> list[Unit]:
    """Put learners into units; every learner is in one of them.

    Sorted by their batches, the next learner joins the stack before it as long as it has at least three quarters of
    the batches of the longest there and the rows of all fit into memory.
    """
    alike: dict[str, list[int]] = {}
    alone: list[Unit] = []
    for position, learner in prepared.items():
        reason = why_it_trains_alone(learner.request)
        if reason is not None:
            alone.append(Unit((position,), reason))
        else:
            alike.setdefault(_key(learner), []).append(position)
    stacks = [stack for members in alike.values() for stack in _stacks(members, prepared, torch.device(device))]
    return sorted([*alone, *stacks], key=lambda unit: min(unit.members))


def _stacks(members: Sequence[int], prepared: Mapping[int, PreparedLearner], device: torch.device) -> list[Unit]:
    """Cut learners of one architecture where their numbers of batches are too far apart, or memory is full."""
    budget = max(memory_budget(device), memory_budget(torch.device("cpu")))
    stacks: list[list[int]] = []
    for position in sorted(members, key=lambda position: (-prepared[position].num_batches, position)):
        if stacks:
            company = [prepared[other] for other in (*stacks[-1], position)]
            needed = memory_needed([one.preprocessor for one in company], [len(one.rows) for one in company])
            enough = company[-1].num_batches >= _FEWEST_BATCHES * company[0].num_batches
            if enough and needed <= budget:
                stacks[-1].append(position)
                continue
        stacks.append([position])
    reason = (
        "no other of its architecture" if len(members) == 1 else "those of its architecture differ too much in rows"
    )
    return [Unit(tuple(sorted(stack)), reason if len(stack) == 1 else "") for stack in stacks]


def _key(learner: PreparedLearner) -> str:
    """Equal for learners that one update can train."""
    training, task = learner.training, learner.preprocessor.spec.task
    shared = shared_in_stack(learner.request.config, training, learner.denoising)
    weights = None if task.kind == "classification" else training.class_weights
    smoothing = None if loss_of_shares(task, training.loss) is not None else training.label_smoothing
    return canonical_json([learner.architecture, shared, learner.judged is None, weights, smoothing])


def _why_settings_forbid(training: TrainingConfig) -> str | None:
    """The first setting that a stack cannot follow, in words."""
    forbidden = {
        "stacking is switched off": training.stacking == "never",
        "its gradients are accumulated over batches": training.accumulation > 1,
        "it trains in fp16, whose scale of the loss is its own": training.precision == "fp16",
        "its step is compiled by itself": training.compile,
        "its activations are computed twice to save memory": training.gradient_checkpointing,
        "it trains in stages": bool(training.stages),
    }
    return next((reason for reason, holds in forbidden.items() if holds), None)
