"""What the monitor says about gradients, and what it costs."""

import io
import logging
import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from training_core.engine.loop import Hook, TrainingState, Update, fit
from training_core.engine.watching.gradient_monitor import GradientMonitor, check_gradient_health
from training_core.errors import ConfigError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        self.gate, self.spare = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))


def with_gradients(first: float, second: float, gate: float) -> Net:
    """A net whose parameters' gradients have these norms; `spare` has none."""
    net = Net()
    net.first.weight.grad = torch.full((2, 2), first / 2)
    net.second.weight.grad = torch.full((2, 2), second / 2)
    net.gate.grad = torch.tensor([gate])
    return net


class Scripted(Update[Net, Tensor]):
    """Gives the first layer's gradient the norms of a list, one per step, and clears them after the monitor looked."""

    def __init__(self, monitor: GradientMonitor, norms: list[float]) -> None:
        self.monitor, self.norms = monitor, iter(norms)

    def step(self, model: Net, batch: Tensor) -> Mapping[str, Tensor]:
        model.first.weight.grad = torch.full((2, 2), next(self.norms) / 2)
        self.monitor.observe(model)
        model.first.weight.grad = None
        return {"loss": torch.tensor(1.0)}


BATCHES = [torch.zeros(1)] * 4


def test_norms_are_those_of_each_parameter() -> None:
    health = check_gradient_health(with_gradients(3.0, 0.5, 0.25), threshold_max=1.0)
    assert (health.max_norm, health.min_norm) == (3.0, 0.25)
    assert health.mean_norm == pytest.approx(3.75 / 3)
    assert health.has_exploding_gradients
    assert health.exploding == ("first.weight",)
    assert not health.has_vanishing_gradients
    assert health.num_zero_gradients == 0


def test_vanishing_and_zero_gradients_are_named() -> None:
    health = check_gradient_health(with_gradients(1e-8, 0.0, 0.5))
    assert health.has_vanishing_gradients
    assert health.vanishing == ("first.weight",)
    assert health.zero == ("second.weight",)
    assert health.num_zero_gradients == 1
    assert not health.has_exploding_gradients


def test_gradients_that_are_not_finite_are_named_and_hide_no_other() -> None:
    health = check_gradient_health(with_gradients(math.nan, math.inf, 0.5))
    assert health.non_finite == ("first.weight", "second.weight")
    assert health.has_exploding_gradients
    assert health.max_norm == health.min_norm == health.mean_norm == 0.5


def test_a_huge_gradient_is_exploding_but_finite() -> None:
    """Its square is not, in float32."""
    health = check_gradient_health(with_gradients(1e30, 0.5, 0.5))
    assert health.non_finite == ()
    assert health.max_norm == pytest.approx(1e30)


def test_no_gradient_at_all_is_refused_with_what_to_do() -> None:
    with pytest.raises(ConfigError, match="call this after the backward pass, before they are cleared"):
        check_gradient_health(Net())


def test_a_monitor_used_alone_keeps_statistics() -> None:
    monitor = GradientMonitor()
    monitor.check_step(with_gradients(3.0, 0.05, 0.5))
    monitor.check_step(with_gradients(4.0, 0.0, 1e-20))
    statistics = monitor.get_statistics()
    assert statistics["check_count"] == 2
    assert statistics["max_norm_history"] == [3.0, 4.0]
    assert statistics["mean_norm_history"] == pytest.approx([3.55 / 3, 4.0 / 3])
    assert statistics["exploding"] == {"first.weight": 2}
    assert statistics["zero"] == {"second.weight": 1}
    assert statistics["vanishing"] == {"gate": 1}
    histogram = statistics["histogram"]
    counted = {edge: n for edge, n in zip(histogram["decades"], histogram["counts"], strict=False) if n}
    assert counted == {-12: 1, -2: 1, -1: 1, 0: 2}
    assert "histogram" not in GradientMonitor(log_distribution=False).get_statistics()


def test_only_every_so_many_updates_are_looked_at() -> None:
    monitor = GradientMonitor(check_interval=3)
    fit(Net(), BATCHES, Scripted(monitor, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]), [monitor], epochs=2)
    assert monitor.get_statistics()["max_norm_history"] == [1.0, 4.0, 7.0]


def test_an_epoch_s_metrics_tell_its_checks_and_a_critical_norm_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    monitor = GradientMonitor(check_interval=1)
    norms = [1.0, 2.0, 3.0, 6.0, 1.0, 40.0, 1.0, 1.0]
    with caplog.at_level(logging.WARNING):
        history = fit(Net(), BATCHES, Scripted(monitor, norms), [monitor], epochs=2, name="net")
    assert history.epochs[0] == {
        "training/loss": 1.0,
        "gradients/max_norm": 6.0,
        "gradients/min_norm": 1.0,
        "gradients/mean_norm": 3.0,
    }
    assert caplog.messages == ["net: epoch 2: a gradient norm of 40 (among first.weight); critical is 10"]


def test_training_stops_at_critical_gradients_only_when_asked_to() -> None:
    norms = [1.0, 40.0, 1.0, 1.0] * 2
    assert len(fit(Net(), BATCHES, Scripted(m := GradientMonitor(1), norms), [m], epochs=2).epochs) == 2
    monitor = GradientMonitor(1, stop_when_critical=True)
    history = fit(Net(), BATCHES, Scripted(monitor, norms), [monitor], epochs=2)
    assert history.stop_reason == "critical gradients: a gradient norm of 40 (among first.weight)"
    assert len(history.epochs) == 1


def test_the_monitor_goes_on_from_a_snapshot_in_the_middle_of_an_epoch() -> None:
    norms = [float(number) for number in range(1, 9)]

    def monitored(hook: GradientMonitor) -> dict[str, object]:
        for norm in norms[4:]:
            hook.observe(with_gradients(norm, 0.5, 0.5))
        state = TrainingState("net", 1)
        hook.on_epoch_end(state, None)
        return {**state.metrics, **hook.get_statistics()}

    whole = GradientMonitor(3)
    for norm in norms[:4]:
        whole.observe(with_gradients(norm, 0.5, 0.5))
    buffer = io.BytesIO()
    torch.save(whole.state_dict(), buffer)
    buffer.seek(0)
    resumed = GradientMonitor(3)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    assert monitored(resumed) == monitored(whole)


def test_a_monitor_is_silent_where_nothing_was_observed() -> None:
    state = TrainingState("net", 1, metrics={"training/loss": 1.0})
    GradientMonitor().on_epoch_end(state, None)
    assert state.metrics == {"training/loss": 1.0}
    assert GradientMonitor().get_statistics()["check_count"] == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"check_interval": 0}, "`check_interval` is 0; it must be at least 1 update"),
        ({"norm_threshold_warning": 20.0}, r"must grow from vanishing \(1e-07\) to warning \(20\) to critical \(10\)"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GradientMonitor(**settings)  # pyright: ignore[reportArgumentType]


def test_the_monitor_is_a_hook_that_listens_to_epochs_only() -> None:
    assert GradientMonitor.on_batch_end is Hook.on_batch_end
