"""What fits into a budget: which learners are trained first, which are left out, and in which groups they train.

The first learners are a covering set: a quick one for all modalities together and one for every single modality, so
that an ensemble that can answer under any pattern is there early. The others follow by what they are expected to add
per second.
"""

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

from training_core.campaigns.grouping import likely_stacks, predicted_seconds
from training_core.campaigns.run_config import RunConfig
from training_core.data.splitting.bags import Bag, bag_features
from training_core.errors import ConfigError
from training_core.jobs import Job
from training_core.learners import LearnerBase, LearnerConfig
from training_core.quantities import format_bytes
from training_core.schema import DataSpec
from training_core.selection.choice import Choice, choose_learners
from training_core.selection.cost_model import predict_cost
from training_core.variants import kinds


def max_bytes(run: RunConfig) -> float | None:
    """The memory a learner's process may have, in bytes."""
    return None if run.budget.memory_mb is None else run.budget.memory_mb * 1e6


def too_large(bags: Sequence[Bag], spec: DataSpec, num_rows: int, run: RunConfig) -> dict[str, str]:
    """Kinds that could learn some bag but for the memory they are predicted to take there, and how much it is."""
    limit = max_bytes(run)
    if limit is None:
        return {}
    found: dict[str, str] = {}
    for kind in kinds(LearnerConfig):
        learner: LearnerBase = getattr(run, kind)
        owns = [spec.select(bag.modalities, bag_features(bag, spec)) for bag in bags]
        costs = [predict_cost(learner, own, num_rows, run.training.epochs) for own in owns if not learner.supports(own)]
        largest = max((cost.bytes for cost in costs), default=0.0)
        if largest > limit and (not run.learners.include or kind in run.learners.include):
            found[kind] = f"about {format_bytes(largest)} of memory, `budget.memory_mb` is {format_bytes(limit)}"
    return found


def with_cover(
    choices: Sequence[Choice], bags: Sequence[Bag], spec: DataSpec, num_rows: int, run: RunConfig
) -> tuple[tuple[Choice, ...], tuple[str, ...]]:
    """The choices with the covering set in front, and the names of the covering set's jobs.

    The first bag that has all modalities, and the first of every single one, get the kind that is quickest for what
    it is worth; where that is among `choices` already, it only moves to the front.

    Args:
        choices: of learners for bags.
        bags: all of them.
        spec: of the data set.
        num_rows: rows in a bag.
        run: the run; with its memory limit.
    """
    cover: list[Choice] = []
    for bag in _covering_bags(bags):
        choice = _quick_choice(bag, spec, num_rows, run)
        same = [c for c in choices if (c.bag, c.learner.kind) == (choice.bag, choice.learner.kind)]
        why = f"{choice.reason} It is quick and comes first, so that an ensemble is there early."
        cover.append(same[0] if same else choice.model_copy(update={"reason": why}))
    placed = {(choice.bag, choice.learner.kind) for choice in cover}
    rest = [choice for choice in choices if (choice.bag, choice.learner.kind) not in placed]
    return (*cover, *rest), tuple(f"{choice.bag}/{choice.learner.kind}" for choice in cover)


def _quick_choice(bag: Bag, spec: DataSpec, num_rows: int, run: RunConfig) -> Choice:
    """The quickest kind for what it is worth: one that fits in one step where there is such a one, else any.

    Raises:
        ConfigError: no kind can learn the bag.
    """
    allowed = [kind for kind in kinds(LearnerConfig) if not run.learners.include or kind in run.learners.include]
    own = spec.select(bag.modalities, bag_features(bag, spec))
    learners: dict[str, LearnerBase] = {kind: getattr(run, kind) for kind in allowed}
    at_once = [k for k, learner in learners.items() if learner.family == "estimator" and not learner.supports(own)]
    quick = {"strategy": "speed", "learners_per_bag": 1, "net_copies": 1}
    limits = (spec, num_rows, run.training.epochs, run.learner_settings())
    for included in (at_once, allowed):
        config = run.learners.model_copy(update={**quick, "include": tuple(included)})
        with suppress(ConfigError):  # of those that fit in one step each may need too much memory
            if included:
                return choose_learners([bag], *limits, config, max_bytes=max_bytes(run))[0]
    config = run.learners.model_copy(update=quick)
    return choose_learners([bag], *limits, config, max_bytes=max_bytes(run))[0]


def _covering_bags(bags: Sequence[Bag]) -> list[Bag]:
    """The first bag with the most modalities, then the first of every single modality."""
    found = [max(bags, key=lambda bag: len(bag.modalities))]
    for bag in bags:
        if len(bag.modalities) == 1 and bag.modalities not in [other.modalities for other in found]:
            found.append(bag)
    return found


def by_gain(jobs: Sequence[Job], cover: Sequence[str]) -> list[list[Job]]:
    """Companies of jobs in the order they should be trained in: the covering set, then by expected gain per second.

    A job's gain is the prior quality of its kind, divided by √((1 + k)(1 + m)), where k jobs of its kind and m of its
    modalities come before it: what an ensemble has already gains it less. Greedy, one company after the other.
    """
    first = {name: position for position, name in enumerate(cover)}
    ordered = [[job] for job in sorted((job for job in jobs if job.name in first), key=lambda job: first[job.name])]
    waiting = likely_stacks([job for job in jobs if job.name not in first])
    kinds: Counter[str] = Counter()
    masks: Counter[tuple[str, ...]] = Counter()

    def count(company: list[Job]) -> None:
        for job in company:
            kinds[job.recipe.learner.kind] += 1
            masks[job.subset.modalities] += 1

    def rate(company: list[Job]) -> float:
        gain = sum(
            job.recipe.learner.quality_prior
            / math.sqrt((1 + kinds[job.recipe.learner.kind] + i) * (1 + masks[job.subset.modalities] + i))
            for i, job in enumerate(company)
        )
        return gain / predicted_seconds(company)

    for company in ordered:
        count(company)
    while waiting:
        best = max(waiting, key=rate)  # the first of equals, so that the order is the same every time
        waiting.remove(best)
        count(best)
        ordered.append(best)
    return ordered


def at_most(companies: Sequence[Sequence[Job]], num_learners: int | None) -> list[list[Job]]:
    """The first `num_learners` jobs, in their companies."""
    kept: list[list[Job]] = []
    left = math.inf if num_learners is None else num_learners
    for company in companies:
        part = list(company[: int(min(left, len(company)))])
        left -= len(part)
        if part:
            kept.append(part)
    return kept
