"""The losses of every learner of a stack over rows of its own, as `hooks.mean_losses` gives them for one."""

from collections.abc import Iterable

import torch
from torch import Tensor

from training_core.engine.cohort.batches import CohortBatch
from training_core.engine.cohort.forms import StackedProgram, settings_of, shapes_of
from training_core.engine.cohort.stacked import StackedModel
from training_core.objectives import Objective


def cohort_losses(model: StackedModel, objective: Objective, batches: Iterable[CohortBatch]) -> dict[str, Tensor]:
    """The losses of all learners over all batches, in evaluation mode and without gradients.

    The program that is made for batches of one shape is kept with the stack, for the next epoch.

    Returns:
        `loss` and, when the objective has several, its terms: float64 [K] on the stack's device, weighted means over
        each learner's rows; NaN for one that had none.
    """
    was_training = model.template.training
    model.eval()
    totals: dict[str, Tensor] = {}
    whole: Tensor | float = 0.0
    settings = settings_of(objective)
    for batch in batches:
        shapes = shapes_of([*batch.inputs.values(), batch.available])
        key = ("losses", id(objective), settings, shapes)
        if key not in model.functions:
            program = StackedProgram(model, objective, batch, gradients=False)
            settings = settings_of(objective)  # it may note what its first batch was like
            key = ("losses", id(objective), settings, shapes)
            model.functions[key] = program
        judged = model.functions[key](model, batch)
        weight = judged.weight.to(torch.float64, copy=True)
        whole = whole + weight
        for name, value in judged.losses.items():
            totals[name] = totals.get(name, 0.0) + value.double() * weight
    if was_training:
        model.train()
    return {name: total / whole for name, total in totals.items()}
