"""A challenger's case against the champion: the contest and what follows from it, or that all is done already."""

from pathlib import Path

from training_core.campaigns.evaluation.subject import find_model
from training_core.campaigns.promotion.changes import champion_of
from training_core.campaigns.promotion.contest import Contest, hold_contest
from training_core.campaigns.promotion.decide import PromotionConfig, PromotionDecision, decide
from training_core.campaigns.promotion.ledger import Ledger, LedgerEntry, crowning
from training_core.config import Config
from training_core.errors import ConfigError
from training_core.selection.ensemble import Ensemble
from training_core.tracking.registry import CHALLENGER, Registry


class Proposal(Config):
    """A challenger's case: small enough to pass between tasks and to show to a person."""

    request: PromotionConfig
    champion: int | None
    """Version that answers now; None: none does."""
    challenger: int
    """The champion itself where the promotion has been made before."""
    contest: Contest | None
    """None where there is no champion, or it is the challenger's twin."""
    decision: PromotionDecision

    @property
    def title(self) -> str:
        """What a person calls it."""
        over = f" over version {self.champion}" if self.champion not in (None, self.challenger) else ""
        return f"{self.request.model}: version {self.challenger}{over}"

    @property
    def asks(self) -> bool:
        """Whether a person has to be asked; not about what has been decided and done."""
        return self.request.approval and self.decision.promote and not self.is_made

    @property
    def is_made(self) -> bool:
        """Whether the promotion that is asked for has been made before."""
        return self.decision.ground == "already"


def made_before(config: PromotionConfig, ledger: Ledger, registry: Registry) -> Proposal | None:
    """The answer to a request for what is done: it names the champion, which was promoted; None for any other request.

    One for whoever is challenger is done where nobody is since the last decision promoted them.
    """
    versions, champion = registry.versions(ledger.model), champion_of(registry, ledger.model)
    decisions = [entry for entry in ledger.entries() if entry.stage == "done"]
    crowned = None if champion is None else crowning(decisions, champion)
    if champion is None or crowned is None or crowned.action not in ("first", "promoted"):
        return None
    if config.challenger == CHALLENGER:
        is_made = crowned is decisions[-1] and not any(CHALLENGER in one.aliases for one in versions)
    else:
        is_made = config.challenger == str(champion)
    if not is_made:
        return None
    decision = PromotionDecision(promote=True, ground="already", reason=told_again(crowned))
    return Proposal(request=config, champion=champion, challenger=champion, contest=crowned.contest, decision=decision)


def told_again(crowned: LedgerEntry) -> str:
    """The reason of a promotion, told to whoever asks for it once more."""
    return f"version {crowned.version} is the champion already; {crowned.reason}"


def proposed(config: PromotionConfig, store: Path, registry: Registry) -> Proposal:
    """A case against whoever is champion: both predict the same fresh rows.

    Raises:
        ConfigError: there is no such challenger, it is retired, or it is the champion.
        DataError: there is no fresh row to judge on; see `contest.hold_contest`.
        StorageError: the registry does not answer, or files of a model are damaged.
    """
    name, wanted = config.model, config.challenger
    if not wanted:
        raise ConfigError("`challenger` is empty; give an alias or a version number")
    challenger = registry.find(f"models:/{name}/{wanted}" if wanted.isdecimal() else f"models:/{name}@{wanted}")
    if challenger.retired:
        raise ConfigError(f"{challenger.uri} is retired ({challenger.why_retired}); name another version")
    champion = champion_of(registry, name)
    if champion is None:
        decision = decide(None, config)
        return Proposal(request=config, champion=None, challenger=challenger.version, contest=None, decision=decision)
    if challenger.version == champion:
        raise ConfigError(f"{challenger.uri} is the champion already; train a challenger, or name another version")
    old = find_model(f"models:/{name}/{champion}", store)
    new = find_model(challenger.uri, store)
    contest = None
    if old.artifact.sha256 == new.artifact.sha256:
        reason = f"version {challenger.version} holds the same ensemble as the champion, version {champion}"
        decision = PromotionDecision(promote=False, ground="same", reason=reason)
    else:
        dataset = config.dataset or Ensemble.load(old.artifact.path).manifest.dataset.partition("@")[0]
        contest = hold_contest(old, new, dataset, config.rows, store)
        decision = decide(contest, config)
    return Proposal(
        request=config, champion=champion, challenger=challenger.version, contest=contest, decision=decision
    )
