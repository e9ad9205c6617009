import pytest
from registered_versions import contest

from training_core.campaigns.promotion.decide import (
    Approval,
    PromotionConfig,
    contest_markdown,
    decide,
    with_approval,
)

CONFIG = PromotionConfig(model="shoes")


def test_the_first_of_its_name_needs_no_contest():
    found = decide(None, CONFIG)
    assert (found.promote, found.ground) == (True, "first")
    assert "first model" in found.reason


def test_a_better_challenger_wins_with_figures():
    found = decide(contest(gain=0.02, saved=0.05, p_value=0.001), CONFIG)
    assert (found.promote, found.ground) == (True, "better")
    for part in ("accuracy 0.9200 against 0.9000", "+0.0200", "-0.0500", "p = 0.001", "500 fresh rows", "shoes@1f3a"):
        assert part in found.reason


@pytest.mark.parametrize(
    ("held", "changes", "ground"),
    [
        (contest(gain=0.0), {}, "no gain"),
        (contest(gain=-0.1, saved=-0.2), {}, "no gain"),
        (contest(gain=0.02), {"min_gain": 0.02}, "no gain"),
        (contest(gain=float("nan")), {}, "no gain"),
        (contest(p_value=0.05), {}, "chance"),
        (contest(p_value=float("nan")), {}, "chance"),
        (contest(saved=-0.01), {}, "chance"),
        (contest(pattern=(-0.03, 0.01)), {}, "pattern"),
    ],
)
def test_a_challenger_that_lacks_one_of_three_things_is_refused(held, changes, ground):
    found = decide(held, CONFIG.model_copy(update=changes))
    assert (found.promote, found.ground) == (False, ground)


@pytest.mark.parametrize(("change", "p_value"), [(-0.03, 0.06), (-0.02, 0.001), (-0.019, 0.001), (0.2, 0.001)])
def test_a_pattern_that_loses_little_or_by_chance_is_no_reason(change, p_value):
    assert decide(contest(pattern=(change, p_value)), CONFIG).promote


def test_a_person_has_the_last_word_and_is_named():
    yes = decide(contest(), CONFIG)
    approved = with_approval(yes, Approval(approve=True, reason="looks right", by="ann"))
    assert approved.promote
    assert approved.reason.startswith("ann approved: looks right; the challenger is better")
    refused = with_approval(yes, Approval(approve=False, by=""))
    assert (refused.promote, refused.ground) == (False, "person")
    assert refused.reason.startswith("a person refused; ")
    silent = with_approval(yes, None)
    assert (silent.promote, silent.ground) == (False, "unanswered")


def test_the_page_for_a_person_shows_every_pattern_and_cannot_be_broken_out_of():
    held = contest(pattern=(-0.03, 0.01))
    odd = held.patterns[1].model_copy(update={"available": ("<b>|x|\n",)})
    page = contest_markdown(
        held.model_copy(update={"patterns": (held.patterns[0], odd)}), decide(held, CONFIG), "shoes: version 2"
    )
    assert "# shoes: version 2" in page
    assert "| left+right | 0.9000 | 0.9200 | +0.0200 |" in page
    assert "&lt;b&gt;\\|x\\|" in page
    assert "| log_loss | 0.4000 | 0.3500 | better |" in page
    assert "40 left out" in page
    assert "First model" in contest_markdown(None, decide(None, CONFIG), "shoes: version 1")
