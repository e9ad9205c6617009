import pytest
from registered_versions import proposal, register_versions

from training_core.campaigns.promotion import verbs
from training_core.campaigns.promotion.changes import entry_about
from training_core.campaigns.promotion.decide import Approval, PromotionConfig
from training_core.campaigns.promotion.ledger import Ledger
from training_core.errors import ConfigError
from training_core.tracking.registry import RETIRED, Registry


def aliases(registry: Registry, name: str = "shoes") -> dict[str, int]:
    return {alias: one.version for one in registry.versions(name) for alias in one.aliases}


def decisions(store, name="shoes"):
    return [(one.action, one.version) for one in Ledger(store, name).entries() if one.stage == "done"]


def crowned(store, versions: int) -> Registry:
    """A model whose versions took over one after another."""
    registry = register_versions(store, versions)
    verbs.enter("models:/shoes/1", store)
    for version in range(2, versions + 1):
        verbs.enter(f"models:/shoes/{version}", store)
        verbs.conclude(proposal(version - 1, version), store)
    return registry


def test_the_first_version_is_champion_and_the_next_its_challenger(store):
    registry = register_versions(store, 3)
    assert verbs.enter("models:/shoes/1", store, flow_run="run-1") == "champion"
    assert verbs.enter("models:/shoes/2", store) == "challenger"
    assert verbs.enter("models:/shoes/3", store) == "challenger"
    assert aliases(registry) == {"champion": 1, "challenger": 3}
    assert registry.find("shoes@champion").version == 1
    assert [one.parent for one in registry.versions("shoes")] == ["models:/shoes/1", "models:/shoes/1", None]
    (intent, done) = Ledger(store, "shoes").entries()
    assert (intent.id, intent.stage, done.stage) == (done.id, "intent", "done")
    assert (done.action, done.flow_run, done.dataset, done.code) == ("first", "run-1", "shoes@1f3a", "0.1.0+abc")
    assert (done.config_hash, done.previous) == ("c" * 64, None)
    assert "first model" in done.reason


def test_entering_again_changes_nothing(store):
    registry = register_versions(store, 2)
    for _ in range(2):
        assert verbs.enter("models:/shoes/1", store) in {"champion", ""}
    assert verbs.enter("/some/folder/of/an/ensemble", store) == ""
    verbs.enter("models:/shoes/2", store)
    verbs.conclude(proposal(1, 2, promote=False), store)
    registry.set_alias("shoes", "challenger", None)
    assert verbs.enter("models:/shoes/2", store) == ""  # it was decided upon
    assert aliases(registry) == {"champion": 1}
    assert decisions(store) == [("first", 1), ("refused", 2)]


def test_a_promotion_moves_all_aliases_and_says_so_on_the_version(store):
    registry = crowned(store, 1)
    register_versions(store, 1)
    verbs.enter("models:/shoes/2", store)
    outcome = verbs.conclude(proposal(1, 2, why="summer", by="ann"), store, flow_run="run-2")
    assert (outcome.action, outcome.version, outcome.champion, outcome.previous) == ("promoted", 2, 2, 1)
    assert (outcome.why, outcome.by, outcome.reason) == ("summer", "ann", "as it was found")
    assert aliases(registry) == {"champion": 2, "previous": 1}
    tags = registry._tracker.client.get_model_version("shoes", "2").tags  # pyright: ignore[reportAttributeAccessIssue]
    assert tags["polychoir.champion_after"] == "models:/shoes/1"
    assert (tags["polychoir.champion_by"], tags["polychoir.champion_why"]) == ("ann", "summer")


def test_a_refusal_is_written_down_and_moves_nothing(store):
    registry = crowned(store, 1)
    register_versions(store, 1)
    verbs.enter("models:/shoes/2", store)
    outcome = verbs.conclude(proposal(1, 2, promote=False), store)
    assert (outcome.action, outcome.version, outcome.champion) == ("refused", 2, 1)
    assert aliases(registry) == {"champion": 1, "challenger": 2}
    assert decisions(store)[-1] == ("refused", 2)


@pytest.mark.parametrize(
    ("approval", "action"),
    [
        (Approval(approve=True, reason="fine", by="ann"), "promoted"),
        (Approval(approve=False, reason="no", by="ann"), "refused"),
        (None, "refused"),
    ],
)
def test_a_person_decides_where_one_is_asked(store, approval, action):
    crowned(store, 1)
    register_versions(store, 1)
    outcome = verbs.conclude(proposal(1, 2, approval=True, by="bot"), store, approval)
    assert outcome.action == action
    assert outcome.by == ("ann" if approval else "bot")
    assert Ledger(store, "shoes").entries()[-1].reason == outcome.reason


def test_what_was_approved_is_refused_when_the_champion_changed_meanwhile(store):
    registry = crowned(store, 2)
    register_versions(store, 1)
    outcome = verbs.conclude(proposal(1, 3, approval=True), store, Approval(approve=True, by="ann"))
    assert outcome.action == "refused"
    assert "version 2 has become champion meanwhile" in outcome.reason
    assert aliases(registry)["champion"] == 2


def test_the_same_promotion_twice_is_one(store):
    crowned(store, 1)
    register_versions(store, 1)
    first, second = (verbs.conclude(proposal(1, 2), store) for _ in range(2))
    assert (first.champion, second.champion, second.action) == (2, 2, "promoted")
    assert decisions(store) == [("first", 1), ("promoted", 2)]


def test_a_promotion_that_was_made_is_told_again_to_who_asks_again(store):
    crowned(store, 2)
    for challenger in ("challenger", "2"):
        again = verbs.propose(PromotionConfig(model="shoes", challenger=challenger, approval=True), store)
        assert (again.champion, again.challenger, again.asks, again.title) == (2, 2, False, "shoes: version 2")
        outcome = verbs.conclude(again, store)
        assert (outcome.action, outcome.version, outcome.previous) == ("promoted", 2, 1)
        assert outcome.reason == "version 2 is the champion already; as it was found"
    verbs.rollback("shoes", store)
    assert verbs.conclude(again, store).champion == 1, "what was told is not done again"
    for challenger, complaint in (("challenger", "no alias 'challenger'"), ("1", "is the champion already")):
        with pytest.raises(ConfigError, match=complaint):  # nobody promoted version 1: it was gone back to
            verbs.propose(PromotionConfig(model="shoes", challenger=challenger), store)
    assert decisions(store) == [("first", 1), ("promoted", 2), ("rolled-back", 1)]


@pytest.mark.parametrize("asked", [True, False])
def test_a_no_is_a_refusal_also_when_the_challenger_became_champion_meanwhile(store, asked):
    registry = crowned(store, 1)
    register_versions(store, 1)
    verbs.conclude(proposal(1, 2, by="bot"), store)
    case = proposal(1, 2, promote=asked, approval=asked, by="ann")
    outcome = verbs.conclude(case, store, Approval(approve=False, by="ann") if asked else None)
    assert (outcome.action, outcome.version, outcome.champion, outcome.by) == ("refused", 2, 2, "ann")
    assert outcome.reason.endswith("it has become champion meanwhile, and stays so")
    assert aliases(registry) == {"champion": 2, "previous": 1}
    assert decisions(store) == [("first", 1), ("promoted", 2), ("refused", 2)]
    told = verbs.conclude(proposal(1, 2, by="ann"), store)
    assert (told.action, told.by) == ("promoted", "bot"), "the promotion, not the last line of the ledger"


def test_retiring_what_is_retired_tells_who_did(store):
    crowned(store, 3)
    verbs.retire("models:/shoes/1", store, why="wrong prices", by="ann")
    register_versions(store, 1)
    verbs.conclude(proposal(3, 4, promote=False, by="bot"), store)
    again = verbs.retire("models:/shoes/1", store, why="once more", by="cid")
    assert (again.action, again.why, again.by, again.champion) == ("retired", "wrong prices", "ann", 3)


def test_what_was_retired_by_its_tag_alone_is_told_without_a_ledger(store):
    register_versions(store, 1).tag("shoes", 1, {RETIRED: "2026-01-01 wrong prices"})
    again = verbs.retire("models:/shoes/1", store, by="cid")
    assert (again.action, again.version, again.champion, again.by) == ("retired", 1, None, "")
    assert again.why == "2026-01-01 wrong prices"
    assert Ledger(store, "shoes").entries() == ()


def test_whoever_looks_completes_what_was_left_of_every_model(store, caplog):
    registry = crowned(store, 1)
    register_versions(store, 1)
    register_versions(store, 1, "hats")
    register_versions(store, 1, "somebody else's")
    assert verbs.reconcile_all(store) == ()
    assert not (store / "registry" / "hats").exists(), "who only looks leaves nothing"
    begun = entry_about(registry.find("models:/shoes/2"), "intent", "promoted", 1)
    Ledger(store, "shoes").append(begun.model_copy(update={"aliases": {"champion": 2}}))
    torn = Ledger(store, "hats").path
    torn.parent.mkdir()
    torn.write_text("no line of a ledger\n")
    (completed,) = verbs.reconcile_all(store)
    assert (completed.action, completed.version, aliases(registry)) == ("promoted", 2, {"champion": 2})
    assert "hats: what was left half-done could not be put right" in caplog.text


def test_going_back_twice_goes_back_two_champions(store):
    registry = crowned(store, 3)
    assert aliases(registry) == {"champion": 3, "previous": 2}
    first = verbs.rollback("shoes", store, why="complaints", by="ann")
    assert (first.action, first.version, first.champion, first.previous) == ("rolled-back", 2, 2, 3)
    assert aliases(registry) == {"champion": 2, "previous": 1}
    second = verbs.rollback("shoes", store)
    assert second.champion == 1
    assert aliases(registry) == {"champion": 1}
    with pytest.raises(ConfigError, match="no earlier champion"):
        verbs.rollback("shoes", store)
    assert decisions(store)[-2:] == [("rolled-back", 2), ("rolled-back", 1)]
    register_versions(store, 1)  # and on from there
    verbs.conclude(proposal(1, 4), store)
    assert aliases(registry) == {"champion": 4, "previous": 1}


def test_going_back_to_a_version_that_was_never_champion(store):
    registry = crowned(store, 2)
    register_versions(store, 1)
    assert verbs.rollback("shoes", store, version=3).champion == 3
    assert aliases(registry) == {"champion": 3, "previous": 1}
    for version, complaint in ((3, "champion already"), (9, "no version 9")):
        with pytest.raises(ConfigError, match=complaint):
            verbs.rollback("shoes", store, version=version)


def test_a_retired_version_is_never_gone_back_to_nor_promoted_nor_latest(store):
    registry = crowned(store, 3)
    register_versions(store, 1)
    verbs.enter("models:/shoes/4", store)
    outcome = verbs.retire("shoes@previous", store, why="wrong prices", by="ann")
    assert (outcome.action, outcome.version, outcome.champion) == ("retired", 2, 3)
    assert aliases(registry) == {"champion": 3, "previous": 1, "challenger": 4}
    verbs.retire("models:/shoes/4", store)
    assert aliases(registry) == {"champion": 3, "previous": 1}
    assert registry.find("shoes").version == 3
    assert registry.find("models:/shoes/2").retired
    assert "wrong prices" in registry.find("models:/shoes/2").why_retired
    with pytest.raises(ConfigError, match="is retired"):
        verbs.propose(PromotionConfig(model="shoes", challenger="4"), store)
    with pytest.raises(ConfigError, match="is retired"):
        verbs.rollback("shoes", store, version=2)
    assert verbs.rollback("shoes", store).champion == 1
    assert verbs.retire("models:/shoes/2", store).action == "retired"  # once more: nothing
    assert [one for one, _ in decisions(store)].count("retired") == 2


def test_a_champion_cannot_be_retired(store):
    crowned(store, 1)
    with pytest.raises(ConfigError, match="is the champion"):
        verbs.retire("shoes@champion", store)
    with pytest.raises(ConfigError, match="say which version"):
        verbs.retire("shoes", store)


def test_a_champion_set_by_other_means_is_noticed_and_can_be_gone_back_from(store):
    registry = crowned(store, 2)
    register_versions(store, 1)
    registry.set_alias("shoes", "champion", 3)
    (noticed,) = verbs.reconcile(store, "shoes")
    assert (noticed.action, noticed.version, noticed.previous) == ("moved", 3, 2)
    assert verbs.reconcile(store, "shoes") == ()
    assert verbs.rollback("shoes", store).champion == 2


def test_a_version_that_is_gone_blocks_nobody(store):
    registry = crowned(store, 1)
    register_versions(store, 2)
    ledger = Ledger(store, "shoes")
    begun = entry_about(registry.find("models:/shoes/2"), "intent", "promoted", 1)
    ledger.append(begun.model_copy(update={"aliases": {"champion": 2, "previous": 1}, "reason": "begun"}))
    registry._tracker.client.delete_model_version("shoes", "2")  # pyright: ignore[reportAttributeAccessIssue]
    (given_up,) = verbs.reconcile(store, "shoes")
    assert (given_up.action, given_up.stage) == ("refused", "done")
    assert "is gone" in given_up.reason
    assert verbs.conclude(proposal(1, 3), store).champion == 3


@pytest.mark.parametrize("model", ["../shoes", "sho'es", "shoes@champion", "models:/shoes/1", "a\nb", ""])
def test_hostile_names_lead_nowhere(store, model):
    register_versions(store, 1)
    before = sorted(store.parent.rglob("*"))
    for verb in (
        lambda: verbs.propose(PromotionConfig(model=model), store),
        lambda: verbs.rollback(model, store),
        lambda: verbs.reconcile(store, model),
    ):
        with pytest.raises(ConfigError):
            verb()
    assert sorted(store.parent.rglob("*")) == before


def test_an_unknown_model_leaves_no_folder_and_says_which_there_are(store):
    register_versions(store, 1)
    with pytest.raises(ConfigError, match=r"no model 'boots'.*: shoes"):
        verbs.rollback("boots", store)
    assert not (store / "registry").exists()
    with pytest.raises(ConfigError, match="no alias 'challenger'"):
        verbs.propose(PromotionConfig(model="shoes"), store)
