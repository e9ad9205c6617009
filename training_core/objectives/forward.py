"""How a model of anybody's is asked for its outputs: by its own signature, looked at once."""

import inspect

from torch import Tensor, nn

from training_core.errors import DataError
from training_core.objectives.model_output import ModelOutput
from training_core.objectives.supervised import Forward, ask_net
from training_core.schema import Batch


def forward_of(model: nn.Module) -> Forward:
    """How to ask `model`.

    - Nets of this library, whose `forward(inputs, available)` takes inputs by modality: as they are.
    - Any other model gets those inputs of the batch that its `forward` has arguments of these names for, all of them
      where it takes any. A batch of a single input goes in as the first argument, whatever that is called.

    What it returns is read by `ModelOutput.from_raw`.
    """
    parameters = inspect.signature(model.forward).parameters
    if tuple(parameters)[:2] == ("inputs", "available"):
        return ask_net
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())

    def ask(asked: nn.Module, batch: Batch) -> Tensor:
        named = {name: values for name, values in batch.inputs.items() if takes_any or name in parameters}
        if not named and len(batch.inputs) == 1:
            answer = asked(*batch.inputs.values())
        elif named:
            answer = asked(**named)
        else:
            raise DataError(
                f"{type(model).__name__}.forward takes {', '.join(parameters) or 'nothing'}, and the batch has "
                f"{', '.join(batch.inputs)}; give its arguments the names of the inputs"
            )
        return answer if isinstance(answer, Tensor) else ModelOutput.from_raw(answer).logits

    return ask
