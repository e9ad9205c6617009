"""One trained model of a small stream, of which every test gets a copy to change."""

import shutil
from pathlib import Path

import pytest
from streamed_world import begin, train


@pytest.fixture(scope="session")
def watched_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("watched")
    train(place, begin(place))
    return place


@pytest.fixture
def place(watched_world: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(watched_world, tmp_path / "world"))


@pytest.fixture
def store(place: Path) -> Path:
    return place / "store"


@pytest.fixture
def model(store: Path) -> str:
    """The folder of the ensemble."""
    return str(next((store / "ensembles").iterdir()))
