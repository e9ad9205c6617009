"""The import rules are alive: each is broken on purpose in a copy of the source, and must be caught."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("deployments", "flows", "tasks", "training_core")


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def copy_of_the_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("source")
    shutil.copy(ROOT / "pyproject.toml", root)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    return root


def test_the_source_keeps_every_import_rule(copy_of_the_source: Path) -> None:
    result = lint(copy_of_the_source)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("module", "statement", "contract"),
    [
        ("training_core/seeding.py", "import tasks", "Floors: imports go down only"),
        ("training_core/engine/loop.py", "import training_core.jobs", "Floors of the core"),
        ("training_core/learners/linear.py", "import training_core.data.splitting.bags", "Floors of the core"),
        ("training_core/jobs/run.py", "import prefect", "The core knows no orchestrator"),
        ("training_core/engine/loop.py", "import pandas", "bare GPU machine"),
        ("training_core/jobs/run.py", "import mlflow", "One door for trackers"),
        ("tasks/progress.py", "import zarr", "One door for files of data"),
        ("training_core/utils.py", "import json", "Floors of the core"),
    ],
)
def test_a_broken_rule_is_caught(copy_of_the_source: Path, module: str, statement: str, contract: str) -> None:
    path = copy_of_the_source / module
    before = path.read_text() if path.exists() else None
    path.write_text(f"{before or ''}\n{statement}\n")
    try:
        result = lint(copy_of_the_source)
    finally:
        path.unlink() if before is None else path.write_text(before)
    assert result.returncode != 0
    assert contract in result.stdout


def test_engine_learners_and_objectives_import_with_torch_numpy_and_pydantic_alone() -> None:
    """A bare GPU machine has nothing else; what is more is imported where it is used."""
    code = """
import importlib, importlib.abc, pkgutil, sys
heavy = {"mlflow", "pandas", "prefect", "psutil", "pyarrow", "rich", "safetensors", "scipy", "sklearn", "threadpoolctl",
         "typer", "yaml", "zarr"}
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in heavy:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
for floor in ("engine", "learners", "objectives"):
    package = importlib.import_module(f"training_core.{floor}")
    for module in pkgutil.iter_modules(package.__path__, f"training_core.{floor}."):
        importlib.import_module(module.name)
"""
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
