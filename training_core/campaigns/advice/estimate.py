"""What a run will take, before anything is trained: learners, seconds and memory, from the cost model."""

import math

from training_core.campaigns.bagging import num_workers
from training_core.campaigns.budget import max_bytes, with_cover
from training_core.campaigns.run_config import RunConfig
from training_core.config import Config
from training_core.data.splitting.bags import make_bags
from training_core.data.storage.store import Dataset
from training_core.schema import DataSpec
from training_core.seeding import derive_seed
from training_core.selection.choice import Choice, choose_learners

_STACKED_FASTER = 2.0
"""About how many times as fast the copies of a net train together; measured 1.2 to 4 on a CPU."""
_PROCESS_SECONDS = 3.0
"""To start a learner's process and import what it needs."""
_FIXED_SECONDS = 4.0
"""To plan, combine, judge and report."""


class DataFacts(Config):
    """What has to be known of a data set to plan a run on it."""

    name: str
    """`name`, `name@version`, or the path of a SOURCE.yaml."""
    spec: DataSpec
    num_rows: int
    """Training rows."""


class RunEstimate(Config):
    """What a run is expected to take on this machine."""

    num_learners: int
    seconds: float
    """From beginning to end."""
    cpu_seconds: float
    """Of all learners' trainings."""
    learner_mb: float
    """Resident memory of the largest learner's process, in MB (1e6 bytes)."""
    memory_mb: float
    """Of as many of the largest as train at a time."""
    learners: dict[str, int]
    """How many of each kind."""


def facts_of(dataset: Dataset) -> DataFacts:
    """The facts of a published data set."""
    return DataFacts(name=dataset.ref, spec=dataset.spec, num_rows=len(dataset.rows("train")))


def choices_of(run: RunConfig, data: DataFacts) -> tuple[Choice, ...]:
    """The learners a run would choose for its bags, as many as its budget allows.

    Adaptive bags are taken as if all modalities told the same: what they tell is only measured in the run itself.

    Raises:
        ConfigError: no learner can take a bag.
        DataError: `run.modalities` names one that is not there.
    """
    spec = data.spec.select(run.modalities) if run.modalities else data.spec
    bags = make_bags(run.bags, spec, derive_seed(run.seed, "bags"), dict.fromkeys(spec.names, 1.0))
    num_rows = math.ceil(data.num_rows * run.bags.share_in_bag)
    settings = run.learner_settings()
    limit = max_bytes(run)
    choices = choose_learners(bags, spec, num_rows, run.training.epochs, settings, run.learners, max_bytes=limit)
    if run.budget.seconds or run.budget.learners:
        choices, cover = with_cover(choices, bags, spec, num_rows, run)
        choices = _at_most(choices, len(cover), run.budget.learners)
    return choices


def _at_most(choices: tuple[Choice, ...], num_cover: int, num_learners: int | None) -> tuple[Choice, ...]:
    """About the learners that `budget.learners` lets through: the covering set, then by quality per second.

    The run itself also counts what was trained before, which makes other kinds come earlier (`budget.by_gain`).
    """
    if num_learners is None:
        return choices
    rest = sorted(choices[num_cover:], key=lambda c: -c.learner.quality_prior / max(c.predicted_seconds, 1e-9))
    kept, left = list[Choice](), num_learners
    for choice in (*choices[:num_cover], *rest):
        copies = min(left, choice.num_copies)
        if copies:
            kept.append(choice.model_copy(update={"num_copies": copies}))
        left -= copies
    return tuple(kept)


def estimate_run(run: RunConfig, data: DataFacts) -> RunEstimate:
    """What a run is expected to take; nets are counted at all their epochs, so early stopping makes it quicker.

    Raises:
        ConfigError: no learner can take a bag.
        DataError: `run.modalities` names one that is not there.
    """
    choices = choices_of(run, data)
    workers = max(1, min(num_workers(run), len(choices)))
    trained = [choice.predicted_seconds * _copies(choice) for choice in choices]
    groups = math.ceil(len(choices) / run.budget.group_size)
    busy = sum(trained) + _PROCESS_SECONDS * max(groups, workers)
    seconds = _FIXED_SECONDS + max(busy / workers, max(trained, default=0.0) + _PROCESS_SECONDS)
    if run.budget.seconds is not None:
        seconds = min(seconds, run.budget.seconds)
    counts: dict[str, int] = {}
    for choice in choices:
        counts[choice.learner.kind] = counts.get(choice.learner.kind, 0) + choice.num_copies
    largest = max(choice.predicted_bytes for choice in choices) / 1e6
    return RunEstimate(
        num_learners=sum(counts.values()),
        seconds=seconds,
        cpu_seconds=sum(trained),
        learner_mb=largest,
        memory_mb=largest * workers,
        learners=dict(sorted(counts.items())),
    )


def _copies(choice: Choice) -> float:
    """How many trainings alone the copies of a choice cost."""
    return choice.num_copies / _STACKED_FASTER if choice.num_copies > 1 else 1.0
