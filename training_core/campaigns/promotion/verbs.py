"""What can be done about who answers for a model: enter, contest, promote, refuse, go back, retire, put right.

Every verb that changes something takes the model's lock, first completes what a killed process left half-done, and
then writes an intent, the aliases, and that it is done, in this order; see `ledger`.
"""

import logging
from pathlib import Path
from typing import Literal

from training_core.campaigns.promotion.changes import (
    carry_out,
    champion_of,
    crown,
    entry_about,
    is_settled,
    open_model,
    put_right,
    timestamp,
)
from training_core.campaigns.promotion.contest import Contest
from training_core.campaigns.promotion.decide import (
    Approval,
    PromotionConfig,
    PromotionDecision,
    decide,
    with_approval,
)
from training_core.campaigns.promotion.ledger import (
    Action,
    Ledger,
    LedgerEntry,
    crowning,
    recorded_champion,
    succession,
)
from training_core.campaigns.promotion.proposal import Proposal, made_before, proposed, told_again
from training_core.config import Config
from training_core.errors import ConfigError, UserError
from training_core.tracking.registry import (
    CHALLENGER,
    CHAMPION,
    PARENT,
    PREVIOUS,
    RETIRED,
    ModelVersion,
    Registry,
    open_registry,
)

_log = logging.getLogger(__name__)


class Outcome(Config):
    """What became of it."""

    model: str
    action: Action
    version: int | None
    """That was promoted, refused, gone back to or retired."""
    champion: int | None
    """Version that answers now."""
    previous: int | None
    """Version that answered before."""
    reason: str
    why: str = ""
    by: str = ""
    contest: Contest | None = None

    @property
    def uri(self) -> str:
        """Of the champion."""
        return f"models:/{self.model}@{CHAMPION}"


def propose(config: PromotionConfig, store: Path) -> Proposal:
    """Put right what was left half-done, find champion and challenger, and let both predict the same fresh rows.

    Where the promotion that is asked for has been made, now or by a call that was killed before it could tell of it,
    that promotion is the answer.

    Raises:
        ConfigError: there is no such model or challenger, or the challenger is retired, or was made champion by other
            means than a promotion.
        DataError: there is no fresh row to judge on; see `contest.hold_contest`.
        StorageError: the registry does not answer, or files of a model are damaged.
    """
    ledger, registry = open_model(store, config.model)
    with ledger.locked():
        put_right(ledger, registry)
        made = made_before(config, ledger, registry)
    return made or proposed(config, store, registry)


def conclude(proposal: Proposal, store: Path, approval: Approval | None = None, flow_run: str = "") -> Outcome:
    """Promote or refuse, as the proposal decided and, where it has to be asked, a person.

    When another version has become champion since the proposal, its contest says nothing any more: it is held again;
    what a person approved is refused then, for they saw other figures. When the challenger itself has become champion,
    a yes is answered with the promotion that made it so, and a no is written down all the same.

    Args:
        proposal: see `propose`.
        store: folder of everything.
        approval: what the person said; None: nobody answered.
        flow_run: Prefect's id of the flow run, for the ledger.

    Raises:
        StorageError: the disk is full or the registry does not answer. Nothing is half-done for good: the next verb
            completes it.
    """
    config = proposal.request
    ledger, registry = open_model(store, config.model)
    with ledger.locked():
        put_right(ledger, registry)
        champion = champion_of(registry, config.model)
        decision = with_approval(proposal.decision, approval) if proposal.asks else proposal.decision
        if champion not in (proposal.champion, proposal.challenger) and not proposal.is_made:
            if proposal.asks:
                told = f"version {champion} has become champion meanwhile; ask again. Before that {decision.reason}"
                decision = PromotionDecision(promote=False, ground="person", reason=told)
            else:
                proposal = proposed(_pinned(proposal), store, registry)
                decision = proposal.decision
        challenger = registry.find(f"models:/{config.model}/{proposal.challenger}")
        crowned = crowning(ledger.entries(), challenger.version)
        if decision.promote and crowned and (champion == challenger.version or proposal.is_made):
            return _outcome(ledger, "promoted", crowned.model_copy(update={"reason": told_again(crowned)}))
        if challenger.retired:
            raise ConfigError(
                f"{challenger.uri} was retired meanwhile ({challenger.why_retired}); name another version"
            )
        meanwhile = "; it has become champion meanwhile, and stays so" if champion == challenger.version else ""
        shared = {
            "reason": decision.reason + meanwhile,
            "contest": proposal.contest,
            "why": config.why,
            "by": approval.by if approval and approval.by else config.by,
            "flow_run": flow_run,
        }
        if not decision.promote:
            refused = entry_about(challenger, "done", "refused", champion).model_copy(update=shared)
            return _outcome(ledger, "refused", ledger.append(refused))
        action = "first" if champion is None else "promoted"
        return _outcome(ledger, "promoted", crown(ledger, registry, challenger, action, champion, shared))


def promote(config: PromotionConfig, store: Path, approval: Approval | None = None, flow_run: str = "") -> Outcome:
    """`propose` and `conclude` in one: for notebooks and scripts."""
    return conclude(propose(config, store), store, approval, flow_run)


def rollback(
    model: str, store: Path, version: int | None = None, why: str = "", by: str = "", flow_run: str = ""
) -> Outcome:
    """Make a former champion answer again, at once and without a contest.

    By default the one before the present champion, by the ledger: doing so twice goes back two champions, but doing
    again what was killed on the way only completes it. A version given need not have been champion.

    Raises:
        ConfigError: there is no such model or version, nobody to go back to, or the version is champion or retired.
        StorageError: see `conclude`.
    """
    ledger, registry = open_model(store, model)
    with ledger.locked():
        completed = [entry for entry in put_right(ledger, registry) if entry.action == "rolled-back"]
        if completed and version in (None, completed[0].version):
            return _outcome(ledger, "rolled-back", completed[0])
        champion = champion_of(registry, model)
        target = _target(registry, model, succession(ledger.entries()), version)
        if target.version == champion:
            raise ConfigError(f"version {champion} of '{model}' is its champion already; name another version")
        if target.retired:
            raise ConfigError(f"{target.uri} is retired ({target.why_retired}); name another version")
        reason = f"went back from version {champion} to version {target.version}"
        shared = {"reason": reason, "why": why, "by": by, "flow_run": flow_run}
        return _outcome(ledger, "rolled-back", crown(ledger, registry, target, "rolled-back", champion, shared))


def retire(model: str, store: Path, why: str = "", by: str = "", flow_run: str = "") -> Outcome:
    """Say of a version that nobody is to use it any more: it loses its aliases and is never found as the latest.

    Args:
        model: `name@alias` or `models:/name/3`.
        store: folder of everything.
        why: reason, for the ledger.
        by: who says so.
        flow_run: Prefect's id of the flow run.

    Raises:
        ConfigError: there is no such version, or it is champion.
        StorageError: see `conclude`.
    """
    registry = open_registry(("mlflow",), store)
    if "@" not in model and not model.startswith("models:/"):
        raise ConfigError(f"say which version of '{model}' to retire, such as models:/{model}/3")
    name = registry.find(model).name
    ledger = Ledger(store, name)
    with ledger.locked():
        put_right(ledger, registry)
        found = registry.find(model)
        champion = champion_of(registry, name)
        if found.version == champion:
            raise ConfigError(f"{found.uri} is the champion; promote another version or roll back first")
        told = {"reason": f"retired version {found.version}", "why": why, "by": by, "flow_run": flow_run}
        before = [one for one in ledger.entries() if one.stage == "done" and one.action == "retired"]
        retired = next((one for one in reversed(before) if one.version == found.version), None)
        if not found.retired:
            aliases: dict[str, int | None] = dict.fromkeys(found.aliases)
            if PREVIOUS in aliases:
                line = [one for one in succession(ledger.entries()) if one != found.version]
                aliases[PREVIOUS] = next(iter(line[-2:-1]), None)
            change = {"aliases": aliases, "tags": {RETIRED: f"{timestamp()} {why}".strip()}}
            intent = entry_about(found, "intent", "retired", champion).model_copy(update=change | told)
            retired = carry_out(ledger, registry, ledger.append(intent))
        elif retired is None:  # by its tag alone
            told |= {"why": found.why_retired, "by": ""}
            retired = entry_about(found, "done", "retired", champion).model_copy(update=told)
        return _outcome(ledger, "retired", retired)


def enter(uri: str, store: Path, flow_run: str = "") -> Literal["champion", "challenger", ""]:
    """Give a newly registered version its place: the first of its name is champion, later ones are challenger.

    So `models:/name@champion` answers from the first training on. The champion that a challenger is made to follow is
    tagged as its parent. A version that has been decided upon already is left as it is.

    Returns:
        Its alias; "" when it was left as it is, or `uri` is no registered model's.

    Raises:
        ConfigError: there is no such version.
        StorageError: see `conclude`.
    """
    if not uri.startswith("models:/"):
        return ""
    registry = open_registry(("mlflow",), store)
    name = registry.find(uri).name
    ledger = Ledger(store, name)
    with ledger.locked():
        put_right(ledger, registry)
        found, champion = registry.find(uri), champion_of(registry, name)
        decided = any(entry.version == found.version for entry in ledger.entries())
        if found.version == champion or found.retired or decided:
            return ""
        if champion is None:
            reason = decide(None, PromotionConfig(model=name)).reason
            crown(ledger, registry, found, "first", None, {"reason": reason, "flow_run": flow_run})
            return "champion"
        if found.parent is None:
            registry.tag(name, found.version, {PARENT: f"models:/{name}/{champion}"})
        registry.set_alias(name, CHALLENGER, found.version)
        return "challenger"


def reconcile(store: Path, model: str) -> tuple[LedgerEntry, ...]:
    """Complete what a killed process left half-done, and note a champion that was set by other means.

    Returns:
        What was added to the ledger.

    Raises:
        ConfigError: there is no such model.
        StorageError: see `conclude`.
    """
    ledger, registry = open_model(store, model)
    if is_settled(ledger, registry):  # so that who only looks waits for nobody
        return ()
    with ledger.locked():
        return put_right(ledger, registry)


def reconcile_all(store: Path) -> tuple[LedgerEntry, ...]:
    """`reconcile` of every model that has a ledger; one that cannot be put right is left, with a warning.

    Returns:
        What was added to the ledgers.

    Raises:
        StorageError: the registry does not answer.
    """
    names, added = {path.parent.name for path in store.glob("registry/*/ledger.jsonl")}, list[LedgerEntry]()
    for model in names & set(open_registry(("mlflow",), store).models()) if names else ():
        try:
            added += reconcile(store, model)
        except UserError as error:
            _log.warning("%s: what was left half-done could not be put right: %s", model, error)
    return tuple(added)


def _pinned(proposal: Proposal) -> PromotionConfig:
    """The same request for the same version, wherever its alias points by now."""
    return proposal.request.model_copy(update={"challenger": str(proposal.challenger)})


def _target(registry: Registry, model: str, line: tuple[int, ...], version: int | None) -> ModelVersion:
    """The version to go back to."""
    if version is not None:
        return registry.find(f"models:/{model}/{version}")
    known = {one.version: one for one in registry.versions(model)}
    usable = [known[number] for number in line[:-1] if number in known and not known[number].retired]
    if not usable:
        raise ConfigError(f"'{model}' has no earlier champion to go back to; name a version (polychoir models {model})")
    return usable[-1]


def _outcome(ledger: Ledger, action: Action, entry: LedgerEntry) -> Outcome:
    """What an entry of the ledger says, and who answers now."""
    return Outcome(
        model=ledger.model,
        action=action,
        version=entry.version,
        champion=recorded_champion(ledger.entries()),
        previous=entry.previous,
        reason=entry.reason,
        why=entry.why,
        by=entry.by,
        contest=entry.contest,
    )
