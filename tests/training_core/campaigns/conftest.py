"""An empty registry, made once: its schema takes seconds, a copy of the file none."""

from pathlib import Path

import pytest

from training_core.tracking.mlflow import MLflowTracker


@pytest.fixture(scope="session")
def blank_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("blank")
    MLflowTracker(store, uri=f"sqlite:///{store / 'mlflow.db'}").connect()
    return store / "mlflow.db"
