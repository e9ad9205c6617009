"""Registered models: their URIs, what tells two packages apart, and what a package looks like on disk.

MLflow is handed in by `tracking.mlflow`, which alone imports it.
"""

import hashlib
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from training_core.errors import ConfigError
from training_core.tracking.protocol import ModelPackage

ENSEMBLE = "ensemble"
"""Name of the ensemble's directory among the artifacts of a package."""
_MAX_SIGNATURE_COLUMNS = 2000
"""MLflow checks an input cell by cell: 12,288 columns of 100 rows took 7 s, so wide models go without a signature."""
_URI = re.compile(r"models:/(?P<name>[^/:@'\x00-\x1f]+)(?:@(?P<alias>[\w\-]+)|/(?P<version>\d+)|/latest)")


def parse_model_uri(uri: str) -> tuple[str, str | None, str | None]:
    """Name, alias and version of a registered model; without the last two it is the latest version.

    Raises:
        ConfigError: `uri` is none of `models:/name/3`, `models:/name@champion`, `models:/name/latest`.
    """
    found = _URI.fullmatch(uri)
    if not found:
        raise ConfigError(f"'{uri}' is not the URI of a model; expected models:/name/3 or models:/name@champion")
    return found["name"], found["alias"], found["version"]


def model_uri(model: str) -> str:
    """A model as a person names it, as a URI: `shoes` is its latest version, `shoes@champion` that of an alias.

    What is a `models:/` URI already stays as it is.
    """
    if model.startswith("models:/"):
        return model
    return f"models:/{model}" if "@" in model else f"models:/{model}/latest"


def local_folder(location: str) -> Path | None:
    """The folder of artifacts that MLflow names, which may not be there; None where no folder of this machine is."""
    return Path(url2pathname(urlparse(location).path)) if location.startswith(("file:", "/")) else None


def package_sha256(package: ModelPackage) -> str:
    """SHA-256 of everything in a package: the ensemble, the code shipped with it, its interface, its requirements."""
    digest = hashlib.sha256()
    columns = [str(name) for name in package.example.columns]
    for part in (package.sha256, *columns, *package.outputs, *package.requirements):
        digest.update(part.encode() + b"\0")
    for root in (package.script, *package.code):
        for file in sorted(root.rglob("*.py")) if root.is_dir() else [root]:
            digest.update(file.relative_to(root.parent).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def save_package(
    mlflow: ModuleType, package: ModelPackage, folder: Path, model_id: str, run_id: str, tags: Mapping[str, str]
) -> None:
    """Write `package` as an MLflow model, for a client to upload: `log_model` would need MLflow's global state."""
    signature = example = None
    if package.example.shape[1] <= _MAX_SIGNATURE_COLUMNS:
        inputs = _optional_columns(mlflow, package.example.columns)
        signature = mlflow.models.ModelSignature(inputs, _optional_columns(mlflow, package.outputs))
        example = package.example
    mlflow.pyfunc.save_model(
        path=str(folder),
        mlflow_model=mlflow.models.Model(model_id=model_id, model_uuid=model_id, run_id=run_id),
        python_model=str(package.script),
        artifacts={ENSEMBLE: str(package.folder)},
        code_paths=[str(path) for path in package.code] or None,
        signature=signature,
        input_example=example,
        pip_requirements=list(package.requirements),
        metadata=dict(tags),
    )


def ensemble_folder(mlflow: ModuleType, files: Path) -> Path | None:
    """Where the ensemble lies in the files of a model, None if it does not: MLflow keeps its directory's own name."""
    if not (files / "MLmodel").is_file():
        return None
    flavor = mlflow.models.Model.load(str(files)).flavors.get("python_function", {})
    place = flavor.get("artifacts", {}).get(ENSEMBLE, {}).get("path")
    return files / place if place and (files / place).is_dir() else None


def _optional_columns(mlflow: ModuleType, names: Iterable[str]) -> Any:
    """A schema in which every column may be absent and may hold anything.

    MLflow's number types refuse what a CSV file gives: integers where the example had fractions, and columns that are
    empty throughout. The model itself checks the values, and says more about them. The price: a scoring server takes
    such a model's input as JSON only, since it needs types to read a CSV body.
    """
    schema = mlflow.types.schema
    return schema.Schema([schema.ColSpec(schema.AnyType(), str(name), required=False) for name in names])


def forget_unused_code(code: Path) -> None:
    """Take a model's own copy of the library off `sys.path` again when this process already runs another copy.

    MLflow puts it first and leaves it there; a child process started with this path would import the model's old
    copy instead of the code its parent runs.
    """
    package = Path(__file__).parents[2]
    if package != code.resolve():
        sys.path[:] = [entry for entry in sys.path if not entry or Path(entry).resolve() != code.resolve()]
