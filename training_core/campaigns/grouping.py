"""Deals jobs out into groups, each trained in a process of its own, so that those that can train together are together.

Without a budget groups are as even as possible; under one they keep the order in which learners should be trained.
"""

import math
from collections.abc import Sequence

from training_core.config import canonical_json
from training_core.engine.cohort.grouping import shared_in_stack
from training_core.jobs import Cohort, Job

_FEWEST_TOGETHER = 4
"""Learners of a stack that is worth having: with fewer, a second worker gains less than stacking them all does."""
_TOGETHER_FASTER = 2.0
"""About how many times as fast small nets train together, for dealing out work; measured 1.2 to 4 on a CPU."""
_GROUP_SECONDS = 20.0
"""Predicted seconds of a group under a budget: its process takes a few seconds to start, and a crash costs a group."""
_BEGIN_SECONDS = 0.3
"""Of a learner beside its training: reading, judging and publishing it."""
_HERE = 0.1
"""Share of the budget that the covering set may be expected to take to be trained without a process of its own."""


def plan_cohorts(jobs: Sequence[Job], workers: int, group_size: int) -> tuple[Cohort, ...]:
    """Deal jobs into groups, so that each group is expected to take about as long.

    Nets that are likely of one architecture stay together, so that they can train together; where there are at least
    `2 · _FEWEST_TOGETHER` of them they are shared out over the workers. What takes longest is dealt first, each to the
    group with the least work so far that has room: longest processing time first, Graham 1969, never worse than 4/3 of
    the best possible makespan.

    Args:
        jobs: what to deal.
        workers: groups that train at a time.
        group_size: learners, or companies of learners that stay together, in a group; more where there are fewer groups
            than workers otherwise.
    """
    companies = [part for alike in likely_stacks(jobs) for part in _shared_out(alike, workers)]
    num_groups = min(len(companies), max(math.ceil(len(companies) / group_size), workers))
    groups: list[list[list[Job]]] = [[] for _ in range(num_groups)]
    for company in sorted(companies, key=lambda company: (-_training_seconds(company), company[0].name)):
        room = [group for group in groups if len(group) < math.ceil(len(companies) / num_groups)]
        min(room, key=lambda group: sum(map(_training_seconds, group))).append(company)
    width = len(str(num_groups))
    return tuple(
        Cohort(name=f"cohort {index:0{width}d}/{num_groups}", jobs=tuple(job for company in group for job in company))
        for index, group in enumerate(groups, start=1)
    )


def likely_stacks(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs whose nets may train together, each list in the order of the jobs; those of estimators by themselves."""
    companies: dict[str, list[Job]] = {}
    for job in jobs:
        alone = job.recipe.learner.family == "estimator" or job.recipe.training.stacking == "never"
        recipe = job.recipe
        shared = shared_in_stack(recipe.learner, recipe.training, recipe.denoising)
        alike = canonical_json([shared, job.subset.modalities, job.subset.feature_fraction])
        companies.setdefault(job.name if alone else alike, []).append(job)
    return list(companies.values())


def _shared_out(company: list[Job], workers: int) -> list[list[Job]]:
    """Parts of a company, of at least `_FEWEST_TOGETHER` jobs each and no more parts than workers."""
    num_parts = max(1, min(workers, len(company) // _FEWEST_TOGETHER))
    return [company[part::num_parts] for part in range(num_parts)]


def _training_seconds(company: Sequence[Job]) -> float:
    """What training a company is expected to take."""
    alone = sum(job.predicted_seconds or 0.0 for job in company)
    return alone if len(company) == 1 else alone / _TOGETHER_FASTER


def predicted_seconds(company: Sequence[Job]) -> float:
    """What a company is expected to take, from its start until it is published."""
    return (_training_seconds(company) if company else 0.0) + _BEGIN_SECONDS * len(company)


def deal_in_order(
    companies: Sequence[Sequence[Job]], cover: Sequence[str], workers: int, seconds: float, elsewhere: bool = False
) -> tuple[tuple[Cohort, ...], tuple[Job, ...]]:
    """Groups that train the companies about in their order, `workers` groups at a time; and what is trained before.

    The jobs of the covering set are trained before the groups, in the process of the run itself, when they fit in one
    step each and are expected to take a tenth of the budget at most: a process of their own would take longer to start.
    Each further company goes to the worker that has the least work; a worker's group is closed once it is expected to
    take 20 seconds, or an eighth of the budget where that is more, so that the next ones are begun with what is known
    by then.

    Args:
        companies: in their order.
        cover: names of the jobs of the covering set.
        workers: groups that train at a time.
        seconds: the budget.
        elsewhere: groups train on other machines, whose learners may be filed under another kind of device than those
            of this one: nothing is trained before them.

    Returns:
        The groups, and the jobs to be trained before them.
    """
    first = [job for company in companies for job in company if job.name in cover]
    at_once = all(job.recipe.learner.family == "estimator" for job in first)
    here = first if not elsewhere and at_once and predicted_seconds(first) <= _HERE * seconds else []
    most = max(_GROUP_SECONDS, seconds / 8)
    load = [0.0] * workers
    groups: list[tuple[float, list[Job]]] = []  # when it is expected to begin, and its jobs
    open_group: list[int | None] = [None] * workers
    for company in companies:
        if any(job in here for job in company):
            continue
        worker = min(range(workers), key=lambda w: load[w])
        position = open_group[worker]
        if position is None or load[worker] - groups[position][0] >= most:
            groups.append((load[worker], []))
            position = open_group[worker] = len(groups) - 1
        groups[position][1].extend(company)
        load[worker] += predicted_seconds(company)
    groups.sort(key=lambda group: group[0])
    width = len(str(len(groups)))
    cohorts = tuple(
        Cohort(name=f"cohort {index:0{width}d}/{len(groups)}", jobs=tuple(jobs))
        for index, (_, jobs) in enumerate(groups, start=1)
    )
    return cohorts, tuple(here)
