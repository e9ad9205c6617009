"""How a change of who answers survives being killed: intent, aliases, done; and how what is half-done is put right.

Call what changes something within `Ledger.locked`.
"""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from training_core.campaigns.promotion.ledger import (
    Action,
    Ledger,
    LedgerEntry,
    open_intent,
    recorded_champion,
    succession,
)
from training_core.jobs import code_version
from training_core.tracking.database import DATABASE, is_tracked_elsewhere
from training_core.tracking.registry import CHALLENGER, CHAMPION, PREVIOUS, ModelVersion, Registry, open_registry

_log = logging.getLogger(__name__)
_MAX_TAG = 400  # characters of a reason that a tag shows; the ledger has all of it


def open_model(store: Path, model: str) -> tuple[Ledger, Registry]:
    """The ledger of a model that there is, and the registry.

    Raises:
        ConfigError: there is no such model; says which there are.
        StorageError: the registry does not answer.
    """
    ledger, registry = Ledger(store, model), open_registry(("mlflow",), store)
    if not registry.versions(model):
        registry.find(model)
    return ledger, registry


def is_settled(ledger: Ledger, registry: Registry) -> bool:
    """Whether `put_right` has nothing to do."""
    entries = ledger.entries()
    return open_intent(entries) is None and recorded_champion(entries) == champion_of(registry, ledger.model)


def put_right(ledger: Ledger, registry: Registry) -> tuple[LedgerEntry, ...]:
    """Complete the change that a killed process began, and note a champion that was set by other means.

    Returns:
        What was added to the ledger.

    Raises:
        StorageError: the registry does not answer, or the ledger cannot be written.
    """
    added = []
    entries = ledger.entries()
    if (intent := open_intent(entries)) is not None:
        _log.warning("%s: completing what was begun: %s, version %s", ledger.model, intent.action, intent.version)
        added.append(carry_out(ledger, registry, intent))
        entries = (*entries, *added)
    expected, found = recorded_champion(entries), champion_of(registry, ledger.model)
    if found != expected:
        moved = LedgerEntry(
            stage="done",
            action="moved",
            model=ledger.model,
            version=found,
            previous=expected,
            aliases={CHAMPION: found},
            reason=f"the champion was changed from {_named(expected)} to {_named(found)} by other means",
            decided_with=code_version(),
        )
        added.append(ledger.append(moved))
    return tuple(added)


def crown(
    ledger: Ledger,
    registry: Registry,
    version: ModelVersion,
    action: Action,
    champion: int | None,
    told: Mapping[str, object],
) -> LedgerEntry:
    """Make a version champion, and the one before it in the succession previous.

    Args:
        ledger: of the model.
        registry: of the model.
        version: the new champion.
        action: "first", "promoted" or "rolled-back".
        champion: the old one.
        told: further fields of the ledger's entry.

    Returns:
        The entry that says it is done.
    """
    intent = entry_about(version, "intent", action, champion).model_copy(update=dict(told))
    line = succession((*ledger.entries(), intent.completed()))
    aliases = {PREVIOUS: next(iter(line[-2:-1]), None), CHAMPION: version.version}
    if CHALLENGER in version.aliases:
        aliases[CHALLENGER] = None
    tags = {
        "polychoir.champion_since": timestamp(),
        "polychoir.champion_after": "" if champion is None else f"models:/{ledger.model}/{champion}",
        "polychoir.champion_by": intent.by,
        "polychoir.champion_why": (intent.why or intent.reason)[:_MAX_TAG],
    }
    return carry_out(ledger, registry, ledger.append(intent.model_copy(update={"aliases": aliases, "tags": tags})))


def carry_out(ledger: Ledger, registry: Registry, intent: LedgerEntry) -> LedgerEntry:
    """Set what an intent says, however much of it is set already, and write that it is done.

    An intent about a version that somebody has deleted meanwhile is given up, so that it blocks nobody.
    """
    known = {one.version for one in registry.versions(intent.model)}
    if intent.version not in known:
        gone = {"action": "refused", "aliases": {}, "reason": f"version {intent.version} is gone; {intent.reason}"}
        return ledger.append(intent.completed().model_copy(update=gone))
    for alias, version in intent.aliases.items():
        registry.set_alias(intent.model, alias, version if version in known else None)
    registry.tag(intent.model, intent.version, intent.tags)
    return ledger.append(intent.completed())


def champion_of(registry: Registry, model: str) -> int | None:
    """The version that answers now; None when none does."""
    return next((one.version for one in registry.versions(model) if CHAMPION in one.aliases), None)


def champions(store: Path) -> tuple[str, ...]:
    """Names of the models of a store that have a champion, sorted; none where nothing is registered yet.

    Raises:
        StorageError: the registry does not answer.
    """
    if not is_tracked_elsewhere(store) and not (store / DATABASE).exists():
        return ()
    registry = open_registry(("mlflow",), store)
    return tuple(name for name in registry.models() if champion_of(registry, name) is not None)


def entry_about(
    version: ModelVersion, stage: Literal["intent", "done"], action: Action, champion: int | None
) -> LedgerEntry:
    """An entry with all that is known of a version."""
    return LedgerEntry(
        stage=stage,
        action=action,
        model=version.name,
        version=version.version,
        previous=champion,
        dataset=version.dataset,
        code=version.code,
        config_hash=version.config_hash,
        decided_with=code_version(),
    )


def timestamp() -> str:
    """Now, in UTC, as tags have it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _named(version: int | None) -> str:
    return "none" if version is None else f"version {version}"
