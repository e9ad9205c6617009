"""Before a run: can it be trained at all, and does this machine have what it takes? If not, which smaller run has."""

from collections.abc import Callable, Iterator
from typing import Any, Self

import psutil

from training_core.campaigns.advice.estimate import DataFacts, RunEstimate, choices_of, estimate_run, facts_of
from training_core.campaigns.advice.remedies import Change, apply_changes
from training_core.campaigns.bagging import num_workers, open_dataset
from training_core.campaigns.run_config import RunConfig
from training_core.config import Config
from training_core.errors import UserError
from training_core.jobs import DatasetRef
from training_core.quantities import PositiveFloat, format_seconds

_KEPT_FREE = 0.1
"""Share of the free memory that is left to others."""
_FEWEST_ROWS_PER_CLASS = 5
"""Training rows per class below which outside a bag there is often none of it."""


class Resources(Config):
    """What a run may take."""

    memory_mb: PositiveFloat
    """Free memory, in MB (1e6 bytes)."""
    seconds: PositiveFloat | None = None
    """Time there is; None: as long as it takes."""

    @classmethod
    def here(cls, seconds: float | None = None) -> Self:
        """What this machine has free now."""
        return cls(memory_mb=psutil.virtual_memory().available / 1e6, seconds=seconds)


class Preflight(Config):
    """What a look before the run found."""

    problems: tuple[str, ...]
    """Why the run cannot be trained as it is, whatever the machine; empty when it can."""
    warnings: tuple[str, ...]
    shortages: tuple[str, ...]
    """What the run would take more of than there is."""
    changes: tuple[Change, ...]
    """What was changed in `config`, to make do with what there is."""
    config: RunConfig
    """The run itself, or a reduced one."""
    estimate: RunEstimate | None
    """Of `config`; None when it cannot be trained."""
    fits: bool
    """Whether `config` makes do with what there is."""

    @property
    def is_ready(self) -> bool:
        """Whether `config` can be trained here."""
        return not self.problems and self.fits


def preflight(run: RunConfig, data: DataFacts, resources: Resources) -> Preflight:
    """Look whether a run is valid and affordable; reduce it step by step, the least painful step first, if it is not.

    Args:
        run: the settings.
        data: what it is trained on.
        resources: what it may take.
    """
    problems, warnings = _problems(run, data), tuple(_warnings(run, data))
    if problems:
        return Preflight(
            problems=problems, warnings=warnings, shortages=(), changes=(), config=run, estimate=None, fits=False
        )
    estimate = estimate_run(run, data)
    shortages = _shortages(estimate, resources)
    reduced, taken = run, list[Change]()
    for reduce in _REDUCTIONS if shortages else ():
        missing = _shortages(estimate, resources)
        changes = [change for change in reduce(reduced, data, resources, missing) if change.before != change.after]
        if not missing or not changes:
            continue
        candidate = apply_changes(reduced, changes)
        if _problems(candidate, data):
            continue
        better = estimate_run(candidate, data)
        takes_less = {"memory": better.memory_mb < estimate.memory_mb, "seconds": better.seconds < estimate.seconds}
        if any(takes_less[what] for what in missing):
            reduced, estimate = candidate, better
            taken += changes
    return Preflight(
        problems=(),
        warnings=warnings,
        shortages=tuple(shortages.values()),
        changes=tuple(taken),
        config=reduced,
        estimate=estimate,
        fits=not _shortages(estimate, resources),
    )


def look_ahead(run: RunConfig, ref: DatasetRef) -> tuple[str, ...]:
    """What speaks against a run as it stands, though it can be begun: a sentence each, none when nothing does.

    Of a run on a cluster nothing is said of memory, for it is not this machine's that counts.
    """
    found = preflight(run, facts_of(open_dataset(ref)), Resources.here())
    if run.executor != "processes" or not found.shortages:
        return found.warnings
    less = ", ".join(f"{change.key}={change.after}" for change in found.changes)
    hint = f"; it would {'make do' if found.fits else 'need less'} with {less}" if less else ""
    return (*found.warnings, *(f"{shortage}{hint}" for shortage in found.shortages))


def _problems(run: RunConfig, data: DataFacts) -> tuple[str, ...]:
    if not data.num_rows:
        return ("there are no training rows",)
    try:
        choices = choices_of(run, data)
    except UserError as error:
        return (str(error),)
    if run.training.stages and not any(choice.learner.family == "net" for choice in choices):
        return ("`training.stages` freeze parts of nets, and no net is chosen; widen `learners.include`",)
    return ()


def _warnings(run: RunConfig, data: DataFacts) -> Iterator[str]:
    training = run.training
    modalities = run.modalities or data.spec.names
    in_bag = data.num_rows * run.bags.share_in_bag
    if training.batch_size > in_bag:
        yield f"`training.batch_size` is {training.batch_size}, a bag has about {in_bag:.0f} rows: one step per epoch"
    if data.spec.task.kind == "classification" and data.num_rows < _FEWEST_ROWS_PER_CLASS * len(data.spec.task.classes):
        yield f"{data.num_rows} training rows for {len(data.spec.task.classes)} classes: weights will be guesses"
    if run.denoising.enabled and len(modalities) < 2:
        yield "`denoising.enabled` does nothing for a single modality"
    if run.denoising.enabled and not run.denoising.modality_dropout:
        yield "`denoising.modality_dropout` is 0: nets never meet a missing modality, whatever denoising teaches them"
    if training.warmup_epochs >= training.epochs:
        yield f"`training.warmup_epochs` ({training.warmup_epochs:g}) leave nothing of the {training.epochs} epochs"
    if unknown := [name for name in run.denoising.modalities if name not in modalities]:
        yield f"`denoising.modalities` names '{unknown[0]}', which the run does not use"


def _shortages(estimate: RunEstimate, resources: Resources) -> dict[str, str]:
    """What is short: memory, seconds."""
    found = {}
    free = resources.memory_mb * (1 - _KEPT_FREE)
    if estimate.memory_mb > free:
        found["memory"] = f"about {estimate.memory_mb:.0f} MB of memory would be needed, {free:.0f} MB can be had"
    if resources.seconds is not None and estimate.seconds > resources.seconds:
        took, have = format_seconds(estimate.seconds), format_seconds(resources.seconds)
        found["seconds"] = f"the run would take about {took}, there are {have}"
    return found


def _fewer_workers(run: RunConfig, data: DataFacts, resources: Resources, missing: dict[str, str]) -> list[Change]:
    """As many processes as fit into memory side by side; slower, and nothing is lost."""
    if "memory" not in missing:
        return []
    each = estimate_run(run, data).learner_mb
    workers = max(1, min(num_workers(run), int(resources.memory_mb * (1 - _KEPT_FREE) / each)))
    return [_change("budget.workers", run.budget.workers, workers, "so many processes fit into memory side by side")]


def _smaller_kinds(run: RunConfig, data: DataFacts, resources: Resources, missing: dict[str, str]) -> list[Change]:
    strategy = "memory" if "memory" in missing else "speed"
    return [_change("learners.strategy", run.learners.strategy, strategy, "kinds of learner that take less")]


def _fewer_copies(run: RunConfig, data: DataFacts, resources: Resources, missing: dict[str, str]) -> list[Change]:
    return [_change("learners.net_copies", run.learners.net_copies, 1, "one net where one is chosen")]


def _fewer_learners(run: RunConfig, data: DataFacts, resources: Resources, missing: dict[str, str]) -> list[Change]:
    return [_change("learners.learners_per_bag", run.learners.learners_per_bag, 1, "one learner per bag")]


def _fewer_epochs(run: RunConfig, data: DataFacts, resources: Resources, missing: dict[str, str]) -> list[Change]:
    epochs = min(run.training.epochs, max(10, run.training.epochs // 3))
    return [_change("training.epochs", run.training.epochs, epochs, "a third of the passes over the data")]


def _fewer_bags(run: RunConfig, data: DataFacts, resources: Resources, missing: dict[str, str]) -> list[Change]:
    fewest = 1 + len(run.modalities or data.spec.names)
    why = "the full set and every single modality"
    return [_change("bags.num_bags", run.bags.num_bags, min(run.bags.num_bags, fewest), why)]


def _limited(run: RunConfig, data: DataFacts, resources: Resources, missing: dict[str, str]) -> list[Change]:
    """What nothing else has mended is limited: as much is trained as there is time for."""
    if "seconds" not in missing:
        return []
    return [_change("budget.seconds", run.budget.seconds, resources.seconds, "as much as there is time for")]


_REDUCTIONS: tuple[Callable[[RunConfig, DataFacts, Resources, dict[str, str]], list[Change]], ...] = (
    _fewer_workers,
    _smaller_kinds,
    _fewer_copies,
    _fewer_learners,
    _fewer_epochs,
    _fewer_bags,
    _limited,
)


def _change(key: str, before: Any, after: Any, why: str) -> Change:
    return Change(key=key, before=before, after=after, why=why)
