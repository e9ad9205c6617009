"""Objects with the plain methods of `TrainingHooks`, adapted to the loop."""

import pytest
import torch
from torch import Tensor, nn

from training_core.engine.loop import Hook, TrainingState, Update, fit
from training_core.engine.watching.training_hooks import TrainingHooks, as_hook
from training_core.errors import ConfigError


class Falling(Update[nn.Module, Tensor]):
    """Losses 1, 2, 3, …"""

    loss = 0.0

    def step(self, model: nn.Module, batch: Tensor) -> dict[str, Tensor]:
        self.loss += 1.0
        return {"loss": torch.tensor(self.loss)}


class Judged(Hook):
    def on_epoch_end(self, state: TrainingState, model: nn.Module) -> None:
        state.metrics["validation/loss"] = 10.0 * state.epoch


class Everything:
    """Inherits nothing."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def on_training_start(self) -> None:
        self.calls.append(("start",))

    def on_epoch_start(self, epoch: int) -> None:
        self.calls.append(("epoch", epoch))

    def on_batch_end(self, batch_idx: int, loss: float) -> None:
        self.calls.append(("batch", batch_idx, loss))

    def on_validation_end(self, metrics: dict[str, float]) -> None:
        self.calls.append(("validated", metrics))

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        self.calls.append(("done", epoch, metrics))

    def on_training_end(self) -> None:
        self.calls.append(("end",))


def train(*hooks: Hook, epochs: int = 2) -> None:
    fit(nn.Linear(1, 1), [torch.zeros(1)] * 2, Falling(), hooks, epochs=epochs)


def test_every_method_is_called_in_order_with_plain_values() -> None:
    hooks = Everything()
    train(Judged(), as_hook(hooks))
    assert hooks.calls == [
        ("start",),
        ("epoch", 1),
        ("batch", 0, 1.0),
        ("batch", 1, 2.0),
        ("validated", {"loss": 10.0}),
        ("done", 1, {"training/loss": 1.5, "validation/loss": 10.0}),
        ("epoch", 2),
        ("batch", 0, 3.0),
        ("batch", 1, 4.0),
        ("validated", {"loss": 20.0}),
        ("done", 2, {"training/loss": 3.5, "validation/loss": 20.0}),
        ("end",),
    ]


def test_without_validation_nothing_is_said_of_it() -> None:
    hooks = Everything()
    train(as_hook(hooks), epochs=1)
    assert "validated" not in {call[0] for call in hooks.calls}


def test_only_an_object_that_listens_to_batches_reads_their_losses() -> None:
    class Quiet(TrainingHooks):
        num_epochs = 0

        def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
            self.num_epochs += 1

    quiet = Quiet()
    adapted = as_hook(quiet)
    assert type(adapted).on_batch_end is Hook.on_batch_end
    assert type(as_hook(Everything())).on_batch_end is not Hook.on_batch_end
    train(adapted)
    assert quiet.num_epochs == 2


def test_an_object_may_have_a_single_method() -> None:
    class Single:
        ended = False

        def on_training_end(self) -> None:
            self.ended = True

    single = Single()
    train(as_hook(single))
    assert single.ended


@pytest.mark.parametrize("nothing", [object(), TrainingHooks()])
def test_an_object_that_listens_to_nothing_is_refused(nothing: object) -> None:
    with pytest.raises(ConfigError, match="listens to nothing; it needs one of on_training_start, on_epoch_start"):
        as_hook(nothing)


def test_the_state_of_an_object_is_kept_where_it_has_one() -> None:
    class Counting(TrainingHooks):
        count = 0

        def on_epoch_start(self, epoch: int) -> None:
            self.count += 1

        def state_dict(self) -> dict[str, int]:
            return {"count": self.count}

        def load_state_dict(self, state: dict[str, int]) -> None:
            self.count = state["count"]

    first, second = Counting(), Counting()
    adapted = as_hook(first)
    train(adapted, epochs=3)
    as_hook(second).load_state_dict(adapted.state_dict())
    assert second.count == 3
    assert as_hook(Everything()).state_dict() == {}


def test_a_state_is_kept_under_the_name_of_the_object_that_keeps_it() -> None:
    class Keeps(Everything):
        def state_dict(self) -> dict[str, int]:
            return {"calls": len(self.calls)}

    assert as_hook(Keeps()).kept_as == "Keeps"
    assert as_hook(Everything()).kept_as is None
