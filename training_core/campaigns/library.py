"""The campaign as two function calls, for notebooks and scripts: no flow, no server, no tracker."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from training_core.artifacts import open_published
from training_core.campaigns import bagging
from training_core.campaigns.advice.gathering import gather_trainings
from training_core.campaigns.advice.insight import hold_gates
from training_core.campaigns.bagging import Plan
from training_core.campaigns.callbacks import Callback, Concluded, Narrator
from training_core.campaigns.clock import RunClock
from training_core.campaigns.dispatch import Dispatcher, Here, Launch, Outcome, TrainingOutcome
from training_core.campaigns.fitted import FittedEnsemble
from training_core.campaigns.kept_learners import keep_learners
from training_core.campaigns.run_config import RunConfig
from training_core.data.ingestion.in_memory import create_dataset_from_arrays
from training_core.data.storage.store import Dataset, DatasetStore
from training_core.errors import ConfigError, PolychoirError, TransientError
from training_core.evaluation.analytics import report_training
from training_core.evaluation.gates import ON_TEST_ROWS, GateConfig, require_gates
from training_core.isolation import ended_together, run_isolated, warm_up
from training_core.jobs import Cohort, DatasetRef, Event, Job, JobReport, Limits, OnEvent, train_here
from training_core.schema import ModalityKind, TaskKind

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_STORE = ".polychoir"
_JUST_NOW = 1.0
"""Seconds between the loading of `pc.fit_ensemble` and its call in one and the same line."""

Arrays = Mapping[str, "np.ndarray | pd.DataFrame | Sequence[str | None]"]
"""A modality by its name: an array [N, …], a data frame, or texts."""


def open_dataset(name: str, store: str | Path = DEFAULT_STORE) -> Dataset:
    """A dataset version: `name@version`, or `name` for the latest.

    Raises:
        DataError: there is none of that name; the known ones are listed.
    """
    return DatasetStore(Path(store).resolve() / "datasets").open(name)


def fit_ensemble(
    data: str | RunConfig | Dataset | Arrays,
    store: str | Path = DEFAULT_STORE,
    on_event: OnEvent = lambda event: None,
    *,
    target: Any = None,
    task: TaskKind | None = None,
    kinds: Mapping[str, ModalityKind] | None = None,
    groups: Sequence[Any] | np.ndarray | None = None,
    times: Sequence[Any] | np.ndarray | None = None,
    split: Sequence[str] | np.ndarray | Mapping[str, Any] | None = None,
    name: str = "arrays",
    source: Mapping[str, Any] | None = None,
    budget: float | Mapping[str, Any] | None = None,
    callbacks: Iterable[Callback] = (),
    processes: bool = True,
    **settings: Any,
) -> FittedEnsemble:
    """Train an ensemble; what an earlier call or run has trained is not trained again.

    Args:
        data: a dataset version (`name@version`, or `name` for its latest), the path of a SOURCE.yaml, a data set, a
            whole `RunConfig`, or arrays by modality (see `create_dataset_from_arrays`), row i being sample i.
        store: folder for datasets, learners and ensembles.
        on_event: told what happens to each learner.
        target: of arrays: classes [N], 0/1 labels [N, L], or numbers [N] or [N, K].
        task: of arrays; by default floats are a regression, a matrix of 0 and 1 is multilabel, and all else is
            classification.
        kinds: of arrays: of modalities that are not what their shape suggests, such as {"clicks": "sequence"}.
        groups: of arrays: rows of one group [N] are never torn apart.
        times: of arrays: numbers or dates [N].
        split: of arrays: train, test or validation for each row, or settings such as {"test": 0.3}. By default all
            rows are trained on, and scores are those of rows outside the bags.
        name: of arrays: what the data set is called.
        source: of arrays: further keys of a SOURCE.yaml, such as {"quality": {"quarantine": True}}.
        budget: seconds the whole call may take, or settings such as {"seconds": 60, "learners": 8}.
        callbacks: told what happens, with the time left and the leader so far.
        processes: train in processes of their own, as many as `budget.workers`. Otherwise in this one, one learner
            after the other: quicker for tiny data, but a crash is a crash, and a learner is not ended at the deadline.
        settings: fields of `RunConfig`, such as `preset="quick"` or `training={"epochs": 20}`.

    Raises:
        ConfigError: a setting is unknown or wrong, or `gates` ask for scores of test rows and there are none.
        DataError: there is no such dataset, or the arrays do not fit together.
        GateError: too few learners trained, or one of `gates` was missed; what was trained is kept all the same.
        TransientError: a learner's process died twice, and no learner was left.
    """
    began = _began()
    place = Path(store).resolve()
    limits = {"seconds": budget} if isinstance(budget, int | float) else budget
    given = {**settings, "budget": limits} if limits is not None else settings
    run = run_of(data, given)
    clock = RunClock.begin(run.budget.seconds, "library", began)
    if processes:
        warm_up()
    rows = {"kinds": kinds, "groups": groups, "times": times, "split": split, "source": source}
    run, dataset = with_dataset(run, data, place, target=target, task=task, name=name, **rows)
    _require_test_rows(run, dataset)
    if run.tune:
        from training_core.campaigns.tuning.library import tuned
        from training_core.campaigns.tuning.tuned_run import tuning_deadline, within_budget

        run = tuned(within_budget(run, clock), dataset, place, on_event, processes, tuning_deadline(clock))
    narrator = Narrator(callbacks, clock.deadline)

    def tell(event: Event) -> None:
        on_event(event)
        narrator(event)

    first = bagging.plan_survey(run, dataset)
    if first.jobs:
        narrator.planned(first)
    survey = _train(first, run, dataset, place, clock, tell, processes)
    bags = bagging.bags_of(run, dataset, bagging.measure_utilities(run, dataset, survey.reports))
    plan = bagging.plan_training(run, dataset, bags)
    narrator.planned(plan)
    trained = _train(plan, run, dataset, place, clock, tell, processes)
    trained = trained.model_copy(update={"reports": (*trained.reports, *keep_learners(run, dataset, place))})
    artifact = bagging.conclude_run(run, dataset, trained.reports, place)
    fitted = FittedEnsemble.of(artifact, run, dataset, plan, trained, clock, _classes_of(target, data))
    if clock.seconds is not None:
        clock.remember_closing(trained.closing_seconds, clock.elapsed - (trained.ended - clock.started))
    narrator.concluded(Concluded(ensemble=str(artifact.path), num_kept=len(fitted.kept), seconds=clock.elapsed))
    _hold_gates(run, dataset, trained.reports, fitted)
    return fitted


def load_ensemble(model: str | Path, store: str | Path = DEFAULT_STORE) -> FittedEnsemble:
    """An ensemble that was trained before: its folder, `models:/name/version`, or a registered name.

    Raises:
        ConfigError: there is no such model.
        StorageError: its files are damaged.
    """
    from training_core.campaigns.prediction import load_ensemble as load

    return FittedEnsemble(load(str(model), Path(store).resolve()).folder)


def _began() -> float:
    """When this call began, in seconds since the epoch: with the loading of the library, where that was just now."""
    import training_core

    now = time.time()
    loading, loaded = training_core._LOADED.get("fit_ensemble", (now, now))
    return loading if now - loaded < _JUST_NOW else now


def run_of(data: Any, settings: Mapping[str, Any]) -> RunConfig:
    """The settings of a call on anything `fit_ensemble` takes.

    Raises:
        ConfigError: a setting is unknown or wrong, or asks for a cluster.
    """
    if isinstance(data, RunConfig):
        if settings:
            names = ", ".join(settings)
            raise ConfigError(f"got a whole RunConfig and {names}; put them into it: RunConfig.load(…, {names}=…)")
        run = data
    elif isinstance(data, Dataset):
        run = RunConfig.load(dataset=data.ref, **settings)
    else:
        run = RunConfig.load(dataset="arrays" if isinstance(data, Mapping) else str(data), **settings)
    if run.executor != "processes" or run.cluster:
        raise ConfigError(
            f"`executor` is {run.executor} and `cluster` '{run.cluster}', and the library trains in processes of this "
            "machine; leave both out, or train on a cluster with `polychoir train` or the flow `train_ensemble`"
        )
    return run


def with_dataset(
    run: RunConfig,
    data: Any,
    place: Path,
    *,
    target: Any = None,
    task: TaskKind | None = None,
    kinds: Mapping[str, ModalityKind] | None = None,
    groups: Sequence[Any] | np.ndarray | None = None,
    times: Sequence[Any] | np.ndarray | None = None,
    split: Sequence[str] | np.ndarray | Mapping[str, Any] | None = None,
    name: str = "arrays",
    source: Mapping[str, Any] | None = None,
) -> tuple[RunConfig, DatasetRef]:
    """The data of a call, made when it is arrays, and the run on it; the arguments are those of `fit_ensemble`.

    Raises:
        ConfigError: arrays come without a target.
        DataError: there is no such dataset, or the arrays do not fit together.
    """
    if isinstance(data, Dataset):
        return run, _reference(data)
    if not isinstance(data, Mapping):
        return run, bagging.resolve_dataset(run.dataset, place)
    if target is None:
        raise ConfigError("arrays need a `target`: fit_ensemble({…}, target=y)")
    made = create_dataset_from_arrays(
        name,
        data,
        target,
        task=task or _task_of(target),
        store=place,
        kinds=kinds,
        groups=groups,
        times=times,
        split=split if split is not None else {"test": 0.0},
        **(source or {}),
    )
    return run.model_copy(update={"dataset": made.ref}), _reference(made)


def _require_test_rows(run: RunConfig, dataset: DatasetRef) -> None:
    """Find out before the training that a gate cannot be passed, whatever comes of it.

    Raises:
        ConfigError: it is on scores of test rows, and there are none.
    """
    asking = [f"gates.{gate}" for gate in ON_TEST_ROWS if getattr(run.gates, gate) is not None]
    if asking and not len(bagging.open_dataset(dataset).rows("test")):
        raise ConfigError(
            f"`{asking[0]}` is held against test rows, and {dataset.label} has none; keep some back, for arrays with "
            'split={"test": 0.2}'
        )


def _hold_gates(run: RunConfig, dataset: DatasetRef, reports: Sequence[JobReport], fitted: FittedEnsemble) -> None:
    """Hold a run's gates, where it has any, against what came of it.

    Raises:
        GateError: one was missed.
    """
    if run.gates == GateConfig():
        return
    report, data = report_training(gather_trainings(reports)), bagging.open_dataset(dataset)
    require_gates(hold_gates(run.gates, data, report, fitted.judgement, open_published(fitted.folder)))


def _reference(dataset: Dataset) -> DatasetRef:
    """A data set by reference, in whichever store it is."""
    return DatasetRef(
        root=str(dataset.path.parents[1].resolve()),
        name=dataset.name,
        version=dataset.version,
        fingerprint=dataset.fingerprint,
    )


def _train(
    plan: Plan,
    run: RunConfig,
    dataset: DatasetRef,
    store: Path,
    clock: RunClock,
    on_event: OnEvent,
    processes: bool,
) -> TrainingOutcome:
    """Train all groups of a plan; see `Dispatcher.train`."""
    dispatcher = Dispatcher(plan, run, dataset, store, clock)

    def tell(event: Event) -> None:
        on_event(event)
        dispatcher.on_event(event)

    def here(jobs: Sequence[Job], limits: Limits) -> list[JobReport]:
        return train_here(jobs, store, tell, limits, run.profile)

    with launching(run, store, tell, processes) as launch:
        return dispatcher.train(launch, here, on_event)


@contextmanager
def launching(run: RunConfig, store: Path, on_event: OnEvent, processes: bool) -> Iterator[Launch]:
    """Within the block groups can be trained: in processes of their own, or else at once in this one.

    When the block raises, the processes that still train are ended.
    """
    if not processes:
        yield _in_this_process(lambda jobs, limits: train_here(jobs, store, on_event, limits, run.profile))
        return
    with ThreadPoolExecutor(bagging.num_workers(run)) as pool, ended_together():

        def launch(cohort: Cohort, limits: Limits, done: Callable[[Outcome], None]) -> None:
            def ended(future: Future[list[JobReport]]) -> None:
                if not future.cancelled():
                    done(future.exception() or future.result())

            group = (cohort, store, on_event, limits, run.profile)
            pool.submit(copy_context().run, _isolated, *group).add_done_callback(ended)

        try:
            yield launch
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _isolated(cohort: Cohort, store: Path, tell: OnEvent, limits: Limits, profile: bool) -> list[JobReport]:
    """Train a group in a process of its own; once more when that died."""
    try:
        return run_isolated(cohort, store, tell, limits, profile)
    except TransientError:
        return run_isolated(cohort, store, tell, limits, profile)


def _in_this_process(here: Here) -> Launch:
    """Trains a group at once."""

    def launch(cohort: Cohort, limits: Limits, done: Callable[[Outcome], None]) -> None:
        try:
            done(list(here(cohort.jobs, limits)))
        except PolychoirError as error:
            done(error)

    return launch


def _task_of(target: Any) -> TaskKind:
    """What a target asks for, by its type and shape."""
    values = np.asarray(target)
    if values.ndim == 2 and values.shape[1] > 1:
        return "multilabel" if np.isin(values, (0, 1)).all() else "regression"
    return "regression" if values.dtype.kind == "f" else "classification"


def _classes_of(target: Any, data: Any) -> np.ndarray | None:
    """The distinct values of a target of arrays, as they were given."""
    if target is None or not isinstance(data, Mapping):
        return None
    values = np.asarray(target)
    return np.unique(values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values) if values.size else None
