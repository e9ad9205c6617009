"""Versions of a model side by side: where each comes from, how good it is, and what became of it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from training_core.campaigns.promotion.changes import open_model
from training_core.campaigns.promotion.ledger import LedgerEntry
from training_core.campaigns.recording import settings_path
from training_core.errors import ConfigError
from training_core.tracking import flat_params
from training_core.tracking.registry import ModelVersion, open_registry

if TYPE_CHECKING:
    import pandas as pd


def lineage(model: str, store: Path) -> "pd.DataFrame":
    """One row per version, the newest first.

    Columns: version, aliases, retired, created (UTC), parent, dataset, code, config_hash, run_id, sha256, size_bytes,
    score (the headline metric on the test split of its own run), metric, decided (the last decision about it), when,
    by, and why. What is not known is missing (NaN).

    Raises:
        ConfigError: there is no such model.
        StorageError: the registry does not answer, or the ledger does not read back.
    """
    import pandas as pd

    ledger, registry = open_model(store, model)
    last = {entry.version: entry for entry in ledger.entries() if entry.stage == "done"}
    return pd.DataFrame([_row(version, last.get(version.version)) for version in registry.versions(model)])


def compare_versions(model: str, versions: "tuple[int | str, ...]", store: Path) -> "pd.DataFrame":
    """What differs between versions: a row per property, metric and setting, a column per version.

    Scores are those of each version's own test split, which differ where their data do; `verbs.propose` compares two
    on the same rows. Settings that all share are left out.

    Args:
        model: name of the model.
        versions: numbers or aliases, two or more.
        store: folder of everything.

    Raises:
        ConfigError: there is no such model or version, or fewer than two were given.
        StorageError: the registry does not answer.
    """
    import pandas as pd

    if len(versions) < 2:
        raise ConfigError(f"a comparison needs two versions or more, got {len(versions)}")
    registry = open_registry(("mlflow",), store)
    uris = [f"models:/{model}/{one}" if str(one).isdecimal() else f"models:/{model}@{one}" for one in versions]
    columns: dict[str, dict[str, object]] = {}
    for found in map(registry.find, uris):
        shown = {"dataset": found.dataset, "parent": found.parent, "code": found.code, "size_bytes": found.size_bytes}
        columns[f"version {found.version}"] = {
            **shown,
            **{f"test/{name}": value for name, value in found.scores.items()},
            **{f"settings/{name}": value for name, value in _settings(found, store).items()},
        }
    table = pd.DataFrame(columns, dtype=object)
    table = table.where(table.notna(), None)
    differs = table.apply(lambda row: len(set(map(str, row))) > 1, axis=1)
    return table[differs | ~table.index.str.startswith("settings/")]


def _row(version: ModelVersion, entry: LedgerEntry | None) -> dict[str, object]:
    import pandas as pd

    return {
        "version": version.version,
        "aliases": ", ".join(version.aliases),
        "retired": version.retired,
        "created": pd.Timestamp(round(version.created * 1000), unit="ms", tz="UTC"),
        "parent": version.parent,
        "dataset": version.dataset,
        "code": version.code,
        "config_hash": version.config_hash,
        "run_id": version.run_id,
        "sha256": version.sha256,
        "size_bytes": version.size_bytes,
        "metric": version.metric,
        "score": version.scores.get(version.metric or ""),
        "decided": entry.action if entry else None,
        "when": pd.Timestamp(round(entry.time * 1000), unit="ms", tz="UTC") if entry else pd.NaT,
        "by": entry.by if entry else None,
        "why": (entry.why or entry.reason) if entry else None,
    }


def _settings(version: ModelVersion, store: Path) -> dict[str, str]:
    """Settings of the run that a version came from; none where the store has no record of it."""
    if version.run_id is None:
        return {}
    try:
        return flat_params(json.loads(settings_path(store, version.run_id).read_text()))
    except (OSError, ValueError):
        return {}
