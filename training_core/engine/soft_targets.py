"""Answers that are shares of several classes, as smoothed labels and mixed rows have: which losses take them."""

from training_core.engine.training import TrainingConfig
from training_core.errors import ConfigError
from training_core.objectives import ClassificationLoss, MultilabelLoss, PerSampleLoss, resolve_loss
from training_core.objectives.class_losses import ClassSharesLoss
from training_core.schema import DataSpec, TaskSpec


def loss_of_shares(task: TaskSpec, loss: str) -> PerSampleLoss | None:
    """The loss that says of targets that are shares what the loss of the settings says of labels; None: none does."""
    alike: dict[type, PerSampleLoss] = {ClassificationLoss: ClassSharesLoss(), MultilabelLoss: MultilabelLoss()}
    try:
        return alike.get(type(resolve_loss(task, loss)))
    except ConfigError:  # whoever trains with it says what is wrong
        return None


def loss_of_mixed(task: TaskSpec, training: TrainingConfig) -> PerSampleLoss | None:
    """What nets are trained towards in place of the loss of the settings where rows are mixed; None: that itself.

    Weights of classes are the weights of rows then: a mixed row is of several classes.
    """
    loss = None if task.kind == "regression" else loss_of_shares(task, training.loss)
    return None if loss is None else loss.with_options(training.label_smoothing)


def why_not_mixed(spec: DataSpec, training: TrainingConfig) -> str | None:
    """Why `training.mixup` cannot be applied to rows of `spec`, in words; None when it can, or is 0.

    Args:
        spec: the modalities of a net, raw or encoded, and its task.
        training: the settings.
    """
    if not training.mixup:
        return None
    for modality in spec.modalities:
        if modality.kind == "text":
            return f"modality '{modality.name}' is text, and there is nothing between two tokens"
        if named := [column.name for column in modality.columns if column.categories is not None]:
            return f"column '{named[0]}' of '{modality.name}' holds categories, and there is nothing between two"
    task = spec.task
    if task.kind == "regression":
        return None
    if loss_of_shares(task, training.loss) is None:
        return f"the loss '{training.loss}' has no form for answers that are shares of several classes"
    if task.kind == "multilabel" and training.class_weights != "none":
        return "what a positive of each label counts (`training.class_weights`) is not defined for a share of one"
    return None


def require_mixable(spec: DataSpec, training: TrainingConfig) -> None:
    """Raise a `ConfigError` that says what to do where `training.mixup` is asked for and cannot be applied."""
    if reason := why_not_mixed(spec, training):
        raise ConfigError(
            f"`training.mixup` is {training.mixup:g}, and {reason}; set it to 0, or leave that out of the run"
        )
