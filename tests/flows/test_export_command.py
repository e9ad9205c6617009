import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.export_commands import app
from tests.training_core.export.small_ensemble import make_ensemble, small_spec
from training_core.artifacts import ArtifactRef


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> ArtifactRef:
    return make_ensemble(tmp_path_factory.mktemp("ensemble"), small_spec())


def export(*arguments: str | Path):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--out", "{here}"], "is there already"),
        (["--out", "{here}/new", "--format", "torchscript"], "'torchscript' is no export format"),
        (["--out", "{here}/new", "--check", "{here}/rows.txt"], "rows.txt"),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_code_2(ensemble: ArtifactRef, tmp_path: Path, arguments, says: str):
    (tmp_path / "rows.txt").write_text("1")
    given = [argument.format(here=tmp_path) for argument in arguments]
    done = export(ensemble.path, *given)
    assert done.exit_code == 2, done.output
    assert says in done.output.replace("\n", " ")
    assert not (tmp_path / "new").exists()


def test_a_damaged_ensemble_is_not_exported(tmp_path: Path):
    damaged = make_ensemble(tmp_path / "other", small_spec())
    (damaged.path / "ensemble.json").write_text("{}")
    done = export(damaged.path, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "ensemble.json" in done.output.replace("\n", "")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_command_writes_a_bundle_that_checks_itself(ensemble: ArtifactRef, tmp_path: Path):
    done = export(ensemble.path, "--out", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["formats"] == ["onnx"] and found["difference"]["ONNX"] <= 1e-5
    assert found["folder"] == str(tmp_path / "out")
    script = [
        sys.executable,
        "-E",
        "-s",
        str(tmp_path / "out" / "inference.py"),
        "--check",
        "--sha256",
        found["sha256"],
    ]
    assert subprocess.run(script, check=False).returncode == 0
