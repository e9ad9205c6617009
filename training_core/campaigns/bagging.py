"""The bagging campaign: from a dataset and a run configuration to jobs, and from their reports to an ensemble.

One round: ask for every bag's learners, train them in groups, conclude. The functions here are pure or publish files
named by their inputs, so a rerun replays them and finds what is there.
"""

import hashlib
import math
import os
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from training_core.artifacts import ArtifactRef, is_published, open_published, publish_directory, verify_published
from training_core.campaigns.run_config import RunConfig
from training_core.config import Config, canonical_json
from training_core.data.ingestion.ingest import prepare_dataset
from training_core.data.splitting.bags import Bag, make_bags
from training_core.data.storage.store import Dataset, DatasetStore
from training_core.engine.alone import build_objectives, class_weights
from training_core.engine.training import TrainingConfig
from training_core.errors import ConfigError, GateError
from training_core.isolation import device_kind, gpu_names
from training_core.jobs import Cohort, DatasetRef, Job, JobReport, core_fingerprint, read_out_of_bag
from training_core.objectives import LossStrategyRegistry
from training_core.recipes import MultimodalConfig
from training_core.seeding import derive_seed
from training_core.selection.choice import Choice, choose_learners
from training_core.selection.conclude import Candidate, conclude

_FEWEST_TOGETHER = 4
"""Learners of a stack that is worth having: with fewer, a second worker gains less than stacking them all does."""
_TOGETHER_FASTER = 2.0
"""About how many times as fast small nets train together, for dealing out work; measured 1.2 to 4 on a CPU."""


class Plan(Config):
    """What a run is going to train."""

    bags: tuple[Bag, ...]
    cohorts: tuple[Cohort, ...]

    @property
    def jobs(self) -> tuple[Job, ...]:
        """All jobs, by name."""
        return tuple(sorted((job for cohort in self.cohorts for job in cohort.jobs), key=lambda job: job.name))


def resolve_dataset(name_or_source: str, store: Path) -> DatasetRef:
    """The dataset version a run names; a SOURCE.yaml is ingested first (at once when nothing in it changed).

    Raises:
        DataError: there is no such dataset, or the source is not what it promises.
        ConfigError: the SOURCE.yaml does not validate.
    """
    datasets = DatasetStore(store / "datasets")
    if name_or_source.endswith((".yaml", ".yml")):
        return dataset_ref(prepare_dataset(Path(name_or_source), datasets), store)
    return dataset_ref(datasets.open(name_or_source), store)


def dataset_ref(dataset: Dataset, store: Path) -> DatasetRef:
    """The small reference by which tasks and jobs name a dataset."""
    return DatasetRef(
        root=str((store / "datasets").resolve()),
        name=dataset.name,
        version=dataset.version,
        fingerprint=dataset.fingerprint,
    )


def open_dataset(ref: DatasetRef) -> Dataset:
    """The dataset a reference names."""
    return DatasetStore(Path(ref.root)).open(f"{ref.name}@{ref.version}")


def bags_of(run: RunConfig, ref: DatasetRef) -> tuple[Bag, ...]:
    """The bags of a run; see `data.bags.make_bags`."""
    return make_bags(run.bags, open_dataset(ref).spec, derive_seed(run.seed, "bags"))


def plan_training(run: RunConfig, ref: DatasetRef, bags: Sequence[Bag]) -> Plan:
    """Choose the learners of every bag and deal them into groups for training; see `choose_learners`, `plan_jobs`.

    Raises:
        ConfigError: no learner can take a bag, or no net of this task can be trained by the settings.
    """
    dataset = open_dataset(ref)
    num_rows = math.ceil(len(dataset.rows("train")) * run.bags.row_fraction)
    settings = run.learner_settings()
    choices = choose_learners(bags, dataset.spec, num_rows, run.training.epochs, settings, run.learners)
    if any(choice.learner.family == "net" for choice in choices):
        _check_training(run.training, dataset)
    return plan_jobs(run, ref, bags, choices)


def _check_training(training: TrainingConfig, dataset: Dataset) -> None:
    """Find out here, not in the process of every net, that none can be trained like this.

    Raises:
        ConfigError: the loss, its settings or the optimiser; says what to do.
    """
    task = dataset.spec.task
    build_objectives(task, training, class_weights(task, training, dataset.target(dataset.rows("train"))))
    training.optimizer_config().build(nn.Linear(1, 1))
    if training.loss not in ("default", *LossStrategyRegistry().names()):
        raise ConfigError(
            f"the loss '{training.loss}' is registered in this process only, and the learners of an ensemble train in "
            "processes of their own; choose a loss that comes with Polychoir, or train one model with it"
        )


def plan_jobs(run: RunConfig, ref: DatasetRef, bags: Sequence[Bag], choices: Sequence[Choice]) -> Plan:
    """The jobs of every choice, dealt into groups; see `plan_cohorts`.

    The copies of a choice have seeds of their own, and take turns with the draws of rows that the bags share.
    """
    named = {bag.name: bag for bag in bags}
    draws = list(dict.fromkeys(bag.row_seed for bag in bags))
    jobs: list[Job] = []
    for choice in choices:
        bag = named[choice.bag]
        name = f"{choice.bag}/{choice.learner.kind}"
        before = sum(job.name.partition("#")[0] == name for job in jobs)
        for copy in range(before, before + choice.num_copies):
            rows = draws[(draws.index(bag.row_seed) + copy) % len(draws)]
            own = bag.model_copy(
                update={"row_seed": rows, "seed": derive_seed(bag.seed, "copy", copy) if copy else bag.seed}
            )
            jobs.append(
                Job(
                    name=f"{name}#{copy + 1}" if copy else name,
                    recipe=MultimodalConfig(learner=choice.learner, training=run.training),
                    dataset=ref,
                    subset=own,
                    seed=derive_seed(run.seed, "job", choice.bag, choice.learner.kind, copy),
                    predicted_seconds=choice.predicted_seconds,
                    reason=choice.reason,
                )
            )
    return Plan(bags=tuple(bags), cohorts=plan_cohorts(jobs, num_workers(run), run.budget.group_size))


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
    companies = [part for alike in _likely_stacks(jobs) for part in _shared_out(alike, workers)]
    num_groups = min(len(companies), max(math.ceil(len(companies) / group_size), workers))
    groups: list[list[list[Job]]] = [[] for _ in range(num_groups)]
    for company in sorted(companies, key=lambda company: (-_predicted_seconds(company), company[0].name)):
        room = [group for group in groups if len(group) < math.ceil(len(companies) / num_groups)]
        min(room, key=lambda group: sum(map(_predicted_seconds, group))).append(company)
    width = len(str(num_groups))
    return tuple(
        Cohort(name=f"cohort {index:0{width}d}/{num_groups}", jobs=tuple(job for company in group for job in company))
        for index, group in enumerate(groups, start=1)
    )


def _likely_stacks(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs whose nets may train together, each list in the order of the jobs; those of estimators by themselves."""
    companies: dict[str, list[Job]] = {}
    for job in jobs:
        alone = job.recipe.learner.family == "estimator" or job.recipe.training.stacking == "never"
        alike = [job.recipe.model_dump(mode="json"), job.subset.modalities, job.subset.feature_fraction]
        companies.setdefault(job.name if alone else canonical_json(alike), []).append(job)
    return list(companies.values())


def _shared_out(company: list[Job], workers: int) -> list[list[Job]]:
    """Parts of a company, of at least `_FEWEST_TOGETHER` jobs each and no more parts than workers."""
    num_parts = max(1, min(workers, len(company) // _FEWEST_TOGETHER))
    return [company[part::num_parts] for part in range(num_parts)]


def _predicted_seconds(company: Sequence[Job]) -> float:
    """What training a company is expected to take."""
    alone = sum(job.predicted_seconds or 0.0 for job in company)
    return alone if len(company) == 1 else alone / _TOGETHER_FASTER


def num_workers(run: RunConfig) -> int:
    """How many learner processes run at a time: as configured, else one per GPU, or per CPU core without one."""
    if run.budget.workers:
        return run.budget.workers
    return len(gpu_names()) if device_kind() == "cuda" else len(os.sched_getaffinity(0))


def require_quorum(reports: Sequence[JobReport], run: RunConfig) -> None:
    """Go on only with enough learners.

    Raises:
        GateError: fewer than `budget.quorum` of the planned learners trained; the first reason is quoted.
    """
    failed = [report for report in reports if report.status == "failed"]
    if len(reports) - len(failed) < max(1, math.ceil(run.budget.quorum * len(reports))):
        raise GateError(
            f"only {len(reports) - len(failed)} of {len(reports)} learners trained, the quorum is "
            f"{run.budget.quorum:.0%}; {failed[0].name}: {failed[0].error}"
        )


def conclude_run(run: RunConfig, ref: DatasetRef, reports: Sequence[JobReport], store: Path) -> ArtifactRef:
    """Combine the learners that trained and publish the ensemble, unless the same one is there.

    Raises:
        GateError: fewer learners than the quorum trained.
    """
    require_quorum(reports, run)
    trained = [(report, report.artifact) for report in reports if report.artifact is not None]
    inputs = [
        core_fingerprint(),
        ref.model_dump(exclude={"root"}),
        run.combination.model_dump(mode="json"),
        run.seed,
        [(report.name, artifact.sha256) for report, artifact in trained],
    ]
    folder = store / "ensembles" / hashlib.sha256(canonical_json(inputs).encode()).hexdigest()[:32]
    if not is_published(folder):
        dataset = open_dataset(ref)
        rows = dataset.rows("train")
        with publish_directory(folder) as place:
            conclude(
                place,
                name=ref.name,
                spec=dataset.spec,
                candidates=[_candidate(report, artifact) for report, artifact in trained],
                rows=rows,
                target=dataset.target(rows),
                available=dataset.available(rows),
                config=run.combination,
                seed=derive_seed(run.seed, "combination"),
                dataset=ref.label,
                dataset_fingerprint=ref.fingerprint,
            )
    return open_published(folder)


def _candidate(report: JobReport, artifact: ArtifactRef) -> Candidate:
    verify_published(artifact)  # what is damaged must not be copied under fresh checksums
    rows, predictions = read_out_of_bag(artifact)
    return Candidate(
        name=report.name,
        kind=report.learner,
        modalities=report.modalities,
        folder=artifact.path / "learner",
        rows=rows,
        predictions=predictions,
        score=report.score,
    )
