"""What a training came to."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from training_core.engine.loop import EpochResult, History, Hook, TrainingState


@dataclass(frozen=True)
class TrainingResults:
    """A training that is over; `results["best_val_loss"]` is `results.best_val_loss`."""

    best_epoch: int
    """The epoch (from 1) whose weights the model has now; the last one where nothing was validated."""
    best_val_loss: float | None
    """The validation loss of that epoch; None where nothing was validated."""
    total_time: float
    """Seconds that this call took; a training that went on from a checkpoint took longer in all."""
    final_metrics: Mapping[str, float]
    """The metrics of that epoch."""
    history: History
    """Metrics epoch by epoch, and why training ended."""
    epochs: tuple[EpochResult, ...]
    """What the epochs came to, with their times."""

    def __getitem__(self, name: str) -> Any:
        """A result by name.

        Raises:
            KeyError: there is none of that name.
        """
        if name not in self.__dataclass_fields__:
            raise KeyError(f"no result '{name}'; there is {', '.join(self.__dataclass_fields__)}")
        return getattr(self, name)

    @classmethod
    def of(cls, history: History, epochs: tuple[EpochResult, ...], seconds: float) -> "TrainingResults":
        """The results of a training with that history."""
        best = history.best_epoch or len(history.epochs)
        metrics = dict(history.epochs[best - 1]) if best else {}
        return cls(best, metrics.get("validation/loss"), seconds, metrics, history, epochs)


class EpochResults(Hook):
    """Keeps what every epoch came to. Place it after the hooks that add metrics."""

    def __init__(self) -> None:
        self._kept: list[EpochResult] = []

    @property
    def epochs(self) -> tuple[EpochResult, ...]:
        """The results so far."""
        return tuple(self._kept)

    def on_epoch_end(self, state: TrainingState, model: object) -> None:
        """Keep the epoch's result."""
        assert state.result is not None
        self._kept.append(state.result)

    def state_dict(self) -> dict[str, Any]:
        """The results, as plain values."""
        return {"epochs": [{**asdict(kept), "metrics": dict(kept.metrics)} for kept in self._kept]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._kept = [EpochResult(**kept) for kept in state["epochs"]]
