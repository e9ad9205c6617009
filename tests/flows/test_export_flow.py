import json
from pathlib import Path

import pytest

from flows.runtime import prefect_at
from tests.training_core.export.small_ensemble import make_ensemble, small_spec
from training_core.campaigns.exporting import ExportConfig


@pytest.mark.slow
def test_the_flow_writes_a_bundle_and_shows_how_it_compares(tmp_path: Path):
    ensemble = make_ensemble(tmp_path / "made", small_spec())
    with prefect_at(tmp_path / "store"):
        from prefect.client.orchestration import get_client

        from flows.export import export_model

        request = ExportConfig(model=str(ensemble.path), name="small", formats=("triton",))
        report = export_model(request, str(tmp_path / "store"))
        with get_client(sync_client=True) as client:
            (artifact,) = client.read_artifacts()
        schema = export_model.parameters.model_dump()
    assert report.folder == str(tmp_path / "store" / "exports" / "small")
    assert artifact.key == "export-parity"
    assert len(json.loads(str(artifact.data))) == len(report.parity[0].patterns)
    assert schema["required"] == ["request"]
