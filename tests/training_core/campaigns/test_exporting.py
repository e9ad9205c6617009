from pathlib import Path

import pytest

from tests.training_core.export.small_ensemble import make_ensemble, small_spec
from training_core.campaigns.exporting import ExportConfig, export_model
from training_core.errors import ConfigError


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_ensemble(tmp_path_factory.mktemp("made"), small_spec()).path)


@pytest.mark.parametrize("name", ["..", "../out", "/etc/out", "a/b", ".hidden", "a b", "a\0b"])
def test_a_form_cannot_write_outside_of_the_stores_exports(ensemble: str, tmp_path: Path, name: str):
    with pytest.raises(ConfigError, match="is no name for a folder"):
        export_model(ExportConfig(model=ensemble, name=name), tmp_path / "store")
    assert not (tmp_path / "store" / "exports").exists()


def test_a_bundle_that_is_there_is_not_written_over(ensemble: str, tmp_path: Path):
    (tmp_path / "exports" / "mine").mkdir(parents=True)
    with pytest.raises(ConfigError, match="is there already"):
        export_model(ExportConfig(model=ensemble, name="mine"), tmp_path)


@pytest.mark.slow
def test_the_bundle_goes_to_the_store_under_the_models_name(ensemble: str, tmp_path: Path):
    report = export_model(ExportConfig(model=ensemble), tmp_path)
    (folder,) = (tmp_path / "exports").iterdir()
    assert report.folder == str(folder) and folder.name.endswith("ensembles-0f3a")
    assert (folder / "inference.py").is_file()
