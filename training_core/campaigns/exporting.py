"""Exporting what a store's registry names, into the store: the form in which a flow asks for a bundle."""

import re
from pathlib import Path

from training_core.campaigns.prediction import find_ensemble
from training_core.config import Config
from training_core.errors import ConfigError
from training_core.export.bundle import ExportFormat, ExportReport, export_bundle

_NAME = re.compile(r"[\w][\w.\-]*")


class ExportConfig(Config):
    """Which model becomes a bundle."""

    model: str
    """models:/NAME/VERSION, NAME@ALIAS, a model's name (its newest version), or an ensemble's folder."""
    name: str = ""
    """Of the bundle's folder in `exports`; by default the model's name and version. It must not be there yet."""
    formats: tuple[ExportFormat, ...] = ("onnx",)
    """ONNX is always among them."""


def export_model(request: ExportConfig, store: Path) -> ExportReport:
    """Write the bundle to `store/exports/<name>`; see `export.bundle.export_bundle`.

    Raises:
        ConfigError: there is no such model, the name is none for a folder, or there is a bundle of that name.
        GateError: the bundle does not answer like the ensemble; nothing was published.
        StorageError: the ensemble does not read back, or the bundle cannot be written.
    """
    uri, ensemble = find_ensemble(request.model, store)
    name = request.name or re.sub(r"[^\w.\-]", "-", uri.removeprefix("models:/")).strip("-.")
    if not _NAME.fullmatch(name):  # it comes from a form that others may fill in: no way out of the store
        raise ConfigError(f"'{name}' is no name for a folder; expected letters, digits, '-', '_' and '.'")
    return export_bundle(ensemble, store / "exports" / name, request.formats)
