"""A promotion killed at every step it takes, and two at once: nothing is lost, and nobody has to mend anything."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from registered_versions import proposal, register_versions

from training_core.campaigns.promotion import verbs
from training_core.campaigns.promotion.changes import champion_of
from training_core.campaigns.promotion.decide import Approval, PromotionConfig, PromotionDecision
from training_core.campaigns.promotion.ledger import Ledger
from training_core.campaigns.promotion.proposal import Proposal
from training_core.tracking import registry as registries
from training_core.tracking.mlflow_registry import MLflowRegistry
from training_core.tracking.registry import Registry

pytestmark = pytest.mark.slow


def in_child(action: Callable[[], object]) -> int:
    """Run in a process of its own, with a connection of its own; how it ended, below 0 for a signal."""
    child = os.fork()
    if not child:
        code = 1
        try:
            registries._registry_at.cache_clear()
            action()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(step: int, after: bool, patch: pytest.MonkeyPatch) -> list[int]:
    """Have the process end itself at its `step`-th change of the world, before or after making it."""
    taken = [0]

    def watched(original: Callable[..., object]) -> Callable[..., object]:
        def call(*given: object, **named: object) -> object:
            taken[0] += 1
            if taken[0] == step and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = original(*given, **named)
            if taken[0] == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    patch.setattr(Ledger, "append", watched(Ledger.append))
    patch.setattr(MLflowRegistry, "set_alias", watched(MLflowRegistry.set_alias))
    patch.setattr(MLflowRegistry, "tag", watched(MLflowRegistry.tag))
    return taken


def state(store: Path, registry: Registry) -> tuple[dict[str, int], list[tuple[str, int | None]]]:
    aliases = {alias: one.version for one in registry.versions("shoes") for alias in one.aliases}
    return aliases, [(one.action, one.version) for one in Ledger(store, "shoes").entries() if one.stage == "done"]


BEFORE = ({"champion": 2, "previous": 1, "challenger": 3}, [("first", 1), ("promoted", 2)])
PROMOTED = ({"champion": 3, "previous": 2}, [("first", 1), ("promoted", 2), ("promoted", 3)])
ROLLED_BACK = ({"champion": 1, "challenger": 3}, [("first", 1), ("promoted", 2), ("rolled-back", 1)])
LOST = PromotionDecision(promote=False, ground="no gain", reason="it is not better")
NUM_STEPS = 6  # the intent, up to three aliases, the tags, done


def world(store: Path) -> Registry:
    registry = register_versions(store, 3)
    verbs.enter("models:/shoes/1", store)
    verbs.conclude(proposal(1, 2), store)
    verbs.enter("models:/shoes/3", store)
    assert state(store, registry) == BEFORE
    return registry


def found_better(config: PromotionConfig, store: Path, registry: Registry) -> Proposal:
    """The case for the version that a request stands for, without a contest: there are no ensembles here."""
    champion = champion_of(registry, config.model)
    wanted = config.challenger
    version = registry.find(f"shoes@{wanted}" if wanted == "challenger" else f"models:/shoes/{wanted}").version
    return proposal(champion, version).model_copy(update={"request": config})


@pytest.mark.parametrize("challenger", ["challenger", "3"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", range(1, NUM_STEPS + 1))
def test_a_promotion_killed_at_any_step_is_whole_or_not_at_all_and_asked_for_again_is_told(
    store, monkeypatch, step, after, challenger
):
    registry = world(store)
    monkeypatch.setattr(verbs, "proposed", found_better)
    request = PromotionConfig(model="shoes", challenger=challenger, why="summer", by="ann", approval=True)
    yes = Approval(approve=True, by="bob")
    with monkeypatch.context() as patch:
        taken = killed_at(step, after, patch)
        assert in_child(lambda: verbs.promote(request, store, yes)) == -signal.SIGKILL
        assert taken == [0]  # in this process nothing happened
    nothing_written = step == 1 and not after
    if step % 2:  # whoever looks next completes it, be it this command or another
        verbs.reconcile(store, "shoes")
        assert state(store, registry) == (BEFORE if nothing_written else PROMOTED)
        assert verbs.reconcile(store, "shoes") == ()
    again = verbs.propose(request, store)
    assert again.asks == nothing_written, "whoever said yes is not asked again"
    outcome = verbs.conclude(again, store, yes if again.asks else None)
    assert (outcome.action, outcome.version, outcome.champion, outcome.previous) == ("promoted", 3, 3, 2)
    assert (outcome.why, outcome.by) == ("summer", "bob")
    assert ("is the champion already" in outcome.reason) != nothing_written
    assert state(store, registry) == PROMOTED


@pytest.mark.parametrize("step", range(1, 6))
def test_a_rollback_killed_and_asked_for_again_goes_back_once(store, monkeypatch, step):
    registry = world(store)
    with monkeypatch.context() as patch:
        killed_at(step, True, patch)
        assert in_child(lambda: verbs.rollback("shoes", store)) == -signal.SIGKILL
    if step == 5:  # killed after it was done: somebody who asks again goes back further, and is told there is nobody
        assert state(store, registry) == ROLLED_BACK
        return
    assert verbs.rollback("shoes", store).champion == 1
    assert state(store, registry) == ROLLED_BACK


def test_a_first_champion_killed_on_the_way_is_crowned_by_whoever_comes_next(store, monkeypatch):
    registry = register_versions(store, 2)
    with monkeypatch.context() as patch:
        killed_at(2, False, patch)
        assert in_child(lambda: verbs.enter("models:/shoes/1", store)) == -signal.SIGKILL
    assert verbs.enter("models:/shoes/2", store) == "challenger"
    assert state(store, registry) == ({"champion": 1, "challenger": 2}, [("first", 1)])


def test_two_promotions_at_once_happen_one_after_the_other(store, monkeypatch):
    """Both were proposed against version 1: the second finds another champion, and holds its contest again."""
    registry = register_versions(store, 3)
    verbs.enter("models:/shoes/1", store)
    again = store / "again"

    def contest_again(config: PromotionConfig, place: Path, registry: Registry) -> Proposal:
        again.write_text(config.challenger)
        return found_better(config, place, registry).model_copy(update={"decision": LOST})

    monkeypatch.setattr(verbs, "proposed", contest_again)
    children = []
    for challenger in (2, 3):
        children.append(os.fork())
        if not children[-1]:
            code = 1
            try:
                registries._registry_at.cache_clear()
                verbs.conclude(proposal(1, challenger), store)
                code = 0
            finally:
                os._exit(code)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    aliases, decided = state(store, registry)
    first, second = decided[1][1], int(again.read_text())
    assert {first, second} == {2, 3}
    assert aliases == {"champion": first, "previous": 1}
    assert decided == [("first", 1), ("promoted", first), ("refused", second)]
