"""The bagging campaign: from a dataset and a run configuration to jobs, and from their reports to an ensemble.

One round: ask for every bag's learners, train them in groups, conclude. Adaptive bags take a round before it that
measures what each modality tells by itself (`campaigns.survey`). The functions here are pure or publish files named by
their inputs, so a rerun replays them and finds what is there.
"""

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from training_core.artifacts import ArtifactRef, is_published, mark_used, open_published, publish_directory
from training_core.campaigns.budget import at_most, by_gain, max_bytes, too_large, with_cover
from training_core.campaigns.grouping import deal_in_order, plan_cohorts
from training_core.campaigns.run_bags import (
    cut_bags,
    for_every_fold,
    require_rows,
    rows_in_bag,
    run_spec,
    survey_bags,
)
from training_core.campaigns.run_config import RunConfig
from training_core.campaigns.survey import modality_utilities, needs_survey, survey_choices
from training_core.config import Config, canonical_json
from training_core.data.ingestion.ingest import prepare_dataset
from training_core.data.splitting.bags import Bag, without_fold
from training_core.data.storage.store import Dataset, DatasetStore
from training_core.engine.alone import build_objectives, class_weights
from training_core.engine.soft_targets import require_mixable
from training_core.engine.training import TrainingConfig
from training_core.errors import ConfigError, GateError
from training_core.isolation import device_kind, gpu_names
from training_core.jobs import Cohort, DatasetRef, Job, JobReport, core_fingerprint, read_out_of_bag, require_intact
from training_core.objectives import LossStrategyRegistry
from training_core.recipes import MultimodalConfig
from training_core.seeding import derive_seed
from training_core.selection.choice import Choice, choose_learners
from training_core.selection.conclude import Candidate, conclude
from training_core.selection.units import units_of


class Plan(Config):
    """What a run is going to train."""

    bags: tuple[Bag, ...]
    cohorts: tuple[Cohort, ...]
    here: tuple[Job, ...] = ()
    """Jobs to be trained in the process of the run itself, before all others: see `deal_in_order`."""
    cover: tuple[str, ...] = ()
    """Names of the jobs that come first under a budget: with them an ensemble can answer, whatever is missing."""
    left_out: Mapping[str, str] = {}
    """Kinds of learner, and jobs, that the budget's memory or number of learners left out, and why."""

    @property
    def jobs(self) -> tuple[Job, ...]:
        """All jobs, by name."""
        grouped = [job for cohort in self.cohorts for job in cohort.jobs]
        return tuple(sorted([*self.here, *grouped], key=lambda job: job.name))


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


def plan_survey(run: RunConfig, ref: DatasetRef) -> Plan:
    """Round one: the cheap learners that measure what each modality tells by itself; see `campaigns.survey`.

    A plan of nothing where the bags do not depend on that.

    Raises:
        ConfigError: no learner can take a modality.
    """
    dataset = open_dataset(ref)
    spec = run_spec(run, dataset)
    if not needs_survey(run, spec):
        return Plan(bags=(), cohorts=())
    bags = survey_bags(run, dataset)
    require_rows(bags, dataset)
    return plan_jobs(run, ref, bags, survey_choices(run, spec, rows_in_bag(run, dataset), bags))


def measure_utilities(run: RunConfig, ref: DatasetRef, reports: Sequence[JobReport]) -> dict[str, float]:
    """What each modality tells by itself, from the reports of `plan_survey`; empty where the bags do not ask for it."""
    dataset = open_dataset(ref)
    return modality_utilities(dataset, reports) if needs_survey(run, run_spec(run, dataset)) else {}


def bags_of(run: RunConfig, ref: DatasetRef, utilities: Mapping[str, float] | None = None) -> tuple[Bag, ...]:
    """The bags of a run, with `utilities` those of `measure_utilities`; see `campaigns.run_bags.cut_bags`."""
    return cut_bags(run, open_dataset(ref), utilities)


def plan_training(run: RunConfig, ref: DatasetRef, bags: Sequence[Bag]) -> Plan:
    """Choose the learners of every bag and deal them into groups for training; see `choose_learners`, `plan_jobs`.

    In every fold of a mask the same kinds are trained. The jobs of `plan_survey` are among them.

    Raises:
        ConfigError: no learner can take a bag, no bag has rows both inside and outside, or no net of this task can be
            trained by the settings.
    """
    dataset = open_dataset(ref)
    require_rows(bags, dataset)
    spec, num_rows, settings = run_spec(run, dataset), rows_in_bag(run, dataset), run.learner_settings()
    first_folds = [bag for bag in bags if bag.fold == 0]
    choices = choose_learners(
        first_folds, spec, num_rows, run.training.epochs, settings, run.learners, max_bytes=max_bytes(run)
    )
    choices = for_every_fold([*choices, *survey_choices(run, spec, num_rows, first_folds, choices)], bags)
    cover: tuple[str, ...] = ()
    if run.budget.seconds or run.budget.learners:
        choices, cover = with_cover(choices, bags, spec, num_rows, run)
    if of_nets := {choice.bag for choice in choices if choice.learner.family == "net"}:
        _check_training(run.training, dataset)
        for modalities in {bag.modalities: None for bag in bags if bag.name in of_nets}:
            require_mixable(spec.select(modalities), run.training)
    plan = plan_jobs(run, ref, bags, choices, cover)
    return plan.model_copy(update={"left_out": {**too_large(bags, spec, num_rows, run), **plan.left_out}})


def _check_training(training: TrainingConfig, dataset: Dataset) -> None:
    """Find out here, not in the process of every net, that none can be trained like this.

    Raises:
        ConfigError: the loss, its settings or the optimiser; says what to do.
    """
    task = dataset.spec.task
    build_objectives(task, training, class_weights(task, training, dataset.target(dataset.rows("train"))))
    training.optimizer_config().check_available()
    if training.loss not in ("default", *LossStrategyRegistry().names()):
        raise ConfigError(
            f"the loss '{training.loss}' is registered in this process only, and the learners of an ensemble train in "
            "processes of their own; choose a loss that comes with Polychoir, or train one model with it"
        )


def plan_jobs(
    run: RunConfig, ref: DatasetRef, bags: Sequence[Bag], choices: Sequence[Choice], cover: Sequence[str] = ()
) -> Plan:
    """The jobs of every choice, dealt into groups; see `plan_cohorts`, and under a budget `deal_in_order`.

    The copies of a choice have seeds of their own, and take turns with the draws of rows (or folds) that bags share.
    """
    named = {bag.name: bag for bag in bags}
    draws = list(dict.fromkeys(bag.row_draw for bag in bags))
    jobs: list[Job] = []
    for choice in choices:
        bag = named[choice.bag]
        name = f"{choice.bag}/{choice.learner.kind}"
        before = sum(job.name.partition("#")[0] == name for job in jobs)
        for copy in range(before, before + choice.num_copies):
            rows = draws[(draws.index(bag.row_draw) + copy) % len(draws)]
            own = bag.with_rows_of(rows, derive_seed(bag.seed, "copy", copy) if copy else bag.seed)
            jobs.append(
                Job(
                    name=f"{name}#{copy + 1}" if copy else name,
                    recipe=MultimodalConfig(
                        learner=choice.learner, training=run.training, denoising=run.denoising.on(own.modalities)
                    ),
                    dataset=ref,
                    subset=own,
                    seed=derive_seed(run.seed, "job", choice.bag, choice.learner.kind, copy),
                    predicted_seconds=choice.predicted_seconds,
                    predicted_bytes=choice.predicted_bytes,
                    reason=choice.reason,
                )
            )
    budget, workers = run.budget, num_workers(run)
    if not (budget.seconds or budget.learners):
        return Plan(bags=tuple(bags), cohorts=plan_cohorts(jobs, workers, budget.group_size))
    companies = at_most(by_gain(jobs, cover), budget.learners)
    kept = [job for company in companies for job in company]
    names = {job.name for job in kept}
    left = {job.name: f"`budget.learners` is {budget.learners}" for job in jobs if job.name not in names}
    first = tuple(name for name in cover if name in names)
    if budget.seconds:
        cohorts, here = deal_in_order(companies, first, workers, budget.seconds, run.executor != "processes")
    else:
        cohorts, here = plan_cohorts(kept, workers, budget.group_size), ()
    return Plan(bags=tuple(bags), cohorts=cohorts, here=here, cover=first, left_out=left)


def num_workers(run: RunConfig) -> int:
    """How many learner processes run at a time: as configured, else one per GPU, or per CPU core without one."""
    if run.budget.workers:
        return run.budget.workers
    return len(gpu_names()) if device_kind() == "cuda" else len(os.sched_getaffinity(0))


def require_quorum(reports: Sequence[JobReport], run: RunConfig) -> None:
    """Go on only with enough learners; those there was no time for, or that were given up, are not counted.

    Raises:
        GateError: fewer than `budget.quorum` of the planned learners trained; the first reason is quoted.
    """
    given_up = [report for report in reports if report.status == "pruned"]
    reports = [report for report in reports if report.status not in ("skipped", "pruned")]
    failed = [report for report in reports if report.status == "failed"]
    if not reports and given_up:
        raise GateError(f"all learners were given up while they trained; the last: {given_up[-1].error}")
    if not reports:
        raise GateError(f"there was no time to train a single learner; raise `budget.seconds` ({run.budget.seconds})")
    if len(reports) - len(failed) < max(1, math.ceil(run.budget.quorum * len(reports))):
        raise GateError(
            f"only {len(reports) - len(failed)} of {len(reports)} learners trained, the quorum is "
            f"{run.budget.quorum:.0%}; {failed[0].name}: {failed[0].error}"
        )


def conclude_run(run: RunConfig, ref: DatasetRef, reports: Sequence[JobReport], store: Path) -> ArtifactRef:
    """Combine the learners that trained and publish the ensemble, unless the same one is there.

    Raises:
        GateError: fewer learners than the quorum trained.
        StorageError: learners are damaged; they are trained anew when the run is made again.
    """
    require_quorum(reports, run)
    trained = [(report, report.artifact) for report in reports if report.artifact is not None]
    inputs = [
        core_fingerprint(),
        ref.model_dump(exclude={"root"}),
        run.modalities,
        run.combination.model_dump(mode="json"),
        run.seed,
        [(report.name, artifact.sha256) for report, artifact in trained],
    ]
    folder = store / "ensembles" / hashlib.sha256(canonical_json(inputs).encode()).hexdigest()[:32]
    if not is_published(folder):
        dataset = open_dataset(ref)
        rows = dataset.rows("train")
        require_intact(artifact for _, artifact in trained)  # or damage would be copied under fresh checksums
        with publish_directory(folder) as place:
            conclude(
                place,
                name=ref.name,
                spec=run_spec(run, dataset),
                candidates=[_candidate(report, artifact) for report, artifact in trained],
                rows=rows,
                target=dataset.target(rows),
                available=dataset.available(rows),
                config=run.combination,
                seed=derive_seed(run.seed, "combination"),
                units=units_of(dataset.groups(rows), dataset.times(rows)),
                dataset=ref.label,
                dataset_fingerprint=ref.fingerprint,
            )
    mark_used(folder)
    return open_published(folder)


def _candidate(report: JobReport, artifact: ArtifactRef) -> Candidate:
    rows, predictions = read_out_of_bag(artifact)
    return Candidate(
        name=report.name,
        kind=report.learner,
        modalities=report.modalities,
        folder=artifact.path / "learner",
        rows=rows,
        predictions=predictions,
        score=report.score,
        team=without_fold(report.name),
    )
