import subprocess
import sys
from pathlib import Path

import pytest

from tests.training_core.export.small_ensemble import make_ensemble, small_spec

ROOT = Path(__file__).parents[3]
EXPORT = """
import resource, sys
from pathlib import Path
from training_core.artifacts import open_published
from training_core.errors import StorageError
from training_core.export.bundle import export_bundle

folder, out, limit = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    export_bundle(open_published(folder), out, ["onnx", "triton", "safetensors"])
except StorageError as error:
    print(error)
    sys.exit(3)
"""


@pytest.mark.slow
@pytest.mark.parametrize("limit", [100, 20_000])
def test_an_export_that_runs_out_of_space_leaves_nothing(tmp_path: Path, limit: int):
    """At the first small file, and in the model itself."""
    ensemble = make_ensemble(tmp_path / "made", small_spec())
    out = tmp_path / "bundles" / "small"
    command = [sys.executable, "-c", EXPORT, str(ensemble.path), str(out), str(limit)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "no space left to write" in done.stdout
    assert list((tmp_path / "bundles").iterdir()) == []
