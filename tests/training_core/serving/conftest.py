"""Small ensembles, trained once for all tests of serving."""

from pathlib import Path

import pytest

from tests.training_core.export.small_ensemble import make_ensemble, small_spec
from training_core.schema import TaskSpec
from training_core.selection.ensemble import Ensemble


def trained(folder: Path, task: TaskSpec) -> Ensemble:
    return Ensemble.load(make_ensemble(folder, small_spec(task)).path)


@pytest.fixture(scope="session")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> Ensemble:
    return trained(tmp_path_factory.mktemp("classes"), TaskSpec.classification(["no", "yes", "perhaps"]))


@pytest.fixture(scope="session")
def multilabel(tmp_path_factory: pytest.TempPathFactory) -> Ensemble:
    return trained(tmp_path_factory.mktemp("labels"), TaskSpec.multilabel(["a", "b", "c"]))


@pytest.fixture(scope="session")
def regression(tmp_path_factory: pytest.TempPathFactory) -> Ensemble:
    return trained(tmp_path_factory.mktemp("values"), TaskSpec.regression(["up", "down"]))
