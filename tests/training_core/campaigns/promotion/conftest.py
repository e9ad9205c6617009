"""A store with an empty registry."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def store(tmp_path: Path, blank_database: Path) -> Path:
    """A store with a registry in which nothing is registered."""
    place = tmp_path / "store"
    place.mkdir()
    shutil.copyfile(blank_database, place / "mlflow.db")
    return place
