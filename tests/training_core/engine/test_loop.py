import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from training_core.engine.loop import Hook, TrainingState, Update, fit
from training_core.errors import DataError, DivergenceError


class Weight:
    """A model of one number."""

    def __init__(self) -> None:
        self.value = 0.0


class AddMean(Update[Weight, list[float]]):
    """An update that adds a batch's mean to the weight and reports it as the loss."""

    def __init__(self, problem: str | None = None) -> None:
        self.problem = problem
        self.started = 0

    def start(self, model: Weight) -> None:
        self.started += 1

    def step(self, model: Weight, batch: list[float]) -> Mapping[str, Tensor]:
        mean = sum(batch) / len(batch)
        model.value += mean
        return {"loss": torch.tensor(mean)}

    def check(self, model: Weight) -> str | None:
        return self.problem


class Recorder(Hook):
    """Writes down every event."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def on_training_start(self, state: TrainingState, model: Weight) -> None:
        self.events.append("training start")

    def on_epoch_start(self, state: TrainingState, model: Weight) -> None:
        self.events.append(f"epoch {state.epoch} start")

    def on_batch_end(self, state: TrainingState, model: Weight) -> None:
        self.events.append(f"step {state.step}")

    def on_epoch_end(self, state: TrainingState, model: Weight) -> None:
        self.events.append(f"epoch {state.epoch} end {state.metrics['training/loss']}")

    def on_training_end(self, state: TrainingState, model: Weight) -> None:
        self.events.append("training end")


def test_hooks_hear_every_event_in_order() -> None:
    recorder, update = Recorder(), AddMean()
    fit(Weight(), [[1.0], [3.0]], update, [recorder], epochs=2)
    epoch = ["epoch {} start", "step {}", "step {}", "epoch {} end 2.0"]
    expected = [text.format(n) for text, n in zip(epoch * 2, (1, 1, 2, 1, 2, 3, 4, 2), strict=True)]
    assert recorder.events == ["training start", *expected, "training end"]
    assert update.started == 1


def test_epoch_metrics_are_means_over_rows_not_over_batches() -> None:
    history = fit(Weight(), [[1.0, 1.0, 1.0], [5.0]], AddMean(), epochs=1)
    assert history.epochs == ({"training/loss": 2.0},)


def test_history_tells_steps_reason_and_curves() -> None:
    history = fit(Weight(), [[1.0], [2.0]], AddMean(), epochs=3)
    assert history.num_steps == 6
    assert history.stop_reason == "all 3 epochs done"
    assert history.best_epoch is None
    assert history.curve("training/loss") == [(1, 1.5), (2, 1.5), (3, 1.5)]
    assert history.curve("validation/loss") == []


def test_a_hook_stops_training_in_the_middle_of_an_epoch() -> None:
    class StopAfter(Hook):
        def on_batch_end(self, state: TrainingState, model: Weight) -> None:
            if state.step == 3:
                state.stop_reason = "time is up"

    model = Weight()
    history = fit(model, [[1.0], [2.0]], AddMean(), [StopAfter()], epochs=5)
    assert history.stop_reason == "time is up"
    assert history.num_steps == 3
    assert model.value == 4.0
    assert len(history.epochs) == 2


def test_metrics_a_hook_adds_are_kept_and_seen_by_later_hooks() -> None:
    class Adds(Hook):
        def on_epoch_end(self, state: TrainingState, model: Weight) -> None:
            state.metrics["validation/loss"] = 7.0

    class Sees(Hook):
        seen = 0.0

        def on_epoch_end(self, state: TrainingState, model: Weight) -> None:
            self.seen = state.metrics["validation/loss"]

    sees = Sees()
    history = fit(Weight(), [[1.0]], AddMean(), [Adds(), sees], epochs=1)
    assert sees.seen == 7.0
    assert history.curve("validation/loss") == [(1, 7.0)]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_non_finite_loss_names_learner_epoch_step_and_remedy(bad: float) -> None:
    recorder = Recorder()
    with pytest.raises(DivergenceError) as caught:
        fit(Weight(), [[1.0], [bad], [1.0]], AddMean(), [recorder], epochs=2, name="tabular_mlp on a+b")
    message = str(caught.value)
    assert message.startswith(f"tabular_mlp on a+b: loss became {bad} at epoch 1, step 2;")
    assert "training.lr" in message
    assert not any("end" in event for event in recorder.events), "no hook may see the weights of a diverged epoch"


def test_a_model_found_broken_after_an_epoch_ends_training() -> None:
    with pytest.raises(DivergenceError, match="model: after epoch 1 parameter 'w' is not finite; lower"):
        fit(Weight(), [[1.0]], AddMean(problem="parameter 'w' is not finite"), epochs=2)


def test_an_empty_stream_is_an_error() -> None:
    with pytest.raises(DataError, match="no batch in epoch 1"):
        fit(Weight(), [], AddMean(), epochs=1)
