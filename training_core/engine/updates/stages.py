"""Trainings in stages: parts of a net that stand still for some epochs, objectives that count more or less."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from torch import nn

from training_core.config import Config
from training_core.engine.loop import Hook, TrainingState
from training_core.engine.training import Stage
from training_core.errors import ConfigError
from training_core.quantities import NonNegativeFloat, PositiveInt


class CurriculumStage(Config):
    """A stretch of training in which the objectives of a weighted sum count what they count."""

    epochs: PositiveInt
    """Epochs it lasts; after the last stage training goes on as in that stage."""
    weights: dict[str, NonNegativeFloat]
    """What objectives count, by name; 0 switches one off. One that is not named counts what the sum was made with."""


class HasLrMultiplier(Protocol):
    """An update whose learning rate can be multiplied from outside."""

    lr_multiplier: float


class HasWeights(Protocol):
    """An objective made of named parts, such as `WeightedSum`."""

    @property
    def weights(self) -> Mapping[str, float]:
        """What each part counts."""
        ...

    def set_weights(self, weights: Mapping[str, float]) -> None:
        """Let the named parts count this from now on."""
        ...


class _InStages(Hook):
    """A hook that does something anew whenever an epoch begins another stage."""

    def __init__(self, stages: Sequence[Stage | CurriculumStage]) -> None:
        self._lengths = [stage.epochs for stage in stages]
        self._stage: int | None = None

    def on_epoch_start(self, state: TrainingState, model: Any) -> None:
        """Enter the stage of this epoch, when it is not the one of the epoch before."""
        stage = _stage_of(state.epoch, self._lengths)
        if stage != self._stage:
            self._enter(stage)

    def state_dict(self) -> dict[str, Any]:
        """The number of the stage; None before the first epoch."""
        return {"stage": self._stage}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Enter the stage that training was in; it may go on in the middle of an epoch."""
        if state["stage"] is not None:
            self._enter(state["stage"])

    def _enter(self, stage: int) -> None:
        """Make things as stage number `stage`, from 0, wants them."""
        self._stage = stage


class StagesHook(_InStages):
    """Freezes parameters and multiplies the learning rate, stage by stage.

    A frozen parameter gets no gradient, so neither weight decay nor momentum moves it, and its optimiser state waits.
    Parameters that required no gradient when training began are left alone throughout. After training all require
    gradients that did before. Buffers are no parameters: the running statistics of a frozen normaliser follow the data.
    """

    def __init__(self, stages: Sequence[Stage], update: HasLrMultiplier) -> None:
        """Let `stages` follow each other, for a model that `update` changes."""
        super().__init__(stages)
        self._stages = stages
        self._update = update
        self._trainable: dict[str, nn.Parameter] = {}

    def on_training_start(self, state: TrainingState, model: nn.Module) -> None:
        """Look at the parameters and at all stages, before anything is trained.

        Raises:
            ConfigError: a stage names parameters there are none of, or leaves none to train.
        """
        self._stage = None
        self._trainable = {name: value for name, value in model.named_parameters() if value.requires_grad}
        for number, stage in enumerate(self._stages, start=1):
            for beginning in stage.frozen:
                if not any(_begins(name, beginning) for name, _ in model.named_parameters()):
                    raise ConfigError(
                        f"{state.name}: stage {number} freezes '{beginning}', but no parameter's name begins so; there "
                        f"are {_overview(name for name, _ in model.named_parameters())}"
                    )
            if all(_is_frozen(name, stage) for name in self._trainable):
                raise ConfigError(f"{state.name}: stage {number} freezes every parameter; leave one to train")

    def on_training_end(self, state: TrainingState, model: nn.Module) -> None:
        """Let all parameters require gradients that did when training began."""
        for parameter in self._trainable.values():
            parameter.requires_grad_(True)

    def _enter(self, stage: int) -> None:
        """Make parameters and learning rate those of the stage."""
        super()._enter(stage)
        entered = self._stages[stage]
        self._update.lr_multiplier = entered.lr_multiplier
        for name, parameter in self._trainable.items():
            frozen = _is_frozen(name, entered)
            parameter.requires_grad_(not frozen)
            if frozen:
                parameter.grad = None


class CurriculumHook(_InStages):
    """Changes what the objectives of a weighted sum count, stage by stage; 0 leaves one out altogether.

    The training loss of one stage is not comparable to that of another; watch an objective that stays, or the terms.
    """

    def __init__(self, objective: HasWeights, stages: Sequence[CurriculumStage]) -> None:
        """Let `stages` follow each other, for the `objective` that the update descends.

        Raises:
            ConfigError: a stage names an objective there is not, or leaves none that counts.
        """
        super().__init__(stages)
        self._objective = objective
        self._weights = [self._weights_of(number, stage) for number, stage in enumerate(stages, start=1)]

    def _enter(self, stage: int) -> None:
        """Make the objectives count what the stage says."""
        super()._enter(stage)
        self._objective.set_weights(self._weights[stage])

    def _weights_of(self, number: int, stage: CurriculumStage) -> dict[str, float]:
        """What every objective counts in a stage."""
        given = dict(self._objective.weights)
        unknown = sorted(set(stage.weights) - set(given))
        if unknown:
            raise ConfigError(f"stage {number} of the curriculum weighs '{unknown[0]}'; there are {', '.join(given)}")
        weights = given | stage.weights
        if not any(weights.values()):
            raise ConfigError(f"stage {number} of the curriculum leaves no objective that counts; keep one above 0")
        return weights


def _stage_of(epoch: int, lengths: Sequence[int]) -> int:
    """Which stage, from 0, epoch `epoch`, from 1, belongs to; the last one when all are over."""
    for stage, length in enumerate(lengths):
        epoch -= length
        if epoch <= 0:
            return stage
    return len(lengths) - 1


def _is_frozen(name: str, stage: Stage) -> bool:
    return any(_begins(name, beginning) for beginning in stage.frozen)


def _begins(name: str, beginning: str) -> bool:
    """Whether a dotted name begins with whole parts of it: `blocks.1` begins `blocks.1.bias`, not `blocks.10.bias`."""
    return name == beginning or name.startswith(beginning + ".")


def _overview(names: Iterable[str]) -> str:
    """Parameters by their modules, each once and in order: `encoders.0, encoders.1, head`."""
    return ", ".join(dict.fromkeys(name.rpartition(".")[0] or name for name in names))
