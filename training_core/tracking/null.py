"""A tracker that records nothing."""

from collections.abc import Mapping
from pathlib import Path

from training_core.errors import ConfigError
from training_core.tracking.protocol import (
    ModelPackage,
    ResolvedModel,
    RunRecord,
    RunStatus,
    TrackedDataset,
    new_run_id,
)


class NullTracker:
    """Accepts everything and keeps nothing; run ids are still unique."""

    location = "nowhere"

    def connect(self) -> None:
        """Nothing to prepare."""

    def start(
        self,
        name: str,
        *,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        dataset: TrackedDataset | None = None,
        run_id: str | None = None,
    ) -> str:
        """The run's id."""
        return run_id or new_run_id()

    def log_run(self, parent_id: str, record: RunRecord, run_id: str | None = None) -> str:
        """The run's id."""
        return run_id or new_run_id()

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int = 0) -> None:
        """Forget the values."""

    def log_text(self, run_id: str, text: str, name: str) -> None:
        """Forget the text."""

    def log_artifact(self, run_id: str, path: Path, folder: str = "") -> None:
        """Leave the file where it is."""

    def finish(self, run_id: str, status: RunStatus = "FINISHED") -> None:
        """Nothing to end."""

    def log_ensemble(self, run_id: str, package: ModelPackage) -> str | None:
        """None: there is no registry; the ensemble's directory is the model."""
        return None

    def resolve_model(self, uri: str) -> ResolvedModel:
        """Always refused.

        Raises:
            ConfigError: there is no registry.
        """
        raise ConfigError(f"cannot look up '{uri}': tracking is off; give the ensemble's directory instead")
