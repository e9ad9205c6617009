"""One place for the numbers of a training: metrics per epoch, confidence, drift and warnings, as rows and a table."""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from training_core.engine.loop import Hook, TrainingState
from training_core.engine.watching.alerts import Alert, AlertConfig, AlertWatch
from training_core.engine.watching.drift import DriftMetrics, check_thresholds, measure_drift
from training_core.errors import DataError
from training_core.schema import Batch

if TYPE_CHECKING:
    import pandas as pd

_CONFIDENCES = ("top1_confidence", "top5_confidence", "entropy", "accuracy")

Log = Callable[[Mapping[str, float], int], None]
"""Is told metrics by name, and the epoch (or step) they belong to: the way to any tracker."""
Predict = Callable[[Any], tuple[Tensor, Tensor | None]]
"""Logits [N, C] of a model for some rows, always the same, and their labels int64 [N] or None."""


def confidence(logits: Tensor, labels: Tensor | None = None) -> dict[str, float]:
    """How sure class predictions are, as means over the rows; waits for the device.

    Args:
        logits: [N, C], N >= 1.
        labels: class codes int64 [N]: adds what confidence should have been.

    Returns:
        `top1_confidence`: the probability of the likeliest class; `top5_confidence`: of the five likeliest together;
        `entropy`: of the probabilities in nats, between 0 and log C. With labels also `accuracy` and
        `overconfidence`, the top-1 confidence less the accuracy.

    Raises:
        DataError: the shapes are others.
    """
    if logits.ndim != 2 or not len(logits) or (labels is not None and labels.shape != logits.shape[:1]):
        got = tuple(logits.shape) if labels is None else (tuple(logits.shape), tuple(labels.shape))
        raise DataError(f"confidence needs logits [N, C], N >= 1, and labels [N] or none; got {got}")
    log_probabilities = logits.detach().double().log_softmax(dim=-1)
    probabilities = log_probabilities.exp()
    top = probabilities.topk(min(5, probabilities.shape[1]), dim=-1).values
    entropy = torch.special.entr(probabilities).sum(dim=-1)  # 0 where a probability is 0
    rows = [top[:, 0], top.sum(dim=-1), entropy]
    if labels is not None:
        rows.append((logits.argmax(dim=-1) == labels).double())
    means = torch.stack(rows).mean(dim=-1).tolist()
    found: dict[str, float] = dict(zip(_CONFIDENCES, means, strict=False))
    if labels is not None:
        found["overconfidence"] = found["top1_confidence"] - found["accuracy"]
    return found


def logits_on(stream: Iterable[Batch]) -> Predict:
    """What `MetricsEngine` predicts with: a net's raw outputs [N, C] for all rows of `stream`, always in one order.

    The net is in evaluation mode meanwhile; with the targets as labels, where there are any.
    """

    @torch.no_grad()
    def predict(model: nn.Module) -> tuple[Tensor, Tensor | None]:
        was_training = model.training
        model.eval()
        outputs: list[Tensor] = []
        labels: list[Tensor] = []
        for batch in stream:
            outputs.append(model(batch.inputs, batch.available))
            if batch.target is not None:
                labels.append(batch.target.clone())  # a batch's tensors are only valid until the next
        model.train(was_training)
        return torch.cat(outputs), torch.cat(labels) if labels else None

    return predict


class MetricsEngine(Hook):
    """Keeps a row of metrics per epoch, watches for trouble, and tells `log` of everything.

    Alone: call `log_epoch` after every epoch. As a hook, after `Validation`, it takes the epoch's metrics by itself;
    with `predict` it also follows the confidence of class predictions, and how far they moved since the epoch before.
    """

    def __init__(
        self,
        drift_threshold_warning: float = 0.1,
        drift_threshold_critical: float = 0.2,
        alert_config: AlertConfig | None = None,
        log: Log | None = None,
        predict: Predict | None = None,
    ) -> None:
        """Start with nothing seen.

        Args:
            drift_threshold_warning: Jensen-Shannon divergence from which on a feature is affected.
            drift_threshold_critical: divergence from which on it is critical.
            alert_config: when to warn; the defaults of `AlertConfig` when None.
            log: told of every row and every scalar.
            predict: as a hook: what to follow predictions with, such as `logits_on(stream)`.

        Raises:
            ConfigError: the thresholds are not in order.
        """
        check_thresholds(drift_threshold_warning, drift_threshold_critical)
        self._warning, self._critical = drift_threshold_warning, drift_threshold_critical
        self._watch = AlertWatch(alert_config or AlertConfig())
        self._log = log
        self._predict = predict
        self._rows: list[dict[str, float]] = []
        self._alerts: list[Alert] = []
        self._probabilities: Tensor | None = None

    def log_epoch(
        self,
        epoch: int,
        train_metrics: Mapping[str, float],
        val_metrics: Mapping[str, float] | None = None,
        learning_rate: float | None = None,
        gradient_norm: float | None = None,
        epoch_duration: float | None = None,
        reference_profile: Mapping[str, Any] | None = None,
        current_profile: Mapping[str, Any] | None = None,
    ) -> DriftMetrics | None:
        """Take an epoch's numbers: a row of the table, warnings where they are due.

        Args:
            epoch: from 1.
            train_metrics: such as `loss`; in the row under `training/`.
            val_metrics: such as `loss` and `accuracy`, which are watched; in the row under `validation/`.
            learning_rate: at the end of the epoch.
            gradient_norm: mean norm of all gradients together, before clipping; watched.
            epoch_duration: seconds.
            reference_profile: numbers [N] per feature, to measure drift from.
            current_profile: numbers [M] per feature of this epoch.

        Returns:
            The drift, when both profiles are given. A critical one is also a warning.

        Raises:
            DataError: the profiles have no feature in common.
        """
        judged = dict(val_metrics or {})
        alone = {"learning_rate": learning_rate, "gradient_norm": gradient_norm, "epoch_seconds": epoch_duration}
        row = {
            **{f"training/{name}": value for name, value in train_metrics.items()},
            **{f"validation/{name}": value for name, value in judged.items()},
            **{name: value for name, value in alone.items() if value is not None},
        }
        alerts = self._watch.observe(epoch, judged.get("loss"), judged.get("accuracy"), gradient_norm)
        drift = None
        if reference_profile is not None and current_profile is not None:
            drift = measure_drift(reference_profile, current_profile, self._warning, self._critical)
            row["drift/js_divergence"] = drift.js_divergence
            if drift.status == "critical":
                message = f"epoch {epoch}: {drift.affected_features[0]} drifted by {drift.js_divergence:.3f}"
                alerts.append(
                    Alert(type="drift", epoch=epoch, value=drift.js_divergence, limit=self._critical, message=message)
                )
        self._add(epoch, row, alerts)
        return drift

    def log_scalar(self, name: str, value: float, step: int) -> None:
        """Pass one number on to `log`; it is not part of the table."""
        if self._log is not None:
            self._log({name: value}, step)

    def log_confidence(self, logits: Tensor, labels: Tensor | None = None, step: int | None = None) -> dict[str, float]:
        """Measure `confidence`, and pass it on to `log` when there is a step it belongs to; waits for the device."""
        found = confidence(logits, labels)
        if self._log is not None and step is not None:
            self._log({f"confidence/{name}": value for name, value in found.items()}, step)
        return found

    def has_alerts(self) -> bool:
        """Whether there was a warning."""
        return bool(self._alerts)

    def get_alerts(self) -> list[Alert]:
        """All warnings, the oldest first."""
        return list(self._alerts)

    def rows(self) -> list[dict[str, float]]:
        """The table, a dictionary per epoch: `epoch` and metrics by name."""
        return [dict(row) for row in self._rows]

    def to_frame(self) -> "pd.DataFrame":
        """The table, indexed by epoch; a metric an epoch did not have is NaN. Needs pandas."""
        import pandas as pd

        frame = pd.DataFrame(self._rows, columns=None if self._rows else ["epoch"])
        return frame.astype({"epoch": "int64"}).set_index("epoch")

    def on_epoch_end(self, state: TrainingState, model: Any) -> None:
        """Take the metrics of the epoch; predict, where there is something to predict with."""
        row = dict(state.metrics)
        if state.result is not None:
            row["epoch_seconds"] = state.result.epoch_duration_seconds
            if state.result.learning_rate is not None:
                row["learning_rate"] = state.result.learning_rate
        if self._predict is not None:
            row |= self._follow_predictions(*self._predict(model))
        alerts = self._watch.observe(
            state.epoch,
            row.get("validation/loss"),
            row.get("validation/accuracy", row.get("confidence/accuracy")),
            row.get("training/gradient_norm"),
        )
        self._add(state.epoch, row, alerts)

    def state_dict(self) -> dict[str, Any]:
        """The table, the warnings and what the next epoch is compared with."""
        return {
            "rows": self.rows(),
            "alerts": [dict(alert) for alert in self._alerts],
            "watch": self._watch.state_dict(),
            "probabilities": self._probabilities,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._rows = [dict(row) for row in state["rows"]]
        self._alerts = [Alert(**alert) for alert in state["alerts"]]
        self._watch.load_state_dict(state["watch"])
        self._probabilities = state["probabilities"]

    def _add(self, epoch: int, row: Mapping[str, float], alerts: Iterable[Alert]) -> None:
        self._rows.append({"epoch": epoch, **row})
        self._alerts += alerts
        if self._log is not None:
            self._log(dict(row), epoch)

    def _follow_predictions(self, logits: Tensor, labels: Tensor | None) -> dict[str, float]:
        """Confidence now, and the divergence of each class's probabilities from those of the epoch before.

        That is no reason for a warning: predictions are meant to move while a net learns.
        """
        row = {f"confidence/{name}": value for name, value in confidence(logits, labels).items()}
        probabilities = logits.detach().double().softmax(dim=-1).cpu()
        if self._probabilities is not None:
            before, after = (
                {str(number): column.numpy() for number, column in enumerate(table.unbind(dim=1))}
                for table in (self._probabilities, probabilities)
            )
            row["drift/predictions"] = measure_drift(before, after, self._warning, self._critical).js_divergence
        self._probabilities = probabilities
        return row
