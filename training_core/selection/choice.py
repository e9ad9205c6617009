"""Which learners are trained on each bag, and why: decided before anything is trained, from what is known by then."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

from pydantic import field_validator

from training_core.config import Config
from training_core.data.splitting.bags import Bag, bag_features
from training_core.errors import ConfigError
from training_core.learners import LearnerBase, LearnerConfig, LearnerSettings
from training_core.quantities import PositiveInt, SearchChoices, SearchRange, format_bytes, format_seconds
from training_core.schema import DataSpec
from training_core.selection.cost_model import Cost, predict_cost
from training_core.variants import kinds

Strategy = Literal["accuracy", "speed", "memory", "balanced"]


class _Taste(NamedTuple):
    """How much each thing counts: quality (0..1) as it is, a tenfold of time or of memory as a loss of quality."""

    quality: float
    time: float
    memory: float


_TASTES: dict[Strategy, _Taste] = {
    "accuracy": _Taste(1.0, 0.0, 0.0),
    "speed": _Taste(0.2, 0.3, 0.0),
    "memory": _Taste(0.2, 0.0, 0.3),
    "balanced": _Taste(1.0, 0.1, 0.05),
}
_NEAR = 0.15
"""Utilities closer than this are as good as equal: a prior knows no better, and an ensemble gains by mixing kinds."""

_LONG_SECONDS = 300.0
_LONG_RATIO = 10.0
"""A kind that is predicted to take longer than both this many seconds and this many times the quickest one is not
trained on the same modalities again: the first errs in another way than the quick ones do, a second costs a dozen of
them."""


class SelectionConfig(Config):
    """How learners are chosen for the bags."""

    strategy: Annotated[Strategy, SearchChoices("accuracy", "speed", "memory", "balanced")] = "balanced"
    """What counts: expected accuracy, time to train, memory, or a balance of the three."""
    learners_per_bag: Annotated[PositiveInt, SearchRange(1, 4)] = 2
    """Learners trained on each bag, of different kinds; fewer where fewer kinds are eligible."""
    net_copies: Annotated[PositiveInt, SearchRange(1, 4)] = 1
    """Nets trained where one is chosen: the same modalities, but initial weights, validation rows and a draw of rows of
    their own (a deep ensemble: Lakshminarayanan et al. 2017, arXiv:1612.01474). They train together."""
    include: tuple[str, ...] = ()
    """Kinds of learner to choose from; all of them when empty."""

    @field_validator("include")
    @classmethod
    def _known_kinds(cls, include: tuple[str, ...]) -> tuple[str, ...]:
        for kind in include:
            if kind not in kinds(LearnerConfig):
                raise ValueError(f"unknown kind of learner '{kind}'; choose from {', '.join(kinds(LearnerConfig))}")
        return include


class Choice(Config):
    """One kind of learner to be trained on one bag."""

    bag: str
    learner: LearnerConfig
    num_copies: PositiveInt = 1
    """Learners of it to train."""
    reason: str
    """Why this one, in a sentence."""
    predicted_seconds: float
    """Of one copy, trained alone."""
    predicted_bytes: float
    runner_up: str | None = None
    """The kind that would have been taken otherwise."""


class _Candidate(NamedTuple):
    """An eligible kind for a bag. `utility` is relative to the cheapest and quickest eligible kind."""

    kind: str
    learner: LearnerBase
    cost: Cost
    utility: float

    @property
    def method(self) -> str:
        """What it does: the same for kinds that do the same."""
        return self.learner.method or self.kind


def choose_learners(
    bags: Sequence[Bag],
    spec: DataSpec,
    num_rows: int,
    epochs: int,
    settings: LearnerSettings,
    config: SelectionConfig,
    max_bytes: float | None = None,
) -> tuple[Choice, ...]:
    """The learners of every bag, in the order of the bags; the same arguments give the same choices.

    A kind's utility is its prior quality, less what its predicted time and memory weigh in the strategy. Of the kinds
    nearly as good as the best one, one whose method was used least so far is taken, so that over the bags an ensemble
    mixes methods, and of the kinds of a method the one used least. A bag gets the same method twice only when no
    other is left; so does a bag with the rows, modalities and columns of another get a kind that would learn the same.
    Unless accuracy alone counts, a kind that takes many times as long as others is not trained on the same modalities
    again; a bag for which nothing else is left gets no learner.

    Args:
        bags: to choose for.
        spec: of the data set.
        num_rows: rows in a bag.
        epochs: at most, for nets.
        settings: how each kind is built.
        config: what counts.
        max_bytes: kinds that are predicted to take more memory are not eligible; None: no limit.

    Raises:
        ConfigError: no kind is eligible for a bag; its modalities and each kind's reason are named.
    """
    used: Counter[str] = Counter()
    learnt: dict[tuple[object, ...], set[str]] = {}
    trained: dict[tuple[str, ...], set[str]] = {}
    choices: list[Choice] = []
    for bag in bags:
        left = _eligible(bag, spec, num_rows, epochs, settings, config, max_bytes)
        num_eligible = len(left)
        taken: set[str] = set()
        same = learnt.setdefault((bag.modalities, bag.row_draw, bag.feature_fraction < 1 and bag.seed), set())
        before = trained.setdefault(bag.modalities, set())
        quickest = min(candidate.cost.seconds for candidate in left)
        left = [candidate for candidate in left if candidate.kind not in same] or left
        if _TASTES[config.strategy].time:
            most = max(_LONG_SECONDS, _LONG_RATIO * quickest)
            left = [candidate for candidate in left if candidate.cost.seconds <= most or candidate.kind not in before]
        for _ in range(min(config.learners_per_bag, len(left))):
            fresh = [candidate for candidate in left if candidate.method not in taken] or left
            best = max(candidate.utility for candidate in fresh)
            near = [candidate for candidate in fresh if candidate.utility >= best - _NEAR]
            order = sorted(near, key=lambda c: (used[c.method], used[c.kind], -c.utility))
            order += sorted((c for c in left if c not in near), key=lambda c: -c.utility)
            chosen = order[0]
            runner_up = order[1].kind if len(order) > 1 else None
            choices.append(
                Choice.model_validate(
                    {
                        "bag": bag.name,
                        "learner": chosen.learner,
                        "num_copies": config.net_copies if chosen.learner.family == "net" else 1,
                        "reason": _reason(chosen, near, num_eligible, used[chosen.method], config.strategy),
                        "predicted_seconds": chosen.cost.seconds,
                        "predicted_bytes": chosen.cost.bytes,
                        "runner_up": runner_up,
                    }
                )
            )
            used.update({chosen.kind, chosen.method})
            taken.add(chosen.method)
            before.add(chosen.kind)
            if chosen.learner.same_rows_same_learner:
                same.add(chosen.kind)
            left.remove(chosen)
    return tuple(choices)


def _eligible(
    bag: Bag,
    spec: DataSpec,
    num_rows: int,
    epochs: int,
    settings: LearnerSettings,
    config: SelectionConfig,
    max_bytes: float | None,
) -> list[_Candidate]:
    """Kinds that can learn the bag, in the order of the registry."""
    own = spec.select(bag.modalities, bag_features(bag, spec))
    fitting: list[tuple[str, LearnerBase, Cost]] = []
    refused: list[str] = []
    for kind in kinds(LearnerConfig):
        if config.include and kind not in config.include:
            continue
        learner: LearnerBase = getattr(settings, kind)
        if reason := learner.supports(own):
            refused.append(f"{kind}: {reason}")
            continue
        cost = predict_cost(learner, own, num_rows, epochs)
        if max_bytes is not None and cost.bytes > max_bytes:
            most = format_bytes(max_bytes)
            refused.append(f"{kind}: it would take about {format_bytes(cost.bytes)} of memory, `memory_mb` is {most}")
        else:
            fitting.append((kind, learner, cost))
    if not fitting:
        modalities = ", ".join(f"{modality.name} ({modality.kind})" for modality in own.modalities)
        raise ConfigError(
            f"{bag.name}: no learner can take {modalities}; {'; '.join(refused)}; "
            "widen `learners.include` or leave it empty"
        )
    quickest = min(cost.seconds for _, _, cost in fitting)
    smallest = min(cost.bytes for _, _, cost in fitting)
    taste = _TASTES[config.strategy]
    return [
        _Candidate(
            kind,
            learner,
            cost,
            taste.quality * learner.quality_prior
            - taste.time * math.log10(cost.seconds / quickest)
            - taste.memory * math.log10(cost.bytes / smallest),
        )
        for kind, learner, cost in fitting
    ]


def _reason(chosen: _Candidate, near: list[_Candidate], num_eligible: int, times_used: int, strategy: str) -> str:
    """Why `chosen` was taken among the kinds `near` the best."""
    facts = (
        f"prior quality {chosen.learner.quality_prior:.2f}, about {format_seconds(chosen.cost.seconds)} "
        f"and {format_bytes(chosen.cost.bytes)}"
    )
    if num_eligible == 1:
        return f"{chosen.kind} is the only kind that can take these modalities ({facts})."
    if len(near) == 1:
        return f"{chosen.kind} is the best of the kinds left by '{strategy}' ({facts})."
    others = ", ".join(candidate.kind for candidate in near if candidate is not chosen)
    return (
        f"{chosen.kind} is about as good as {others} by '{strategy}' ({facts}) and {_named(chosen)} used least before "
        f"({times_used} times), which keeps the ensemble diverse."
    )


def _named(chosen: _Candidate) -> str:
    """Who was used least: the kind itself, or all kinds of its method."""
    return f"{chosen.learner.method} were" if chosen.learner.method else "was"
