"""Whether a challenger takes over: the rules, the decision, and its reason as a sentence with figures."""

from typing import Literal

from training_core.campaigns.promotion.contest import Contest
from training_core.config import Config
from training_core.evaluation.statistics import Interval
from training_core.pages.tables import markdown_table
from training_core.quantities import NonNegativeFloat, OpenUnit, PositiveFloat
from training_core.tracking.registry import CHALLENGER

Ground = Literal["first", "better", "already", "same", "no gain", "chance", "pattern", "person", "unanswered"]


class PromotionConfig(Config):
    """Which version wants to take over, and what it has to show for it."""

    model: str
    """Name of the registered model."""
    challenger: str = CHALLENGER
    """Alias or version number of the version that is to take over."""
    dataset: str = ""
    """Data set with rows that neither was trained on, `name` or `name@version`; by default the latest version of the
    champion's own."""
    rows: Literal["unseen", "test"] = "unseen"
    """Every row that neither was trained on, or only those of them in the test split."""
    significance: OpenUnit = 0.05
    """Largest p-value, two-sided, at which a smaller loss per row is taken as more than chance."""
    min_gain: NonNegativeFloat = 0.0
    """The headline score must rise by more than this."""
    max_pattern_loss: NonNegativeFloat = 0.02
    """Under no availability pattern may the score fall by more than this, unless that may be chance."""
    approval: bool = False
    """Ask a person once the figures speak for it; nobody is asked about a challenger that lost."""
    approval_hours: PositiveFloat = 72.0
    """How long to wait for that person; then the promotion is refused."""
    why: str = ""
    """Reason, for the ledger."""
    by: str = ""
    """Who asks, for the ledger."""


class PromotionDecision(Config):
    """Yes or no, and why."""

    promote: bool
    ground: Ground
    """What decided."""
    reason: str
    """A sentence with the figures it rests on."""


class Approval(Config):
    """What a person said."""

    approve: bool
    reason: str = ""
    by: str = ""


def decide(contest: Contest | None, config: PromotionConfig) -> PromotionDecision:
    """What a contest says; None is that of a model that has no champion yet.

    The challenger wins when all three hold: its headline score is higher by more than `min_gain`; its loss per row is
    smaller with p < `significance`; and no pattern's score fell by more than `max_pattern_loss` with an adjusted p
    below `significance`.
    """
    if contest is None:
        return PromotionDecision(promote=True, ground="first", reason="first model of this name: there is no champion")
    figures = _figures(contest)
    gain, saved = contest.difference.difference, contest.loss
    if not gain > config.min_gain:
        wanted = f"more than {config.min_gain:g} is wanted" if config.min_gain else "it has to be higher"
        return _refuse("no gain", f"the {contest.metric} is not higher by enough ({wanted}): {figures}")
    if not (saved.difference > 0 and saved.p_value < config.significance):
        return _refuse("chance", f"the gain may be chance (p < {config.significance:g} is wanted): {figures}")
    for duel in sorted(contest.patterns, key=lambda duel: duel.difference.difference):
        lost = -duel.difference.difference
        if lost > config.max_pattern_loss and duel.adjusted_p_value < config.significance:
            return _refuse(
                "pattern",
                f"with only {duel.label} the {contest.metric} falls from {duel.champion:.4f} to {duel.challenger:.4f}, "
                f"by more than {config.max_pattern_loss:g} and not by chance (p = {duel.adjusted_p_value:.3g}), "
                f"though with everything {figures}",
            )
    return PromotionDecision(promote=True, ground="better", reason=f"the challenger is better: {figures}")


def with_approval(decision: PromotionDecision, approval: Approval | None) -> PromotionDecision:
    """The decision after a person was asked; None: nobody answered in time."""
    if approval is None:
        return _refuse("unanswered", f"nobody answered in time; {decision.reason}")
    words = f": {approval.reason}" if approval.reason else ""
    name = approval.by or "a person"
    if not approval.approve:
        return _refuse("person", f"{name} refused{words}; {decision.reason}")
    return decision.model_copy(update={"reason": f"{name} approved{words}; {decision.reason}"})


def contest_markdown(contest: Contest | None, decision: PromotionDecision, title: str) -> str:
    """A contest for people to decide by: the verdict, then scores, patterns and metrics as tables."""
    lines = [f"# {title}", "", decision.reason[0].upper() + decision.reason[1:] + ".", ""]
    if contest is None:
        return "\n".join(lines)
    left = (
        f", {contest.left_out} left out because one of both has seen them or their groups" if contest.left_out else ""
    )
    rows = f"{contest.num_rows} rows of {contest.dataset} ({contest.rows}){_known_groups(contest)}{left}"
    lines += [f"{rows}; resampled by {contest.unit}.", ""]
    duels = [
        (
            duel.label,
            f"{duel.champion:.4f}",
            f"{duel.challenger:.4f}",
            f"{duel.difference.difference:+.4f}",
            _interval(duel.difference.interval),
            f"{duel.adjusted_p_value:.3g}",
        )
        for duel in contest.patterns
    ]
    header = ("modalities", "champion", "challenger", contest.metric, "interval", "p, adjusted")
    lines += [*markdown_table(header, duels), ""]
    lines += markdown_table(("metric", "champion", "challenger", ""), contest.metric_rows())
    return "\n".join(lines) + "\n"


def _refuse(ground: Ground, reason: str) -> PromotionDecision:
    return PromotionDecision(promote=False, ground=ground, reason=reason)


def _figures(contest: Contest) -> str:
    """Both scores, the difference, and the test, in words."""
    found, saved = contest.difference, contest.loss
    units = "" if contest.unit == "row" else f" in {saved.num_units} {contest.unit}s"
    return (
        f"{contest.metric} {contest.challenger_score:.4f} against {contest.champion_score:.4f} "
        f"({found.difference:+.4f}, {_interval(found.interval)}), loss per row {-saved.difference:+.4f} "
        f"(p = {saved.p_value:.3g}) on {contest.num_rows} fresh rows{units} of {contest.dataset}"
        f"{_known_groups(contest)}"
    )


def _known_groups(contest: Contest) -> str:
    """That rows judge of whose groups one of both knows more."""
    return f", {contest.of_known_groups} of them of groups that one has seen before" if contest.of_known_groups else ""


def _interval(interval: Interval) -> str:
    return f"{interval.low:+.4f} to {interval.high:+.4f}"
