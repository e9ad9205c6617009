"""When a training is warned about."""

import math

import pytest

from training_core.engine.watching.alerts import AlertConfig, AlertWatch
from training_core.errors import ConfigError


def told(config: AlertConfig, **series: list[float]) -> list[tuple[str, int]]:
    watch = AlertWatch(config)
    length = len(next(iter(series.values())))
    alerts = [
        alert
        for epoch in range(1, length + 1)
        for alert in watch.observe(epoch, **{name: values[epoch - 1] for name, values in series.items()})
    ]
    return [(alert["type"], alert["epoch"]) for alert in alerts]


def test_a_loss_a_fifth_above_the_lowest_is_a_spike_also_when_it_creeps() -> None:
    assert told(AlertConfig(), validation_loss=[1.0, 1.2, 1.21]) == [("validation_loss_spike", 3)]
    assert told(AlertConfig(), validation_loss=[1.0, 1.1, 1.19, 1.3]) == [("validation_loss_spike", 4)]
    assert told(AlertConfig(), validation_loss=[2.0, 1.0, 1.1, 0.9]) == []


def test_negative_losses_have_their_margin_above() -> None:
    assert told(AlertConfig(), validation_loss=[-1.0, -0.81]) == []
    assert told(AlertConfig(), validation_loss=[-1.0, -0.79]) == [("validation_loss_spike", 2)]


def test_a_loss_that_is_not_finite_is_a_spike_and_is_not_the_lowest() -> None:
    assert told(AlertConfig(), validation_loss=[1.0, math.nan, 1.0, math.inf]) == [
        ("validation_loss_spike", 2),
        ("validation_loss_spike", 4),
    ]


def test_an_accuracy_that_falls_is_told() -> None:
    assert told(AlertConfig(), accuracy=[0.9, 0.86, 0.84, 0.95, 0.91]) == [("accuracy_drop", 3)]


def test_a_long_gradient_is_told_and_one_that_is_not_finite_too() -> None:
    assert told(AlertConfig(), gradient_norm=[10.0, 10.1, 1.0, math.nan]) == [
        ("gradient_norm", 2),
        ("gradient_norm", 4),
    ]


def test_there_is_one_warning_for_as_long_as_something_lasts_and_only_after_patience() -> None:
    norms = [11.0, 11.0, 11.0, 1.0, 11.0, 1.0, 11.0, 11.0]
    assert told(AlertConfig(), gradient_norm=norms) == [("gradient_norm", epoch) for epoch in (1, 5, 7)]
    assert told(AlertConfig(patience_epochs=2), gradient_norm=norms) == [("gradient_norm", epoch) for epoch in (2, 8)]


def test_a_warning_says_what_was_seen_and_what_was_expected() -> None:
    watch = AlertWatch(AlertConfig())
    watch.observe(1, validation_loss=1.0)
    (alert,) = watch.observe(2, validation_loss=1.5)
    assert alert == {
        "type": "validation_loss_spike",
        "epoch": 2,
        "value": 1.5,
        "limit": 1.2,
        "message": "epoch 2: validation loss 1.5 after 1, the lowest so far",
    }


def test_the_watch_goes_on_from_its_state() -> None:
    first, second = AlertWatch(AlertConfig(patience_epochs=2)), AlertWatch(AlertConfig(patience_epochs=2))
    first.observe(1, validation_loss=1.0)
    first.observe(2, validation_loss=2.0)
    second.load_state_dict(first.state_dict())
    assert len(second.observe(3, validation_loss=2.0)) == 1


def test_a_threshold_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="'accuracy_drop_threshold' is 0"):
        AlertConfig.parse({"accuracy_drop_threshold": 0}, "alerts")
