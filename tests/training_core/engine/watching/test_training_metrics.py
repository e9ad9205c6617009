"""The engine of metrics: alone, and as a hook."""

import io
import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from training_core.engine.hooks import Validation
from training_core.engine.loop import History, TrainingState, fit
from training_core.engine.updates.gradient import GradientUpdate
from training_core.engine.updates.optimizers import OptimizerConfig
from training_core.engine.watching.alerts import AlertConfig
from training_core.engine.watching.training_metrics import MetricsEngine, confidence, logits_on
from training_core.errors import ConfigError, DataError
from training_core.objectives import Supervised
from training_core.schema import Batch, TaskSpec

TASK = TaskSpec.classification(("a", "b", "c"))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 3))

    def forward(self, inputs: Mapping[str, Tensor], available: Tensor) -> Tensor:
        return self.layers(inputs["x"])


def rows(num_rows: int, seed: int) -> Batch:
    x = torch.randn(num_rows, 3, generator=torch.Generator().manual_seed(seed))
    return Batch({"x": x}, torch.ones(num_rows, 1, dtype=torch.bool), x.argmax(dim=1))


def train(engine: MetricsEngine, epochs: int = 4) -> History:
    torch.manual_seed(0)
    hooks = [Validation(Supervised(TASK), [rows(20, 1)], patience=9), engine]
    return fit(Net(), [rows(16, 0)], GradientUpdate(Supervised(TASK), OptimizerConfig(lr=0.1)), hooks, epochs=epochs)


def test_confidence_of_even_and_of_certain_predictions_has_a_closed_form() -> None:
    even = confidence(torch.zeros(4, 10))
    assert even == pytest.approx({"top1_confidence": 0.1, "top5_confidence": 0.5, "entropy": math.log(10)})
    certain = confidence(torch.tensor([[0.0, 1e4, 0.0]]), torch.tensor([2]))
    assert certain == {
        "top1_confidence": 1.0,
        "top5_confidence": 1.0,
        "entropy": 0.0,
        "accuracy": 0.0,
        "overconfidence": 1.0,
    }


def test_confidence_refuses_other_shapes() -> None:
    with pytest.raises(DataError, match=r"logits \[N, C\], N >= 1, and labels \[N\] or none; got \(\(2, 3\), \(3,\)\)"):
        confidence(torch.zeros(2, 3), torch.zeros(3, dtype=torch.long))
    with pytest.raises(DataError, match=r"got \(0, 3\)"):
        confidence(torch.zeros(0, 3))


def test_an_engine_used_alone_keeps_rows_and_tells_them() -> None:
    told: list[tuple[dict[str, float], int]] = []
    engine = MetricsEngine(log=lambda metrics, step: told.append((dict(metrics), step)))
    drift = engine.log_epoch(1, {"loss": 0.5}, {"loss": 0.4, "accuracy": 0.8}, 1e-3, 0.5, 12.0)
    assert drift is None
    row = {
        "training/loss": 0.5,
        "validation/loss": 0.4,
        "validation/accuracy": 0.8,
        "learning_rate": 1e-3,
        "gradient_norm": 0.5,
        "epoch_seconds": 12.0,
    }
    assert engine.rows() == [{"epoch": 1, **row}]
    engine.log_scalar("train/batch_loss", 0.45, step=100)
    engine.log_confidence(torch.zeros(2, 2), step=100)
    engine.log_confidence(torch.zeros(2, 2))
    sure = {"confidence/top1_confidence": 0.5, "confidence/top5_confidence": 1.0, "confidence/entropy": math.log(2)}
    assert told == [(row, 1), ({"train/batch_loss": 0.45}, 100), (pytest.approx(sure), 100)]


def test_the_table_has_an_epoch_per_row_and_gaps_where_a_metric_was_absent() -> None:
    engine = MetricsEngine()
    engine.log_epoch(1, {"loss": 0.5})
    engine.log_epoch(2, {"loss": 0.4}, {"loss": 0.6})
    frame = engine.to_frame()
    assert frame.index.tolist() == [1, 2]
    assert frame["training/loss"].tolist() == [0.5, 0.4]
    assert frame["validation/loss"].isna().tolist() == [True, False]
    assert len(MetricsEngine().to_frame()) == 0


def test_trouble_is_warned_about() -> None:
    engine = MetricsEngine(alert_config=AlertConfig(gradient_norm_threshold=5.0))
    engine.log_epoch(1, {"loss": 1.0}, {"loss": 1.0, "accuracy": 0.9}, gradient_norm=1.0)
    assert not engine.has_alerts()
    engine.log_epoch(2, {"loss": 1.0}, {"loss": 1.5, "accuracy": 0.8}, gradient_norm=6.0)
    assert engine.has_alerts()
    assert [alert["type"] for alert in engine.get_alerts()] == [
        "validation_loss_spike",
        "accuracy_drop",
        "gradient_norm",
    ]


def test_drift_from_a_reference_is_measured_and_a_critical_one_is_a_warning() -> None:
    draws = np.random.default_rng(0)
    reference = {"a": draws.normal(size=200), "b": draws.normal(size=200)}
    engine = MetricsEngine()
    same = engine.log_epoch(1, {"loss": 1.0}, reference_profile=reference, current_profile=reference)
    moved = engine.log_epoch(
        2, {"loss": 1.0}, reference_profile=reference, current_profile={**reference, "b": reference["b"] + 4}
    )
    assert same is not None
    assert moved is not None
    assert (same.status, same.js_divergence) == ("healthy", 0.0)
    assert (moved.status, moved.affected_features) == ("critical", ["b"])
    assert engine.rows()[1]["drift/js_divergence"] == moved.js_divergence
    assert [(alert["type"], alert["epoch"]) for alert in engine.get_alerts()] == [("drift", 2)]


def test_as_a_hook_it_takes_every_epoch_and_changes_nothing() -> None:
    engine = MetricsEngine(predict=logits_on([rows(7, 2), rows(5, 3)]))
    history = train(engine)
    assert history == train(MetricsEngine())
    table = engine.rows()
    assert [row["epoch"] for row in table] == [1, 2, 3, 4]
    for row, metrics in zip(table, history.epochs, strict=True):
        assert metrics.items() <= row.items()
        assert {"confidence/entropy", "confidence/accuracy", "epoch_seconds"} <= row.keys()
    assert ["drift/predictions" in row for row in table] == [False, True, True, True]


def test_predictions_are_made_in_evaluation_mode_for_all_rows() -> None:
    model = Net().train()
    logits, labels = logits_on([rows(7, 2), rows(5, 3)])(model)
    assert model.training
    model.eval()
    expected = torch.cat([model(batch.inputs, batch.available) for batch in (rows(7, 2), rows(5, 3))])
    assert torch.equal(logits, expected)
    assert labels is not None
    assert labels.tolist() == [*rows(7, 2).target.tolist(), *rows(5, 3).target.tolist()]  # pyright: ignore[reportOptionalMemberAccess]


def test_the_engine_goes_on_from_its_state() -> None:
    predict = logits_on([rows(12, 2)])
    whole, first, second = (MetricsEngine(predict=predict) for _ in range(3))

    def epochs(engine: MetricsEngine, numbers: range) -> None:
        for epoch in numbers:
            torch.manual_seed(epoch)
            state = TrainingState("net", 9, epoch=epoch, metrics={"validation/loss": float(epoch)})
            engine.on_epoch_end(state, Net())

    epochs(whole, range(1, 6))
    epochs(first, range(1, 4))
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    epochs(second, range(4, 6))
    assert second.rows() == whole.rows()
    assert second.get_alerts() == whole.get_alerts()
    assert whole.has_alerts()


def test_thresholds_are_checked_at_once() -> None:
    with pytest.raises(ConfigError, match="drift thresholds"):
        MetricsEngine(drift_threshold_warning=0.5)
