"""The rules of the house that no linter knows: file sizes, names, nothing done at import, the shape of recipes."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("deployments", "flows", "tasks", "training_core")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
EVERYTHING = sorted([*SOURCES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])
MAX_LINES = 400
EMPTY_NAMES = {"utils", "util", "helpers", "helper", "misc", "common", "shared", "stuff"}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", EVERYTHING, ids=relative)
def test_no_file_is_longer_than_the_wall(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", EVERYTHING, ids=relative)
def test_no_module_is_named_after_nothing(path: Path) -> None:
    assert not EMPTY_NAMES & {path.stem, *path.relative_to(ROOT).parts[:-1]}


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_a_module_says_what_it_is_for(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring, "no module docstring"
    assert len(docstring.splitlines()[0]) > 20


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_a_module_does_no_work_when_it_is_imported(path: Path) -> None:
    """Definitions, constants, and the guarded entry point of a script; no bare calls, loops or context managers."""
    if path.name == "pyfunc_model.py":  # a script that MLflow runs to get the model
        return
    for statement in ast.parse(path.read_text()).body:
        bare_call = isinstance(statement, ast.Expr) and not isinstance(statement.value, ast.Constant)
        registers = bare_call and ast.unparse(statement).startswith("_StrictLoader.add_constructor")
        working = isinstance(statement, ast.For | ast.While | ast.With | ast.Try)
        assert registers or not (bare_call or working), f"line {statement.lineno}: {ast.unparse(statement)[:60]}"


def test_every_recipe_has_the_same_files() -> None:
    recipes = [path for path in (ROOT / "training_core" / "recipes").iterdir() if (path / "__init__.py").exists()]
    assert recipes
    for recipe in recipes:
        assert {"__init__.py", "config.py", "train.py"} <= {path.name for path in recipe.iterdir()}, recipe.name
